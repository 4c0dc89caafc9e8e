//! What the sink makes of a server that dies, hangs, or has no JetStream.

use std::time::{Duration, Instant};

use futures::future::join_all;
use outbox_relay::error::Meaning;
use outbox_relay::sink::Message;
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::jetstream::{JetstreamSink, connect, probe};
use tokio::time::timeout;

use super::config::{config, context, with_stream};
use super::scripted::{Answer, ScriptedServer};
use super::{connected, message, publish, refusal, stored};
use crate::support::nats::PrivateNats;
use crate::support::private_server::PrivateServer;

/// Well below the five seconds that a client's own timeout would take.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Publishes until it succeeds; every failure on the way must be an outage.
async fn publish_through_outage(sink: &JetstreamSink, message: &Message) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = publish(sink, message.clone()).await {
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
        assert!(Instant::now() < deadline, "still {}", error.chain());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_server_fails_all_in_flight_at_once_and_its_return_is_noticed() {
    let mut server = PrivateNats::start("").await;
    let sink = connected(&with_stream(&server, "DRAFT", "draft.>")).await;
    let messages: Vec<Message> = (0..200).map(|_| message("draft.a", 100)).collect();
    server.freeze().await;
    let calls = messages
        .iter()
        .map(|message| publish(&sink, message.clone()));
    let mut in_flight = Box::pin(join_all(calls));
    assert!(futures::poll!(&mut in_flight).is_pending());
    // The connection's task writes them to the socket.
    tokio::task::yield_now().await;
    server.kill().await;
    let results = timeout(AT_ONCE, in_flight).await.expect("nobody waits");
    assert_eq!(results.len(), 200);
    for result in results {
        let error = result.expect_err("nobody acknowledged");
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
    }

    let attempt = refusal(&sink, messages[0].clone());
    let (meaning, chain) = timeout(AT_ONCE, attempt).await.expect("fails at once");
    assert_eq!(meaning, Meaning::Unavailable, "{chain}");

    server.start_again().await;
    for message in &messages {
        publish_through_outage(&sink, message).await;
    }
    assert_eq!(stored(&server, "DRAFT").await, 200);
}

#[tokio::test]
async fn publishes_to_a_hanging_server_can_be_given_up() {
    let server = PrivateNats::start("").await;
    let sink = connected(&with_stream(&server, "DRAFT", "draft.>")).await;
    let messages: Vec<Message> = (0..50).map(|_| message("draft.a", 100)).collect();
    server.freeze().await;
    let attempt = join_all(
        messages
            .iter()
            .map(|message| publish(&sink, message.clone())),
    );
    timeout(Duration::from_millis(200), attempt)
        .await
        .expect_err("a frozen server acknowledges nothing");
    server.thaw();
    for message in &messages {
        publish_through_outage(&sink, message).await;
    }
    assert_eq!(
        stored(&server, "DRAFT").await,
        50,
        "what was written late is dropped as a repetition"
    );
}

#[tokio::test]
async fn without_jetstream_nothing_is_rejected() {
    let server = PrivateNats::without_jetstream().await;
    let sink = connected(&config(&server)).await;
    let (meaning, chain) = refusal(&sink, message("draft.a", 1)).await;
    assert_eq!(meaning, Meaning::Unavailable, "{chain}");
    assert!(chain.contains("JetStream does not answer"), "{chain}");
    let config = with_stream(&server, "DRAFT", "draft.>");
    for result in [
        connect(&config, "test").await.map(drop),
        probe(&config).await.map(drop),
    ] {
        let error = result.expect_err("no JetStream");
        assert!(
            matches!(error, ConnectError::Unavailable { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_vanished_is_created_again() {
    let mut server = PrivateNats::start("").await;
    let mut config = with_stream(&server, "DRAFT", "draft.>");
    config.stream.as_mut().expect("a stream").file_storage = false;
    let sink = connected(&config).await;
    publish(&sink, message("draft.a", 1))
        .await
        .expect("acknowledged");
    context(&server)
        .await
        .delete_stream("DRAFT")
        .await
        .expect("delete it");
    publish_through_outage(&sink, &message("draft.a", 1)).await;
    assert_eq!(stored(&server, "DRAFT").await, 1);
    server.kill().await;
    server.start_again().await;
    publish_through_outage(&sink, &message("draft.a", 1)).await;

    let (meaning, chain) = refusal(&sink, message("other", 1)).await;
    assert_eq!(meaning, Meaning::Rejected, "only its own subjects: {chain}");
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_worth_another_attempt() {
    let mut server = PrivateNats::start("").await;
    let config = config(&server);
    server.kill().await;
    let error = connect(&config, "test").await.expect_err("nobody listens");
    assert!(error.is_transient(), "{error:?}");
    server.start_again().await;
    connected(&config).await;
}

#[tokio::test]
async fn an_outage_of_jetstream_costs_one_question() {
    let server = ScriptedServer::start(Answer::Nobody).await;
    let sink = connected(&server.config()).await;
    let calls = (0..500).map(|n| refusal(&sink, message(&format!("draft.{n}"), 1)));
    for (meaning, chain) in join_all(calls).await {
        assert_eq!(meaning, Meaning::Unavailable, "{chain}");
    }
    let subjects = server.subjects();
    let questions = subjects
        .iter()
        .filter(|subject| subject.starts_with("$JS.API."))
        .count();
    assert_eq!(questions, 1, "of {} messages", subjects.len());
}

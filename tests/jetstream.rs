//! The JetStream sink against a real nats-server.

#[path = "jetstream/access.rs"]
mod access;
#[path = "jetstream/config.rs"]
mod config;
#[path = "jetstream/outage.rs"]
mod outage;
#[path = "jetstream/scripted.rs"]
mod scripted;

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use outbox_relay::config::Jetstream;
use outbox_relay::error::{Meaning, PublishError};
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::jetstream::{JetstreamSink, connect, probe};
use outbox_relay::sink::{Destination, Message};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support;
use crate::support::nats::PrivateNats;
use config::{config, context, create, with_stream};
use scripted::{Answer, ScriptedServer};

/// A message with a body of `size` bytes and a fresh id.
fn message(subject: &str, size: usize) -> Message {
    support::message::message(Destination::Name(subject.into()), size)
}

async fn publish(sink: &JetstreamSink, message: Message) -> Result<(), PublishError> {
    // In the pipeline the timeout layer does this.
    timeout(Duration::from_secs(20), sink.clone().oneshot(message))
        .await
        .expect("an answer in time")
}

/// The meaning of a publish that must fail, with its text.
async fn refusal(sink: &JetstreamSink, message: Message) -> (Meaning, String) {
    let error = publish(sink, message).await.expect_err("a refusal");
    (error.meaning(), error.chain())
}

async fn connected(config: &Jetstream) -> JetstreamSink {
    connect(config, "outbox-relay/test")
        .await
        .expect("connect the sink")
}

async fn stored(server: &PrivateNats, stream: &str) -> u64 {
    let mut stream = context(server)
        .await
        .get_stream(stream)
        .await
        .expect("the stream");
    stream.info().await.expect("its state").state.messages
}

#[tokio::test]
async fn a_consumer_sees_body_id_and_headers() {
    let server = PrivateNats::start("").await;
    let sink = connected(&with_stream(&server, "DRAFT", "draft.>")).await;
    let mut sent = message("draft.picks.42", 10);
    sent.headers
        .push(("traceparent".into(), "00-ab-cd-01".into()));
    sent.headers.push(("name".into(), "Zoë".into()));
    publish(&sink, sent.clone()).await.expect("acknowledged");

    let stream = context(&server)
        .await
        .get_stream("DRAFT")
        .await
        .expect("created at connect");
    let consumer = stream
        .create_consumer(async_nats::jetstream::consumer::pull::Config::default())
        .await
        .expect("a consumer");
    let mut messages = consumer.messages().await.expect("a subscription");
    let seen = messages.try_next().await.expect("a message").expect("one");
    assert_eq!(seen.subject.as_str(), "draft.picks.42");
    assert_eq!(seen.payload, sent.body);
    let headers = seen.headers.as_ref().expect("headers");
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(header("Nats-Msg-Id"), Some(sent.id().to_string()));
    assert_eq!(header("event_type").as_deref(), Some("PickMade"));
    assert_eq!(header("traceparent").as_deref(), Some("00-ab-cd-01"));
    assert_eq!(header("name").as_deref(), Some("Zoë"));
}

#[tokio::test]
async fn a_repetition_is_acknowledged_and_stored_once() {
    let server = PrivateNats::start("").await;
    let sink = connected(&with_stream(&server, "DRAFT", "draft.>")).await;
    let sent = message("draft.a", 10);
    for _ in 0..3 {
        publish(&sink, sent.clone()).await.expect("acknowledged");
    }
    assert_eq!(stored(&server, "DRAFT").await, 1);
}

#[tokio::test]
async fn what_the_broker_refuses_is_rejected_and_disturbs_nothing_else() {
    let server = PrivateNats::start("max_payload: 4096").await;
    let mut config = with_stream(&server, "DRAFT", "draft.>");
    config.expected_stream = Some("DRAFT".into());
    let sink = connected(&config).await;
    let other = Config {
        name: "OTHER".into(),
        subjects: vec!["other".into()],
        ..Config::default()
    };
    create(&server, other).await;

    let cases = [
        (
            message("nobody.cares", 10),
            Meaning::Rejected,
            "no JetStream stream captures the subject nobody.cares",
        ),
        (message("draft.a", 4096), Meaning::Rejected, "max_payload"),
        (message("other", 10), Meaning::Rejected, "10060"),
        (message("draft.a b", 10), Meaning::Invalid, "space"),
        (message("draft.*", 10), Meaning::Invalid, "wildcard"),
        (
            Message {
                destination: Destination::Implicit,
                ..message("", 1)
            },
            Meaning::Invalid,
            "subject",
        ),
        (
            Message {
                headers: vec![("Nats-Rollup".into(), "all".into())],
                ..message("draft.a", 1)
            },
            Meaning::Invalid,
            "Nats-Rollup",
        ),
    ];
    for (message, meaning, text) in cases {
        let (found, chain) = refusal(&sink, message).await;
        assert_eq!(found, meaning, "{chain}");
        assert!(chain.contains(text), "{chain}");
        publish(&sink, message_of_longest_subject())
            .await
            .expect("the connection lives");
    }
    assert_eq!(stored(&server, "OTHER").await, 0);
}

/// Why one event of a key at a time is on its way: stopping at the first failure comes too late.
#[tokio::test]
async fn what_was_sent_behind_a_refused_message_is_stored_all_the_same() {
    const BEHIND: u64 = 100;
    let server = PrivateNats::start("").await;
    let small = Config {
        name: "SMALL".into(),
        subjects: vec!["small".into()],
        max_message_size: 1_024,
        ..Config::default()
    };
    create(&server, small).await;
    let sink = connected(&config(&server)).await;
    let behind = (0..BEHIND).map(|_| publish(&sink, message("small", 10)));
    let (refused, behind) = tokio::join!(publish(&sink, message("small", 5_000)), join_all(behind));
    assert!(refused.is_err(), "larger than the stream takes");
    assert!(behind.iter().all(Result::is_ok));
    assert_eq!(stored(&server, "SMALL").await, BEHIND);
}

/// The longest subject that the sink lets through must not exceed the server's longest line.
fn message_of_longest_subject() -> Message {
    message(&format!("draft.{}", "x".repeat(2_048 - "draft.".len())), 10)
}

#[tokio::test]
async fn a_full_stream_pushes_back() {
    let server = PrivateNats::start("").await;
    let full = Config {
        name: "FULL".into(),
        subjects: vec!["full".into()],
        max_messages: 1,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    let stream = create(&server, full).await;
    let sink = connected(&config(&server)).await;
    publish(&sink, message("full", 1))
        .await
        .expect("there is room for one");
    let waiting = message("full", 1);
    let (meaning, chain) = refusal(&sink, waiting.clone()).await;
    assert_eq!(meaning, Meaning::Busy, "{chain}");
    assert!(chain.contains("maximum messages exceeded"), "{chain}");
    stream.purge().await.expect("make room");
    publish(&sink, waiting).await.expect("there is room again");

    let full = Config {
        name: "SUBJECTS".into(),
        subjects: vec!["each.*".into()],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        ..Config::default()
    };
    create(&server, full).await;
    publish(&sink, message("each.a", 1)).await.expect("one");
    let (meaning, chain) = refusal(&sink, message("each.a", 1)).await;
    assert_eq!(meaning, Meaning::Busy, "{chain}");
    assert!(chain.contains("each.a"), "{chain}");
    publish(&sink, message("each.b", 1))
        .await
        .expect("another subject has room");
}

#[tokio::test]
async fn a_stream_that_is_there_is_left_as_it_is() {
    let server = PrivateNats::start("").await;
    let config = with_stream(&server, "DRAFT", "draft.>");
    assert!(
        findings(&config)
            .await
            .contains("is not there: it will be created")
    );
    let existing = Config {
        name: "DRAFT".into(),
        subjects: vec!["draft.*".into()],
        ..Config::default()
    };
    let context = context(&server).await;
    context.create_stream(existing).await.expect("a stream");
    connected(&config).await;
    let kept = context.get_stream("DRAFT").await.expect("the stream");
    assert_eq!(kept.cached_info().config.subjects, ["draft.*"]);
    assert!(findings(&config).await.contains("does not capture draft.>"));

    let overlapping = with_stream(&server, "OTHER", "draft.>");
    let error = connect(&overlapping, "test")
        .await
        .expect_err("subjects overlap");
    assert!(
        matches!(error, ConnectError::Config { key: "stream", .. }),
        "{error:?}"
    );
    let mut cluster = with_stream(&server, "R3", "r3");
    cluster.stream.as_mut().expect("a stream").replicas = 3;
    let error = connect(&cluster, "test")
        .await
        .expect_err("one server has no replicas");
    assert!(
        matches!(error, ConnectError::Config { key: "stream", .. }),
        "{error:?}"
    );
}

async fn findings(config: &Jetstream) -> String {
    probe(config).await.expect("probe").join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_publishes_is_in_flight_at_once() {
    const COUNT: usize = 5_000;
    const WINDOW: usize = 1_024;
    let server = PrivateNats::start("").await;
    let sink = connected(&with_stream(&server, "DRAFT", "draft.>")).await;
    let messages: Vec<Message> = (0..COUNT)
        .map(|_| message("draft.picks.42", 1_024))
        .collect();
    let begun = Instant::now();
    stream::iter(messages)
        .map(|message| publish(&sink, message))
        .buffer_unordered(WINDOW)
        .try_collect::<Vec<()>>()
        .await
        .expect("all acknowledged");
    let elapsed = begun.elapsed();
    #[allow(
        clippy::print_stdout,
        reason = "a figure for whoever reads the test's output"
    )]
    {
        let rate = f64::from(u32::try_from(COUNT).expect("small")) / elapsed.as_secs_f64();
        println!("{COUNT} acknowledged in {elapsed:?}, window {WINDOW}: {rate:.0} per second");
    }
    assert_eq!(stored(&server, "DRAFT").await, COUNT as u64);
}

#[tokio::test]
async fn publishes_do_not_wait_for_each_other() {
    const COUNT: usize = 3_000;
    let mut server = ScriptedServer::start(Answer::Silence).await;
    let sink = connected(&server.config()).await;
    let calls = (0..COUNT).map(|_| publish(&sink, message("draft.a", 10)));
    let mut calls = std::pin::pin!(futures::future::join_all(calls));
    // Not one is acknowledged, and still all arrive: more than the client queues, too.
    tokio::select! {
        _ = &mut calls => panic!("acknowledged by nobody"),
        arrived = timeout(Duration::from_secs(20), server.arrived(COUNT)) => arrived.expect("all arrive"),
    }
}

#[tokio::test]
async fn a_stream_is_not_created_where_another_captures_its_subjects() {
    let server = PrivateNats::start("").await;
    let existing = Config {
        name: "EVERYTHING".into(),
        subjects: vec!["draft.>".into(), "audit.>".into()],
        ..Config::default()
    };
    let context = context(&server).await;
    context.create_stream(existing).await.expect("a stream");
    let config = with_stream(&server, "DRAFT", "draft.*");
    let found = findings(&config).await;
    assert!(
        found.contains("EVERYTHING captures its subjects, so none will be created"),
        "{found}"
    );
    let sink = connected(&config).await;
    publish(&sink, message("draft.a", 1))
        .await
        .expect("acknowledged");
    assert_eq!(stored(&server, "EVERYTHING").await, 1);
    context.get_stream("DRAFT").await.expect_err("not created");
}

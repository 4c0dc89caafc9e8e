//! The core NATS sink: what its confirmations are worth. An acknowledged event is with everybody who was subscribed.

mod relay;
pub(crate) mod subscriber;
mod wire;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, stream};
use outbox_relay::config::{Contents, Nats, NatsAuth, Secret};
use outbox_relay::error::{Meaning, PublishError};
use outbox_relay::sink::nats::{NatsSink, connect, probe};
use outbox_relay::sink::{Destination, Message};
use tokio::time::timeout;
use tower::ServiceExt;
use uuid::Uuid;

use self::subscriber::Subscriber;
use self::wire::Wire;
use crate::support;
use crate::support::nats::PrivateNats;
use crate::support::private_server::PrivateServer;
use crate::support::report::report;

/// Messages in flight at once, as a pipeline has them.
const WINDOW: usize = 1_024;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(url: &str) -> Nats {
    Nats {
        servers: vec![Secret::new(url)],
        auth: NatsAuth::None,
        tls: None,
    }
}

async fn connected(url: &str) -> NatsSink {
    connect(&config(url), "outbox-relay/test")
        .await
        .expect("connect the sink")
}

/// A message with a body of `size` bytes and a fresh id.
fn message(subject: &str, size: usize) -> Message {
    support::message::message(Destination::Name(subject.into()), size)
}

async fn publish(sink: &NatsSink, message: Message) -> Result<(), PublishError> {
    // In the pipeline the timeout layer does this.
    timeout(PATIENCE, sink.clone().oneshot(message))
        .await
        .expect("an answer in time")
}

fn ids(messages: &[Message]) -> HashSet<Uuid> {
    messages.iter().map(Message::id).collect()
}

#[tokio::test]
async fn a_subscriber_sees_body_id_and_headers() {
    let server = PrivateNats::start("").await;
    let subscriber = Subscriber::start(&server.url(), "draft.>").await;
    let sink = connected(&server.url()).await;
    let mut sent = message("draft.picks.42", 10);
    sent.headers.push(("name".into(), "Zoë".into()));
    publish(&sink, sent.clone()).await.expect("confirmed");
    subscriber
        .await_ids(&HashSet::from([sent.id()]), PATIENCE)
        .await;
    let heard = subscriber.heard();
    assert_eq!(
        (heard.len(), heard[0].subject.as_str()),
        (1, "draft.picks.42")
    );
    assert_eq!(heard[0].body, sent.body);
    assert_eq!(heard[0].header("event_type"), Some("PickMade"));
    assert_eq!(heard[0].header("name"), Some("Zoë"));
    // Where nobody listens the server takes it all the same: that is all that core NATS promises.
    publish(&sink, message("nobody.cares", 1))
        .await
        .expect("confirmed");
    let findings = probe(&config(&server.url())).await.expect("it is there");
    assert!(
        findings[0].starts_with("connected to NATS server"),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_frozen_server_confirms_nothing() {
    const COUNT: usize = 600;
    let server = PrivateNats::start("").await;
    let subscriber = Subscriber::start(&server.url(), "draft.>").await;
    let sink = connected(&server.url()).await;
    let plain = async_nats::connect(server.url()).await.expect("connect");
    let messages: Vec<Message> = (0..COUNT).map(|_| message("draft.a", 100)).collect();
    server.freeze().await;

    let calls = messages
        .iter()
        .map(|message| publish(&sink, message.clone()));
    let mut calls = std::pin::pin!(join_all(calls));
    // What a flush says to the same: why there are fences.
    let flushes = async {
        let mut believed = 0;
        for _ in 0..COUNT {
            plain
                .publish("elsewhere", "x".into())
                .await
                .expect("queued");
            believed += usize::from(plain.flush().await.is_ok());
        }
        believed
    };
    let believed = tokio::select! {
        results = &mut calls => panic!("a frozen server has answered: {:?}", results[0]),
        believed = timeout(PATIENCE, flushes) => believed.expect("flushes wait for nobody"),
    };
    report!("frozen server: {believed} of {COUNT} flushes succeed, and no fence comes back");
    assert_eq!(believed, COUNT);

    server.thaw();
    for result in calls.await {
        result.expect("confirmed as soon as it goes on");
    }
    subscriber.await_ids(&ids(&messages), PATIENCE).await;
}

#[tokio::test]
async fn a_killed_server_fails_all_in_flight_at_once_and_its_return_is_noticed() {
    let mut server = PrivateNats::start("").await;
    let sink = connected(&server.url()).await;
    server.freeze().await;
    let messages: Vec<Message> = (0..200).map(|_| message("draft.a", 100)).collect();
    let calls = messages
        .iter()
        .map(|message| publish(&sink, message.clone()));
    let mut calls = Box::pin(join_all(calls));
    assert!(futures::poll!(&mut calls).is_pending());
    server.kill().await;
    for result in calls.await {
        let error = result.expect_err("nobody confirmed");
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
    }
    server.start_again().await;
    let subscriber = Subscriber::start(&server.url(), "draft.>").await;
    for message in &messages {
        publish_through_outage(&sink, message).await;
    }
    subscriber.await_ids(&ids(&messages), PATIENCE).await;
}

/// Publishes until it succeeds; every failure on the way must be an outage.
async fn publish_through_outage(sink: &NatsSink, message: &Message) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = publish(sink, message.clone()).await {
        assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
        assert!(Instant::now() < deadline, "still {}", error.chain());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The subscriber stays connected, the sink's connection is cut again and again, with messages and fences on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_confirmed_over_a_connection_that_breaks_has_arrived() {
    const COUNT: usize = 20_000;
    const CUTS: usize = 20;
    let server = PrivateNats::start("").await;
    let subscriber = Subscriber::start(&server.url(), "draft.>").await;
    let wire = Wire::to(server.port).await;
    let sink = connected(&wire.url()).await;
    let messages: Vec<Message> = (0..COUNT).map(|_| message("draft.a", 512)).collect();
    let load = stream::iter(&messages)
        .map(|message| publish_through_outage(&sink, message))
        .buffer_unordered(WINDOW)
        .collect::<Vec<()>>();
    let cuts = async {
        for cut in 1..=CUTS {
            let enough = subscriber.heard().len() + COUNT / CUTS / 2;
            let passed = || subscriber.heard().len() >= enough.min(COUNT);
            while !passed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wire.cut();
            if subscriber.ids().len() == COUNT {
                return cut;
            }
        }
        CUTS
    };
    let (_, cuts) = tokio::join!(load, timeout(PATIENCE * 2, cuts));
    // Whatever was confirmed had been handed on before that, and the subscriber reads what it was handed.
    subscriber.await_ids(&ids(&messages), PATIENCE).await;
    let heard = subscriber.heard().len();
    report!("{cuts:?} cuts: {COUNT} confirmed, {heard} heard");
}

#[tokio::test]
async fn what_the_server_refuses_is_rejected_and_disturbs_nothing_else() {
    let server = PrivateNats::start("max_payload: 4096").await;
    let sink = connected(&server.url()).await;
    let order = ("Nats-Rollup".to_owned(), "all".to_owned());
    let cases = [
        (message("draft.a", 4096), Meaning::Rejected, "max_payload"),
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
                headers: vec![order],
                ..message("draft.a", 1)
            },
            Meaning::Invalid,
            "Nats-Rollup",
        ),
    ];
    for (refused, meaning, text) in cases {
        let error = publish(&sink, refused).await.expect_err("a refusal");
        assert_eq!(error.meaning(), meaning, "{}", error.chain());
        assert!(error.chain().contains(text), "{}", error.chain());
        let longest = format!("draft.{}", "x".repeat(2_048 - "draft.".len()));
        let others = publish(&sink, message(&longest, 10)).await;
        others.expect("the connection lives");
    }
}

/// A user who may publish to `draft.>` and to inboxes, and what comes of everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_permissions_forbid_is_never_confirmed() {
    let server = PrivateNats::start(
        "authorization { users: [
            { user: relay, password: p, permissions: { publish: [\"draft.>\", \"_INBOX.>\"], subscribe: \"_INBOX.>\" } }
            { user: mute, password: p, permissions: { publish: \"draft.>\", subscribe: \"_INBOX.>\" } } ] }",
    )
    .await;
    let url = server.url().replace("nats://", "nats://relay:p@");
    let sink = connected(&url).await;
    for round in 0..200 {
        // The forbidden one is last before the fence, where its refusal is most likely to be overtaken.
        let calls = (0..5).map(|n| {
            let forbidden = n == 4;
            let subject = if forbidden {
                "audit.Log\\é\""
            } else {
                "draft.a"
            };
            let sink = sink.clone();
            tokio::spawn(async move { (forbidden, publish(&sink, message(subject, 1)).await) })
        });
        for ended in join_all(calls).await {
            let (forbidden, result) = ended.expect("no panic");
            let meaning = result.as_ref().err().map(PublishError::meaning);
            let expected = forbidden.then_some(Meaning::Rejected);
            assert_eq!(meaning, expected, "round {round}: {result:?}");
        }
    }
    // More refusals than the client queues: some are dropped, and still nothing is taken for confirmed.
    let messages: Vec<Message> = (0..600)
        .map(|n| message(&format!("audit.{n}"), 1))
        .collect();
    let results = join_all(messages.into_iter().map(|message| publish(&sink, message))).await;
    let confirmed = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(confirmed, 0);
    // The next fence may still be in doubt.
    publish_through_outage(&sink, &message("draft.a", 1)).await;

    let mute = server.url().replace("nats://", "nats://mute:p@");
    let error = connect(&config(&mute), "test").await.expect_err("no fence");
    assert!(error.to_string().contains("_INBOX.>"), "{error}");
}

/// What is sent while a fence is under way waits for the next one, however long that takes.
#[tokio::test]
async fn one_fence_confirms_many_messages() {
    const COUNT: usize = 600;
    let server = PrivateNats::start("").await;
    let fences = Subscriber::start(&server.url(), "_INBOX.>").await;
    let sink = connected(&server.url()).await;
    server.freeze().await;
    let calls = (0..COUNT).map(|_| publish(&sink, message("draft.a", 100)));
    let mut calls = std::pin::pin!(join_all(calls));
    timeout(Duration::from_millis(500), &mut calls)
        .await
        .expect_err("a frozen server answers nothing");
    server.thaw();
    assert!(calls.await.iter().all(Result::is_ok));
    let fences = fences.heard().len();
    report!("{COUNT} confirmed by {fences} fences");
    assert!(fences * 10 < COUNT, "{fences} fences");
}

/// A user whose JWT allows 1,024 bytes at a time, on a server that says that it takes 1 MiB. It closes the connection.
#[tokio::test]
async fn a_message_larger_than_its_user_may_send_is_told_from_an_outage() {
    const OPERATOR: &str = include_str!("jetstream/operator/server.conf");
    let server = PrivateNats::start(OPERATOR).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jetstream/operator");
    let creds = NatsAuth::Credentials(folder.join("small.creds"), Contents::default());
    let config = Nats {
        auth: creds,
        ..config(&server.url())
    };
    let sink = connect(&config, "outbox-relay/test")
        .await
        .expect("connect the sink");
    let large = message("draft.large", 100_000);
    let mut outages = 0;
    let error = loop {
        let others = (0..50).map(|_| publish(&sink, message("draft.small", 500)));
        let (refused, others) = tokio::join!(publish(&sink, large.clone()), join_all(others));
        for error in others.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(error.meaning(), Meaning::Unavailable, "{}", error.chain());
        }
        let error = refused.expect_err("more than the user may send");
        if error.meaning() == Meaning::Invalid {
            break error;
        }
        outages += 1;
        assert!(outages < 1_000, "still {}", error.chain());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        error.chain().contains("lets this user send"),
        "{}",
        error.chain()
    );
}

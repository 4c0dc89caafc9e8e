//! The RabbitMQ sink against a real broker.

#[path = "rabbitmq/outage.rs"]
mod outage;
#[path = "rabbitmq/relay.rs"]
mod relay;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use outbox_relay::config::{DestinationTemplate, Rabbitmq, RabbitmqDeclare, Secret};
use outbox_relay::error::{Meaning, PublishError};
use outbox_relay::route::Template;
use outbox_relay::sink::connect::ConnectError;
use outbox_relay::sink::rabbitmq::{RabbitmqSink, connect, probe};
use outbox_relay::sink::{Destination, Message};
use tokio::time::timeout;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support;
use crate::support::rabbitmq::{self, Broker, unique};

/// A sink's configuration for the broker at this URL, as guest.
fn config(url: &str) -> Rabbitmq {
    let address = url.strip_prefix("amqp://").expect("an AMQP URL");
    let (host, port) = address.split_once(':').expect("a host and a port");
    Rabbitmq {
        host: host.to_owned(),
        port: port.parse().expect("a port"),
        encrypted: false,
        vhost: "/".to_owned(),
        user: "guest".to_owned(),
        password: Secret::new("guest"),
        tls: None,
        declare: RabbitmqDeclare::default(),
    }
}

fn shared() -> Rabbitmq {
    config(&rabbitmq::shared())
}

async fn connected(config: &Rabbitmq) -> RabbitmqSink {
    connect(config, "outbox-relay/test")
        .await
        .expect("connect the sink")
}

/// A message with a body of `size` bytes and a fresh id.
fn message(exchange: &str, routing_key: &str, size: usize) -> Message {
    let destination = Destination::Exchange {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
    };
    support::message::message(destination, size)
}

async fn publish(sink: &RabbitmqSink, message: Message) -> Result<(), PublishError> {
    // In the pipeline the timeout layer does this.
    timeout(Duration::from_secs(30), sink.clone().oneshot(message))
        .await
        .expect("an answer in time")
}

/// The meaning of a publish that must fail, with its text.
async fn refusal(sink: &RabbitmqSink, message: Message) -> (Meaning, String) {
    let error = publish(sink, message).await.expect_err("a refusal");
    (error.meaning(), error.chain())
}

#[tokio::test]
async fn a_consumer_sees_properties_headers_and_body() {
    let broker = Broker::shared().await;
    let queue = broker.queue("quorum").await;
    let sink = connected(&shared()).await;
    let mut sent = message("", &queue, 10);
    sent.headers
        .push(("content-type".into(), "application/json".into()));
    sent.headers.push(("name".into(), "Zoë".into()));
    publish(&sink, sent.clone()).await.expect("taken");

    let delivery = broker
        .await_len(&queue, 1, Duration::from_secs(5))
        .await
        .remove(0);
    assert_eq!(delivery.id, sent.id());
    assert_eq!(delivery.body, sent.body);
    assert_eq!(
        (delivery.exchange.as_str(), &delivery.routing_key),
        ("", &queue)
    );
    let properties = &delivery.properties;
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    let seconds = sent.event.created_at.timestamp();
    assert_eq!(*properties.timestamp(), u64::try_from(seconds).ok());
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.kind()).as_deref(), Some("PickMade"));
    let content_type = text(properties.content_type());
    assert_eq!(content_type.as_deref(), Some("application/json"));
    let headers = delivery.headers();
    assert_eq!(headers["event_type"], "PickMade");
    assert_eq!(headers["name"], "Zoë");
    assert_eq!(headers.len(), 2, "{headers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_20000_messages_1_in_7_unroutable_every_one_is_judged_right() {
    const COUNT: usize = 20_000;
    const WINDOW: usize = 1_024;
    let broker = Broker::shared().await;
    let exchange = broker.exchange().await;
    // A queue that is quick to confirm and one that is slow, so that confirms come out of order.
    for (kind, key) in [("quorum", "quorum"), ("classic", "classic")] {
        let queue = broker.queue(kind).await;
        broker.bind(&queue, &exchange, key).await;
    }
    let sink = connected(&shared()).await;
    let results: Vec<(usize, Result<(), PublishError>)> = stream::iter(0..COUNT)
        .map(|n| {
            let key = match n {
                n if n % 7 == 0 => "nobody",
                n if n % 2 == 0 => "quorum",
                _ => "classic",
            };
            let message = message(&exchange, key, 200);
            let sink = &sink;
            async move { (n, publish(sink, message).await) }
        })
        .buffer_unordered(WINDOW)
        .collect()
        .await;
    assert_eq!(results.len(), COUNT);
    for (n, result) in results {
        match result {
            Ok(()) => assert_ne!(n % 7, 0, "{n} was unroutable"),
            Err(error) => {
                assert_eq!(n % 7, 0, "{n}: {}", error.chain());
                assert_eq!(error.meaning(), Meaning::Rejected, "{}", error.chain());
                assert!(error.chain().contains("NO_ROUTE"), "{}", error.chain());
            }
        }
    }
}

/// Publishes until the broker itself has answered.
async fn asked(sink: &RabbitmqSink, message: &Message) -> Result<(), PublishError> {
    loop {
        match publish(sink, message.clone()).await {
            Err(error) if error.meaning() == Meaning::Busy => {
                assert!(
                    error.chain().contains("another message"),
                    "{}",
                    error.chain()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

/// A header that is an order to RabbitMQ, as text, would close the channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_rabbitmq_reads_is_told_at_once_and_harms_no_other() {
    let broker = Broker::shared().await;
    let (queue, other) = (broker.queue("classic").await, broker.queue("classic").await);
    let exchange = broker.exchange().await;
    broker.bind(&queue, &exchange, "k").await;
    let sink = connected(&shared()).await;
    let publishes = (0..400).map(|n| {
        let mut message = message(&exchange, "k", 10);
        let name = match n % 40 {
            0 => Some("CC"),
            1 => Some("BCC"),
            2 => Some("cc"),
            _ => None,
        };
        let header = name.map(|name| (name.to_owned(), other.clone()));
        message.headers.extend(header);
        let sink = &sink;
        async move { (n, publish(sink, message).await) }
    });
    for (n, result) in futures::future::join_all(publishes).await {
        match (n % 40, result) {
            (0 | 1, Err(error)) => {
                assert_eq!(error.meaning(), Meaning::Invalid, "{}", error.chain());
                assert!(error.chain().contains("CC"), "{}", error.chain());
            }
            (2.., Ok(())) => {}
            (_, result) => panic!("{n}: {result:?}"),
        }
    }
    assert_eq!(broker.len(&queue).await, 380);
    assert_eq!(broker.len(&other).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_rejects_its_own_and_no_other() {
    const COUNT: usize = 3_000;
    let broker = Broker::shared().await;
    let queue = broker.queue("classic").await;
    let missing = unique("missing");
    let sink = connected(&shared()).await;
    let results: Vec<(bool, Result<(), PublishError>)> = stream::iter(0..COUNT)
        .map(|n| {
            let is_missing = n % 10 == 3;
            let message = match is_missing {
                true => message(&missing, "k", 10),
                false => message("", &queue, 10),
            };
            let sink = &sink;
            async move { (is_missing, asked(sink, &message).await) }
        })
        .buffer_unordered(256)
        .collect()
        .await;
    for (is_missing, result) in results {
        match result {
            Ok(()) => assert!(!is_missing),
            Err(error) => {
                assert!(is_missing, "{}", error.chain());
                assert_eq!(error.meaning(), Meaning::Rejected, "{}", error.chain());
                assert!(error.chain().contains(&missing), "{}", error.chain());
            }
        }
    }
    assert_eq!(broker.len(&queue).await as usize, COUNT - COUNT / 10);

    // It is noticed when it is there.
    broker.declare_exchange(&missing).await;
    broker.bind(&queue, &missing, "#").await;
    let again = message(&missing, "k", 10);
    crate::support::eventually::eventually("it is found", Duration::from_secs(5), async || {
        publish(&sink, again.clone()).await.ok()
    })
    .await;
}

/// What was in flight on the channel with the one that closed it is published again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_under_load_fails_no_other() {
    let broker = Broker::shared().await;
    let queue = broker.queue("quorum").await;
    let exchange = broker.exchange().await;
    broker.bind(&queue, &exchange, "#").await;
    let sink = connected(&shared()).await;
    let channel = broker.channel().await;
    let innocent = AtomicUsize::new(0);
    let work = stream::iter(0..6_000_usize)
        .map(|n| {
            let message = match n % 20 {
                0 => message(&exchange, "k", 10),
                _ => message("", &queue, 10),
            };
            let (sink, innocent, channel, exchange) = (&sink, &innocent, &channel, &exchange);
            async move {
                if n == 3_000 {
                    let options = lapin::options::ExchangeDeleteOptions::default();
                    channel
                        .exchange_delete(exchange.as_str().into(), options)
                        .await
                        .expect("delete it");
                }
                let mut result = publish(sink, message.clone()).await;
                // With publishes in the client's queue, the client breaks the whole connection.
                while let Err(error) = &result
                    && error.meaning() == Meaning::Unavailable
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    result = publish(sink, message.clone()).await;
                }
                match result {
                    Ok(()) if n % 20 != 0 => {
                        innocent.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(n % 20, 0, "{}", error.chain());
                        assert!(error.chain().contains(exchange), "{}", error.chain());
                    }
                }
            }
        })
        .buffer_unordered(512);
    work.collect::<Vec<()>>().await;
    assert_eq!(innocent.into_inner(), 6_000 / 20 * 19);
    let last = asked(&sink, &message(&exchange, "k", 10)).await;
    let error = last.expect_err("no such exchange");
    assert_eq!(error.meaning(), Meaning::Rejected, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_rejected_by_itself() {
    const LARGE: usize = (1 << 20) + 1;
    let broker = Broker::shared().await;
    let queue = broker.queue("classic").await;
    let sink = connected(&shared()).await;
    publish(&sink, message("", &queue, 10))
        .await
        .expect("taken");
    for _ in 0..3 {
        let small = stream::iter(0..100)
            .map(|_| publish(&sink, message("", &queue, 10)))
            .buffer_unordered(100)
            .collect::<Vec<_>>();
        let (results, (meaning, chain)) =
            tokio::join!(small, refusal(&sink, message("", &queue, LARGE)));
        assert_eq!(meaning, Meaning::Rejected, "{chain}");
        assert!(chain.contains("message size 1048577"), "{chain}");
        for result in results {
            result.expect("the others are taken");
        }
    }
}

#[tokio::test]
async fn what_amqp_can_not_carry_disturbs_nothing() {
    let broker = Broker::shared().await;
    let queue = broker.queue("classic").await;
    let sink = connected(&shared()).await;
    let mut heavy = message("", &queue, 1);
    heavy.headers.push(("h".into(), "x".repeat(200_000)));
    let mut nowhere = message("", &queue, 1);
    nowhere.destination = Destination::Implicit;
    for message in [heavy, nowhere, message("", &"x".repeat(256), 1)] {
        let (meaning, chain) = refusal(&sink, message).await;
        assert_eq!(meaning, Meaning::Invalid, "{chain}");
    }
    // The most that may pass does.
    let mut full = message("", &queue, 0);
    full.headers.push(("h".into(), "x".repeat(130_000)));
    publish(&sink, full).await.expect("taken");
}

#[tokio::test]
async fn declares_exchange_quorum_queues_and_bindings() {
    let broker = Broker::shared().await;
    let mut config = shared();
    let (exchange, queue) = (unique("exchange"), unique("queue"));
    config.declare = RabbitmqDeclare {
        exchange: Some((exchange.clone(), "topic")),
        queues: vec![queue.clone()],
        quorum: true,
        bind: Some((exchange.clone(), vec!["draft.#".to_owned()])),
    };
    let destination = DestinationTemplate::Exchange {
        exchange: exchange.clone(),
        routing_key: Template::parse("{event_type}").expect("a template"),
    };
    let lines = probe(&config, &[&destination]).await.expect("a probe");
    let expected = [
        format!("exchange {exchange} is not there: it will be declared"),
        format!("queue {queue} is not there: it will be declared"),
    ];
    assert_eq!(lines, expected);
    let other = DestinationTemplate::Exchange {
        exchange: String::new(),
        routing_key: Template::parse(&unique("queue")).expect("a template"),
    };
    let lines = probe(&shared(), &[&other]).await.expect("a probe");
    assert!(
        lines[0].contains("every event for it would be rejected"),
        "{lines:?}"
    );

    let sink = connected(&config).await;
    publish(&sink, message(&exchange, "draft.a", 1))
        .await
        .expect("taken");
    assert_eq!(
        broker
            .await_len(&queue, 1, Duration::from_secs(5))
            .await
            .len(),
        1
    );
    // Once more: what is there and agrees is left as it is.
    connected(&config).await;
    assert_eq!(
        probe(&config, &[&destination]).await.expect("a probe"),
        [""; 0]
    );

    config.declare.quorum = false;
    let error = connect(&config, "test")
        .await
        .expect_err("it is a quorum queue");
    assert!(
        matches!(error, ConnectError::Config { key: "declare", .. }),
        "{error:?}"
    );
    let text = outbox_relay::error::chain(&error);
    assert!(
        text.contains(&queue) && text.contains("x-queue-type"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_vhost_are_said_in_words() {
    let mut config = shared();
    config.password = Secret::new("s3cret");
    let error = connect(&config, "test")
        .await
        .expect_err("a wrong password");
    let text = outbox_relay::error::chain(&error);
    assert!(
        matches!(error, ConnectError::Config { key: "auth", .. }),
        "{error:?}"
    );
    assert!(
        text.contains("refused user \"guest\"") && !text.contains("s3cret"),
        "{text}"
    );

    let mut config = shared();
    config.vhost = "nowhere".to_owned();
    let error = connect(&config, "test").await.expect_err("no such vhost");
    let text = outbox_relay::error::chain(&error);
    assert!(
        matches!(error, ConnectError::Config { key: "url", .. }),
        "{error:?}"
    );
    assert!(text.contains("virtual host \"nowhere\""), "{text}");
}

#[tokio::test]
async fn publishes_that_are_given_up_leave_the_channel_usable() {
    let broker = Broker::shared().await;
    let queue = broker.queue("quorum").await;
    let sink = connected(&shared()).await;
    let messages: Vec<Message> = (0..500).map(|_| message("", &queue, 10)).collect();
    for message in &messages {
        let attempt = publish(&sink, message.clone());
        timeout(Duration::ZERO, attempt).await.ok();
    }
    for message in &messages {
        publish(&sink, message.clone()).await.expect("taken");
    }
    let seen: HashSet<Uuid> = broker.drain(&queue).await.iter().map(|d| d.id).collect();
    assert_eq!(seen.len(), messages.len());
}

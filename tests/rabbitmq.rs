//! The RabbitMQ sink against a real broker.

#[path = "rabbitmq/outage.rs"]
mod outage;
#[path = "rabbitmq/refusals.rs"]
mod refusals;
#[path = "rabbitmq/relay.rs"]
mod relay;

use std::collections::HashSet;
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

//! What the broker refuses, and what it would close a channel or the connection for: each message by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use outbox_relay::error::{Meaning, PublishError};
use outbox_relay::sink::Destination;

use super::{connected, message, publish, refusal, shared};
use crate::support::rabbitmq::{Broker, unique};

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
            async move { (is_missing, publish(sink, message).await) }
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
    let last = publish(&sink, message(&exchange, "k", 10)).await;
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

/// Nothing that passes the sink's own checks ends the connection, which would be an outage: at worst the broker refuses
/// that message.
#[tokio::test]
async fn nothing_that_passes_the_checks_ends_the_connection() {
    const FRAME: usize = 131_072;
    let broker = Broker::shared().await;
    let queue = broker.queue("classic").await;
    let sink = connected(&shared()).await;
    let with = |name: &str, value: &str| {
        let mut message = message("", &queue, 1);
        message.headers.push((name.to_owned(), value.to_owned()));
        message
    };
    let mut messages = vec![message("", &queue, 0)];
    // Names that RabbitMQ and its plugins read, as the text that they are not.
    for name in [
        "x-death",
        "x-first-death-queue",
        "x-delay",
        "x-match",
        "x-delivery-count",
        "x-received-from",
        "x-stream-offset",
        "x-opt-enqueue-time",
        "x-expires",
        "expiration",
        "user_id",
        "cc",
        "Bcc",
        "",
        "a\0b",
        "é😀",
        "content-type",
        "Content-Type",
    ] {
        for value in ["", "x", "-1", "{[", "\0", "a\r\nb", "\u{10ffff}"] {
            messages.push(with(name, value));
        }
    }
    messages.push(with(&"n".repeat(255), "x"));
    let mut many = message("", &queue, 1);
    many.headers = (0..9_000).map(|n| (n.to_string(), String::new())).collect();
    messages.push(many);
    // Headers that just fit into a frame, or just don't; bodies of whole frames.
    messages.extend(
        (FRAME - 200..FRAME)
            .step_by(3)
            .map(|length| with("h", &"x".repeat(length))),
    );
    messages.extend(
        [FRAME - 9, FRAME - 8, FRAME - 7, FRAME, 1 << 20].map(|size| message("", &queue, size)),
    );
    for key in ["\0", "a\r\nb", "é😀", "*", "#", "no exchange 'e'"] {
        messages.push(message("", key, 1));
        messages.push(message(key, "k", 1));
        messages.push(message("amq.topic", key, 1));
        messages.push(message("amq.headers", key, 1));
    }
    let mut taken = 0;
    for message in messages {
        let shown = (
            message.destination.clone(),
            message
                .headers
                .last()
                .map(|(name, value)| (name.clone(), value.len())),
        );
        match publish(&sink, message).await {
            Ok(()) => taken += 1,
            Err(error) => assert_ne!(
                error.meaning(),
                Meaning::Unavailable,
                "{shown:?}: {}",
                error.chain()
            ),
        }
    }
    assert!(taken > 100, "{taken} are fine");
    assert_eq!(broker.len(&queue).await, taken);
}

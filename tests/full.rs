//! A destination that takes nothing holds back its own keys, and nothing else of its sink (I3, I9).

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::stream::DiscardPolicy;
use toml::{Table, Value};
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::rabbitmq::{self, Broker};
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// How long anything may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);

/// What fits into the destination that is full.
const ROOM: usize = 5;

/// Keys of events for it, and events of each.
const KEYS: i64 = 4;
const EACH: i64 = 6;

/// Events for the other destination before the first is full, and more while it is.
const OTHERS: i64 = 100;

/// What arrived, by key: ids and numbers in the order of arrival.
type Arrived = Vec<(Uuid, String, i64)>;

/// A route to a destination of the sink `events`.
fn route(event_type: &str, to: impl Into<Value>) -> Value {
    let to = Table::from_iter([("events".to_owned(), to.into())]);
    Table::from_iter([
        ("event_type".to_owned(), event_type.into()),
        ("to".to_owned(), to.into()),
    ])
    .into()
}

fn patient(settings: Settings) -> Settings {
    settings
        .set("sinks.events.flush_interval", "200ms")
        .set("sinks.events.retry.max_retries", 0)
        .set("sinks.events.retry.initial_delay", "50ms")
        .set("sinks.events.retry.max_delay", "300ms")
}

async fn insert_for_full(database: &Database) {
    for key in 0..KEYS {
        database
            .insert("Full", Some(&format!("full-{key}")), EACH)
            .await;
    }
}

async fn insert_others(database: &Database, wave: &str) {
    for key in 0..4 {
        database
            .insert("Other", Some(&format!("{wave}-{key}")), OTHERS / 4)
            .await;
    }
}

fn assert_in_order(arrived: &Arrived, count: i64) {
    let ids: HashSet<Uuid> = arrived.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids.len(), arrived.len(), "nothing comes twice");
    assert_eq!(ids.len() as u64, count.unsigned_abs());
    let mut by_key: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (_, key, number) in arrived {
        by_key.entry(key).or_default().push(*number);
    }
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

/// What the relay says while one destination is full and the others are not.
async fn assert_said(relay: &Relay, destination: &str) {
    let waiting = |events: f64| events == KEYS as f64;
    relay
        .await_metric("outbox_busy_events", &[], ARRIVAL, waiting)
        .await;
    let available = relay.metric("outbox_sink_available", &[]).await;
    assert_eq!(available, Some(1.0), "its broker answers");
    let attempts = "outbox_publish_attempts_total";
    let refused = relay.metric(attempts, &["outcome=\"busy\""]).await;
    assert!(refused >= Some(KEYS as f64), "{refused:?}");
    let rejected = relay.metric(attempts, &["outcome=\"rejected\""]).await;
    assert_eq!(rejected, Some(0.0));
    let report = relay.report().await.expect("the endpoint answers");
    let pipeline = &report["pipelines"][0];
    assert_eq!(pipeline["busy"], KEYS, "{report:#}");
    assert_eq!(pipeline["sink_state"], "connected");
    assert_eq!(pipeline["busy_blocks_reading"], false);
    assert!(pipeline["busy_since"].is_string(), "{report:#}");
    let error = pipeline["busy_error"].as_str().expect("an error");
    assert!(error.contains(destination), "{error}");
    let log = relay.stderr();
    assert!(log.contains("a destination takes nothing now"), "{log}");
}

async fn assert_settled(relay: &Relay, database: &Database) {
    for name in ["outbox_pending_events", "outbox_busy_events"] {
        relay.await_metric(name, &[], ARRIVAL, |n| n == 0.0).await;
    }
    let letters: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(letters, 0);
}

/// A stream that takes this many messages and then refuses more; it shows what comes twice.
async fn full_stream() -> Stream {
    Stream::create_with(&nats::shared(), |config| {
        config.max_messages = ROOM as i64;
        config.discard = DiscardPolicy::New;
        config.duplicate_window = Duration::from_millis(100);
    })
    .await
}

async fn taken(stream: &Stream) -> Arrived {
    let deliveries = stream.drain().await.into_iter();
    deliveries
        .map(|delivery| {
            let key = delivery.header("aggregate_id").expect("a key").to_owned();
            (delivery.id, key, delivery.number("n"))
        })
        .collect()
}

#[tokio::test]
async fn a_full_stream_holds_back_its_own_keys_only() {
    let database = Database::fresh().await;
    let full = full_stream().await;
    let open = Stream::create_forgetful(&nats::shared()).await;
    let routes = vec![route("Full", full.subject("a")), route("*", true)];
    let settings = patient(Settings::of(&database).publishing_to(&open)).set("routes", routes);
    migrate(&settings);
    insert_for_full(&database).await;
    insert_others(&database, "first").await;
    let relay = Relay::ready(&settings).await;
    open.await_len(OTHERS.unsigned_abs(), ARRIVAL).await;
    assert_said(&relay, &full.subject("a")).await;
    insert_others(&database, "second").await;
    open.await_len(2 * OTHERS.unsigned_abs(), ARRIVAL).await;
    assert_eq!(full.len().await, ROOM as u64);

    let mut arrived = Arrived::new();
    eventually("the full one catches up", ARRIVAL, async || {
        arrived.extend(taken(&full).await);
        (arrived.len() as i64 >= KEYS * EACH).then_some(())
    })
    .await;
    assert_settled(&relay, &database).await;
    arrived.extend(taken(&full).await);
    assert_in_order(&arrived, KEYS * EACH);
    assert_in_order(&taken(&open).await, 2 * OTHERS);
    relay.stop().await;
}

#[tokio::test]
async fn a_full_queue_holds_back_its_own_keys_only() {
    let broker = Broker::shared().await;
    let database = Database::fresh().await;
    let full = broker.queue_of_at_most(ROOM as i32).await;
    let open = broker.queue("quorum").await;
    let queue = |name: &str| Table::from_iter([("queue".to_owned(), name.into())]);
    let settings = patient(Settings::of(&database))
        .set("sinks.events.type", "rabbitmq")
        .set("sinks.events.url", rabbitmq::shared())
        .set(
            "routes",
            vec![route("Full", queue(&full)), route("*", queue(&open))],
        );
    migrate(&settings);
    insert_for_full(&database).await;
    insert_others(&database, "first").await;
    let relay = Relay::ready(&settings).await;
    let others = u32::try_from(OTHERS).expect("few");
    let first = broker.await_len(&open, others, ARRIVAL).await;
    assert_said(&relay, &full).await;
    insert_others(&database, "second").await;
    let second = broker.await_len(&open, others, ARRIVAL).await;

    let numbered = |delivery: &rabbitmq::Delivery| {
        let number = delivery.envelope()["payload"]["n"].as_i64();
        let key = delivery.headers()["aggregate_id"].clone();
        (delivery.id, key, number.expect("a number"))
    };
    let mut arrived = Arrived::new();
    eventually("the full one catches up", ARRIVAL, async || {
        arrived.extend(broker.take(&full).await.iter().map(numbered));
        (arrived.len() as i64 >= KEYS * EACH).then_some(())
    })
    .await;
    assert_settled(&relay, &database).await;
    arrived.extend(broker.take(&full).await.iter().map(numbered));
    assert_in_order(&arrived, KEYS * EACH);
    for wave in [first, second] {
        assert_in_order(&wave.iter().map(numbered).collect(), OTHERS);
    }
    assert_eq!(broker.len(&open).await, 0, "nothing came twice");
    relay.stop().await;
}

/// The queues of a topic exchange that are not full get each event with each attempt: so few are made.
#[tokio::test]
async fn a_full_queue_of_an_exchange_floods_no_other_with_copies() {
    const EVENTS: u32 = 50;
    let broker = Broker::shared().await;
    let database = Database::fresh().await;
    let full = broker.queue_of_at_most(ROOM as i32).await;
    let open = broker.queue("classic").await;
    let exchange = broker.exchange().await;
    for queue in [&full, &open] {
        broker.bind(queue, &exchange, "#").await;
    }
    let to = Table::from_iter(
        [("exchange", &exchange), ("routing_key", &"k".to_owned())]
            .map(|(name, value)| (name.to_owned(), value.clone().into())),
    );
    let settings = patient(Settings::of(&database))
        .set("sinks.events.type", "rabbitmq")
        .set("sinks.events.url", rabbitmq::shared())
        .set("routes", vec![route("*", to)]);
    migrate(&settings);
    for key in 0..EVENTS {
        database.insert("Full", Some(&key.to_string()), 1).await;
    }
    let relay = Relay::ready(&settings).await;
    let (name, busy) = ("outbox_publish_attempts_total", &["outcome=\"busy\""]);
    relay
        .await_metric(name, busy, ARRIVAL, |n| n >= 600.0)
        .await;
    // Each once when nothing was known, and those that asked for all.
    let copies = broker.len(&open).await;
    assert!(copies < 3 * EVENTS, "{copies} copies");
    let mut arrived = HashSet::new();
    eventually("the full one catches up", ARRIVAL, async || {
        arrived.extend(broker.take(&full).await.iter().map(|delivery| delivery.id));
        (arrived.len() >= EVENTS as usize).then_some(())
    })
    .await;
    assert_settled(&relay, &database).await;
    let delivered: HashSet<Uuid> = broker
        .take(&open)
        .await
        .iter()
        .map(|copy| copy.id)
        .collect();
    assert_eq!(arrived, delivered);
    relay.stop().await;
}

/// What waits is bounded: where it leaves no room to read more, the whole sink waits, and that is said.
#[tokio::test]
async fn what_waits_for_a_full_stream_may_stop_reading_and_says_so() {
    let database = Database::fresh().await;
    let full = full_stream().await;
    let open = Stream::create_forgetful(&nats::shared()).await;
    let routes = vec![route("Full", full.subject("a")), route("*", true)];
    let settings = patient(Settings::of(&database).publishing_to(&open))
        .set("routes", routes)
        .set("sources.main.batch_size", 5)
        .set("sinks.events.max_parked", 10);
    migrate(&settings);
    insert_for_full(&database).await;
    let relay = Relay::ready(&settings).await;
    eventually("reading stops, and that shows", ARRIVAL, async || {
        let report = relay.report().await?;
        (report["pipelines"][0]["busy_blocks_reading"] == true).then_some(())
    })
    .await;
    let log = relay.stderr();
    assert!(log.contains("nothing more is read"), "{log}");
    insert_others(&database, "only").await;
    // Far more would be read than there is room for.
    relay
        .await_metric("outbox_pending_events", &[], ARRIVAL, |n| n > OTHERS as f64)
        .await;
    assert_eq!(open.len().await, 0, "the sink waits");

    let mut arrived = Arrived::new();
    eventually("the full one catches up", ARRIVAL, async || {
        arrived.extend(taken(&full).await);
        (arrived.len() as i64 >= KEYS * EACH).then_some(())
    })
    .await;
    open.await_len(OTHERS.unsigned_abs(), ARRIVAL).await;
    assert_settled(&relay, &database).await;
    assert_in_order(&arrived, KEYS * EACH);
    assert_in_order(&taken(&open).await, OTHERS);
    assert!(relay.stderr().contains("there is room again"));
    relay.stop().await;
}

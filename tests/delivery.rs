//! Every committed event arrives, nothing else does, and no sink waits for another (I1, I2, I5).

use std::time::Duration;

use sqlx::{Connection, Executor};

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::pgbouncer::PgBouncer;
use crate::support::port;
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::writers::{Load, Writers};

/// How many events the writers commit in a test under load.
const LOAD: usize = 3_000;
/// How long everything may take to arrive once they have stopped: the relay is a debug build, and other tests
/// run beside it.
const ARRIVAL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn random_transactions_arrive_complete_and_in_key_order() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database);
    deliver_random_transactions("directly", &database, settings).await;
}

#[tokio::test]
async fn random_transactions_arrive_through_pgbouncer_in_transaction_mode() {
    let database = Database::fresh().await;
    let pooler = PgBouncer::before(&database.url).await;
    let settings = Settings::of_url(&database.url_through(pooler.port));
    deliver_random_transactions("through PgBouncer", &database, settings).await;
}

/// With a foreign transaction open throughout, which holds back every horizon of the cluster.
async fn deliver_random_transactions(name: &str, database: &Database, settings: Settings) {
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = settings.publishing_to(&stream);
    migrate(&settings);
    let mut foreign = database.connect().await;
    foreign
        .execute(
            "BEGIN; CREATE TABLE foreign_to_all (n int); INSERT INTO foreign_to_all VALUES (1)",
        )
        .await
        .expect("a foreign transaction with a transaction id");

    let relay = Relay::ready(&settings).await;
    let writers = Writers::start(database, Load::default()).await;
    writers.until(LOAD).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    foreign.execute("ROLLBACK").await.expect("still open");
    relay.stop().await;

    let figures = check(name, &record, &stream.deliveries().await);
    assert!(figures.committed > 500, "too little load to show anything");
    assert!(
        figures.rolled_back > 20,
        "too few rollbacks to show anything"
    );
    assert_eq!(
        figures.duplicates, 0,
        "nothing failed, so nothing is sent twice"
    );
    assert!(
        figures.median < Duration::from_secs(3),
        "an open transaction elsewhere must not delay delivery: {figures}"
    );
}

#[tokio::test]
async fn a_sink_that_is_down_holds_up_no_other() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.away.type", "jetstream")
        .set(
            "sinks.away.url",
            format!("nats://127.0.0.1:{}", port::free()),
        )
        .set("sinks.away.subject", "away.{event_type}");
    migrate(&settings);
    database.insert("Counted", Some("key"), 500).await;

    let relay = Relay::start(&settings);
    let deliveries = stream.await_len(500, ARRIVAL).await;
    let numbers: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    assert!(numbers.is_sorted(), "in order");
    relay
        .await_metric(
            "outbox_sink_available",
            &["sink=\"away\""],
            Duration::from_secs(10),
            |available| available == 0.0,
        )
        .await;
    let dead: i64 = database
        .value("SELECT count(*) FROM outbox_dead_letter")
        .await;
    assert_eq!(dead, 0, "an outage is not a rejection");
    relay.stop().await;
    assert_eq!(stream.len().await, 500, "nothing is sent twice");
}

#[tokio::test]
async fn a_refused_event_is_a_dead_letter_and_delays_its_own_key_only() {
    let database = Database::fresh().await;
    let stream = Stream::create_with(&nats::shared(), |config| {
        config.max_message_size = 2_000;
    })
    .await;
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.events.retry.max_retries", 2)
        .set("sinks.events.retry.initial_delay", "1s")
        .set("sinks.events.retry.max_delay", "1s");
    migrate(&settings);
    let insert = |event_type: &str, key: &str, payload: &str| {
        let sql = format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) VALUES ('{event_type}', '{key}', {payload})"
        );
        let database = &database;
        async move { database.execute(&sql).await }
    };
    insert("TooBig", "a", "to_json(repeat('x', 4000))").await;
    insert("Next", "a", "'1'").await;
    insert("Other", "b", "'2'").await;
    insert("Not a subject", "c", "'3'").await;
    // More than a NATS server takes from any client: the connection must survive it.
    insert("Huge", "d", "to_json(repeat('x', 2000000))").await;
    insert("Last", "c", "'4'").await;

    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(3, Duration::from_secs(20)).await;
    let place = |event_type: &str| {
        let subject = stream.subject(event_type);
        let mut found = deliveries.iter().filter(|d| d.subject == subject);
        found.next().expect("delivered")
    };
    let held = place("Next")
        .at
        .duration_since(place("Other").at)
        .expect("the refused event holds its successor back");
    assert!(
        held > Duration::from_millis(500),
        "two more attempts take two delays of about a second, not {held:?}"
    );
    assert!(
        place("Last").place < place("Next").place,
        "other keys go on"
    );
    relay
        .await_metric(
            "outbox_dead_letters",
            &["sink=\"events\""],
            Duration::from_secs(5),
            |dead| dead == 3.0,
        )
        .await;
    relay.stop().await;
    let letter = async |event_type: &str, column: &str| -> String {
        let sql = format!(
            "SELECT string_agg({column}::text, ' ') FROM outbox_dead_letter WHERE event_type = '{event_type}'"
        );
        database.value(&sql).await
    };
    assert_eq!(letter("TooBig", "attempts").await, "3", "two retries");
    assert_eq!(
        letter("Not a subject", "attempts").await,
        "0",
        "no broker was asked"
    );
    assert!(!letter("Huge", "reason").await.is_empty());
    let reason = letter("Not a subject", "reason").await;
    assert!(reason.contains("space"), "a clear reason: {reason}");
}

#[tokio::test]
async fn a_stop_under_load_and_a_start_send_nothing_twice() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let writers = Writers::start(&database, Load::default()).await;
    for _ in 0..3 {
        let before = stream.len().await;
        let relay = Relay::ready(&settings).await;
        eventually("something is published", ARRIVAL, async || {
            (stream.len().await > before + 100).then_some(())
        })
        .await;
        relay.stop().await;
    }
    let record = writers.stop().await;
    let relay = Relay::ready(&settings).await;
    stream.await_ids(&record.ids(), ARRIVAL).await;
    relay.stop().await;
    let figures = check("stopped under load", &record, &stream.deliveries().await);
    assert_eq!(
        figures.duplicates, 0,
        "a stop waits for acknowledgements and stores them"
    );
}

#[tokio::test]
async fn an_event_held_back_for_seconds_arrives_and_a_dead_hole_is_closed() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut held = database.connect().await;
    let insert =
        "INSERT INTO outbox (event_type, aggregate_id, payload) VALUES ('Held', 'held', '{}')";
    held.execute("BEGIN").await.expect("begin");
    held.execute(insert).await.expect("insert");
    let mut undone = database.connect().await;
    undone.execute("BEGIN").await.expect("begin");
    undone.execute(insert).await.expect("insert");
    undone.execute("ROLLBACK").await.expect("roll back");
    database.insert("After", Some("after"), 10).await;

    // The dead one is closed, though the living one is as old and stays.
    stream.await_len(10, Duration::from_secs(5)).await;
    let holes = |wanted: f64| move |holes: f64| (holes - wanted).abs() < 0.5;
    relay
        .await_metric("outbox_holes", &[], Duration::from_secs(10), holes(1.0))
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    relay
        .await_metric("outbox_holes", &[], Duration::from_secs(1), holes(1.0))
        .await;
    held.execute("COMMIT").await.expect("commit");
    let deliveries = stream.await_len(11, Duration::from_secs(5)).await;
    assert_eq!(deliveries[10].subject, stream.subject("Held"));
    relay
        .await_metric("outbox_holes", &[], Duration::from_secs(5), holes(0.0))
        .await;
    held.close().await.expect("close");
    undone.close().await.expect("close");
    relay.signal(Signal::Interrupt);
    let mut relay = relay;
    let status = relay.exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "SIGINT stops as SIGTERM does");
}

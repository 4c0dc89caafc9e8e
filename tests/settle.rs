//! Rows that every ledger has are marked or deleted, no other row ever is, and nothing is lost by it (DESIGN:
//! settling).

mod held_back;

use std::time::Duration;

use sqlx::Executor;

use crate::support::database::Database;
use crate::support::eventually::{eventually, throughout};
use crate::support::nats;
use crate::support::port;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// How long anything may take that happens every 100 ms.
const SOON: Duration = Duration::from_secs(30);
/// Several times the interval of settling: what is not settled by then is held back.
const WHILE: Duration = Duration::from_millis(1_500);

const UNMARKED: &str = "SELECT count(*) FROM outbox WHERE sent_at IS NULL";
const ROWS: &str = "SELECT count(*) FROM outbox";

/// A stream, and a configuration that settles as `after` says every 100 ms.
async fn setting(after: &str) -> (Database, Stream, Settings) {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .set("sources.main.after_delivery", after)
        .set("sources.main.settle_interval", "100ms")
        .publishing_to(&stream);
    migrate(&settings);
    (database, stream, settings)
}

/// A sink whose broker nobody reaches.
fn with_dead_sink(settings: &Settings, sink: &str) -> Settings {
    let key = |key: &str| format!("sinks.{sink}.{key}");
    settings
        .clone()
        .set(&key("type"), "jetstream")
        .set(&key("url"), format!("nats://127.0.0.1:{}", port::free()))
        .set(&key("subject"), "dead.{event_type}")
}

async fn await_count(database: &Database, sql: &str, count: i64) {
    eventually(&format!("{count} = {sql}"), SOON, async || {
        (database.value::<i64>(sql).await == count).then_some(())
    })
    .await;
}

async fn stays(database: &Database, sql: &str, count: i64) {
    throughout(&format!("{count} = {sql}"), WHILE, async || {
        database.value::<i64>(sql).await == count
    })
    .await;
}

/// Waits until the ledger of this sink holds every row of the table.
async fn await_stored(database: &Database, sink: &str) {
    let missing = format!(
        "SELECT count(*) FROM outbox, outbox_ledger WHERE sink = '{sink}' AND NOT seq <@ delivered"
    );
    await_count(database, &missing, 0).await;
}

async fn roll_back_an_event(database: &Database) {
    let undone =
        "BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Undone', '{}'); ROLLBACK";
    database.execute(undone).await;
}

#[tokio::test]
async fn delivered_rows_are_marked_in_place() {
    const EVENTS: i64 = 6_000;
    let (database, stream, settings) = setting("mark").await;
    let relay = Relay::ready(&settings).await;
    for _ in 0..6 {
        database.insert("Marked", None, EVENTS / 6).await;
        roll_back_an_event(&database).await;
    }
    // The last hole needs a row above it.
    database.insert("Marked", None, 1).await;
    stream.await_len(6_001, SOON).await;
    await_count(&database, UNMARKED, 0).await;
    let marked = relay
        .metric("outbox_settled_total", &["action=\"mark\""])
        .await;
    assert_eq!(marked, Some(6_001.0));

    // Closed holes are settled too, once they were looked at again: what is recorded grows together.
    let recorded = "SELECT marked::text FROM outbox_source";
    eventually("all is recorded in one range", SOON, async || {
        (database.value::<String>(recorded).await == "{[1,6008)}").then_some(())
    })
    .await;
    assert_eq!(
        relay.metric("outbox_late_events_total", &[]).await,
        Some(0.0)
    );
    relay.stop().await;
    let hot = "SELECT n_tup_hot_upd::float8 / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'outbox' \
               AND n_tup_upd = 6001";
    let share: f64 = eventually("the statistics are there", SOON, async || {
        let some = format!("SELECT count(*) FROM ({hot}) AS share");
        match database.value::<i64>(&some).await {
            0 => None,
            _ => Some(database.value(hot).await),
        }
    })
    .await;
    report!("settle: {:.1} % of the marks are HOT", share * 100.0);
    assert!(share > 0.9, "{share} of the updates are HOT");
}

#[tokio::test]
async fn deleted_rows_are_no_holes_to_whoever_reads_later() {
    let (database, stream, settings) = setting("delete").await;
    let relay = Relay::ready(&settings).await;
    database.insert("Deleted", None, 6_000).await;
    stream.await_len(6_000, SOON).await;
    await_count(&database, ROWS, 0).await;
    let deleted = relay
        .metric("outbox_settled_total", &["action=\"delete\""])
        .await;
    assert_eq!(deleted, Some(6_000.0));
    relay.stop().await;

    // One ledger lacks ranges that are gone, as after a replay, and a new one starts at the beginning.
    database
        .execute("UPDATE outbox_ledger SET delivered = '{[1,100),[2000,6001)}', token = gen_random_uuid()")
        .await;
    let second = Stream::create(&nats::shared()).await;
    let settings = settings
        .publishing("second", &second)
        .set("sinks.second.start", "earliest");
    let relay = Relay::ready(&settings).await;
    database.insert("Later", Some("key"), 1).await;
    // A transaction that keeps every hole from being closed, and has one itself.
    let mut held = database.connect().await;
    held.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '{}')")
        .await
        .expect("insert");
    database.insert("Later", Some("key"), 2).await;
    stream.await_len(6_003, SOON).await;
    second.await_len(3, SOON).await;
    let holes = async || relay.metric("outbox_holes", &[]).await;
    eventually("the transaction's hole is seen", SOON, async || {
        holes().await.filter(|holes| *holes > 0.0)
    })
    .await;
    throughout(
        "there is no other hole",
        Duration::from_secs(1),
        async || holes().await == Some(1.0),
    )
    .await;
    held.execute("ROLLBACK").await.expect("still open");
    await_count(&database, ROWS, 0).await;
    relay.stop().await;
}

#[tokio::test]
async fn kept_rows_stay_as_they_are() {
    let (database, stream, settings) = setting("keep").await;
    let relay = Relay::ready(&settings).await;
    database.insert("Kept", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    await_stored(&database, "events").await;
    stays(&database, UNMARKED, 10).await;
    relay.stop().await;
}

#[tokio::test]
async fn what_only_a_mock_has_is_not_settled() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database)
        .set("sources.main.after_delivery", "delete")
        .set("sources.main.settle_interval", "100ms")
        .set("sinks.events.type", "mock");
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    database.insert("Mocked", Some("key"), 10).await;
    await_stored(&database, "events").await;
    stays(&database, ROWS, 10).await;
    relay.stop().await;
}

#[tokio::test]
async fn rows_past_their_retention_are_deleted_if_every_ledger_has_them() {
    for after in ["mark", "keep"] {
        let (database, stream, settings) = setting(after).await;
        let settings = settings.set("sources.main.retention", "2s");
        // More than one step takes; the young one in the middle stays.
        database
            .execute(
                "INSERT INTO outbox (event_type, payload, created_at) \
                 SELECT 'Old', '{}', now() - interval '1 hour' \
                 + CASE WHEN n = 3000 THEN interval '1 day' ELSE '0' END FROM generate_series(1, 7000) n",
            )
            .await;
        database
            .execute(
                "INSERT INTO outbox (event_type, payload, created_at) \
                 SELECT 'Young', '{}', now() + interval '1 hour' FROM generate_series(1, 10)",
            )
            .await;
        let dead = with_dead_sink(&settings, "dead").set("sinks.dead.start", "earliest");
        let relay = Relay::ready(&settings).await;
        stream.await_len(7_010, SOON).await;
        await_count(&database, ROWS, 11).await;
        let expired = relay
            .metric("outbox_settled_total", &["action=\"expire\""])
            .await;
        assert_eq!(expired, Some(6_999.0));
        let deleted: String = database
            .value("SELECT deleted::text FROM outbox_source")
            .await;
        assert_eq!(deleted, "{[1,3000),[3001,7001)}");
        relay.stop().await;

        let relay = Relay::start(&dead);
        database
            .execute(
                "INSERT INTO outbox (event_type, payload, created_at) VALUES ('Old', '{}', now() - interval '2 hours')",
            )
            .await;
        stream.await_len(7_011, SOON).await;
        await_stored(&database, "events").await;
        stays(&database, ROWS, 12).await;
        relay.stop().await;
    }
}

#[tokio::test]
async fn a_row_in_a_closed_hole_is_delivered_after_all_and_raises_the_alarm() {
    let (database, stream, settings) = setting("delete").await;
    let seldom = settings
        .clone()
        .set("sources.main.settle_interval", "1h")
        .set("sources.main.after_delivery", "keep");
    let relay = Relay::ready(&seldom).await;
    roll_back_an_event(&database).await;
    database.insert("After", Some("key"), 2).await;
    stream.await_len(2, SOON).await;
    eventually("the hole is closed", SOON, async || {
        let sql = "SELECT closed::text FROM outbox_ledger";
        (database.value::<String>(sql).await == "{[1,2)}").then_some(())
    })
    .await;
    relay.stop().await;

    // What no INSERT can do that draws its seq from the sequence.
    let late = "INSERT INTO outbox (seq, event_type, payload) OVERRIDING SYSTEM VALUE VALUES (1, 'Late', '{}')";
    database.execute(late).await;
    // While nobody looks into it, for the pipeline doesn't run, it is not settled either.
    let relay = Relay::start(&with_dead_sink(&settings, "events"));
    await_count(&database, ROWS, 1).await;
    stays(&database, ROWS, 1).await;
    relay.stop().await;

    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(3, SOON).await;
    assert_eq!(deliveries[2].subject, stream.subject("Late"));
    let late = relay.metric("outbox_late_events_total", &[]).await;
    assert_eq!(late, Some(1.0));
    assert!(relay.stderr().contains("ERROR"), "it is an error");
    await_count(&database, ROWS, 0).await;
    relay.stop().await;
    let ledger: String = database
        .value("SELECT delivered::text || closed::text FROM outbox_ledger")
        .await;
    assert_eq!(ledger, "{[1,4)}{}");
}

#[tokio::test]
async fn whoever_locks_a_row_delays_its_settling_and_nothing_else() {
    let (database, stream, settings) = setting("mark").await;
    database.insert("Locked", Some("key"), 10).await;
    let mut holder = database.connect().await;
    holder
        .execute("BEGIN; SELECT FROM outbox WHERE seq = 5 FOR UPDATE")
        .await
        .expect("lock a row");
    let relay = Relay::ready(&settings).await;
    eventually("settling waits for it", SOON, async || {
        relay
            .stderr()
            .contains("could not be settled")
            .then_some(())
    })
    .await;
    for round in 1..=3 {
        database.insert("Free", Some("key"), 10).await;
        stream.await_len(10 + 10 * round, SOON).await;
        await_stored(&database, "events").await;
    }
    // Those before it may have been a step of their own.
    let unmarked = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND seq >= 5";
    assert_eq!(database.value::<i64>(unmarked).await, 36);
    holder.execute("ROLLBACK").await.expect("still open");
    await_count(&database, UNMARKED, 0).await;
    relay.stop().await;
}

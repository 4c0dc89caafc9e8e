//! First deliveries of one key are in commit order (I3).

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use crate::support::database::Database;
use crate::support::eventually::throughout;
use crate::support::nats;
use crate::support::private_server::PrivateServer;
use crate::support::relay::{Relay, migrate};
use crate::support::settings::Settings;
use crate::support::stream::{Delivery, Stream};

/// Inserts the next event of a key, which it locks first, as writers of ordered events do.
async fn write(connection: &mut PgConnection, key: i32, events: i64) {
    connection
        .execute(sqlx::AssertSqlSafe(format!(
            "SELECT counter FROM aggregate WHERE key = {key} FOR UPDATE"
        )))
        .await
        .expect("lock the aggregate");
    connection
        .execute(sqlx::AssertSqlSafe(format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'Counted', {key}::text, format('{{\"n\":%s}}', counter + i)::json \
             FROM aggregate, generate_series(1, {events}) i WHERE key = {key} ORDER BY i"
        )))
        .await
        .expect("insert events");
    connection
        .execute(sqlx::AssertSqlSafe(format!(
            "UPDATE aggregate SET counter = counter + {events} WHERE key = {key}"
        )))
        .await
        .expect("count them");
}

async fn prepare(database: &Database, keys: i32) {
    let sql = format!(
        "CREATE TABLE aggregate AS SELECT key, 0::bigint AS counter FROM generate_series(1, {keys}) key"
    );
    database.execute(&sql).await;
}

fn assert_in_order(deliveries: &[Delivery], key: i32) {
    let key = key.to_string();
    let numbers: Vec<i64> = deliveries
        .iter()
        .filter(|delivery| delivery.header("aggregate_id") == Some(&key))
        .map(|delivery| delivery.number("n"))
        .collect();
    assert!(!numbers.is_empty(), "key {key} has no event");
    assert!(numbers.is_sorted(), "key {key}: {numbers:?}");
}

#[tokio::test]
async fn a_transaction_that_begins_first_and_touches_the_aggregate_last_comes_last() {
    const KEYS: i32 = 40;
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    prepare(&database, KEYS).await;
    let mut early = database.connect().await;
    let mut late = database.connect().await;
    // The first half is there before the relay is, and is read at once; the second is read as it comes.
    let mut relay = None;
    for key in 1..=KEYS {
        if key == KEYS / 2 {
            relay = Some(Relay::ready(&settings).await);
        }
        early.execute("BEGIN").await.expect("begin");
        early
            .execute("SELECT pg_current_xact_id()")
            .await
            .expect("the lower transaction id");
        late.execute("BEGIN").await.expect("begin");
        write(&mut late, key, 1).await;
        late.execute("COMMIT").await.expect("commit");
        write(&mut early, key, 1).await;
        early.execute("COMMIT").await.expect("commit");
    }
    let deliveries = stream
        .await_len(2 * u64::from(KEYS.unsigned_abs()), Duration::from_secs(20))
        .await;
    for key in 1..=KEYS {
        assert_in_order(&deliveries, key);
    }
    early.close().await.expect("close");
    late.close().await.expect("close");
    relay.expect("started").stop().await;
}

#[tokio::test]
async fn the_successor_of_a_large_transaction_does_not_overtake_it() {
    const ROUNDS: i32 = 6;
    const LARGE: i64 = 600;
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    // Reads that show a tenth of the transaction, and a pause in which both commit.
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sources.main.batch_size", 60)
        .set("sources.main.poll_interval", "300ms");
    migrate(&settings);
    prepare(&database, ROUNDS + 1).await;
    let relay = Relay::ready(&settings).await;
    let mut large = database.connect().await;
    let mut successor = database.connect().await;
    let mut expected = 0;
    for key in 1..=ROUNDS {
        large.execute("BEGIN").await.expect("begin");
        write(&mut large, key, LARGE).await;
        // Others commit meanwhile: the relay reads past the hole that the large transaction is.
        write(&mut successor, ROUNDS + 1, 5).await;
        expected += 5;
        stream.await_len(expected, Duration::from_secs(10)).await;
        large.execute("COMMIT").await.expect("commit");
        successor.execute("BEGIN").await.expect("begin");
        write(&mut successor, key, 1).await;
        successor.execute("COMMIT").await.expect("commit");
        expected += LARGE.unsigned_abs() + 1;
        stream.await_len(expected, Duration::from_secs(20)).await;
    }
    let deliveries = stream.deliveries().await;
    for key in 1..=ROUNDS + 1 {
        assert_in_order(&deliveries, key);
    }
    large.close().await.expect("close");
    successor.close().await.expect("close");
    relay.stop().await;
}

#[tokio::test]
async fn behind_many_holes_that_stay_no_successor_overtakes() {
    const KEYS: i32 = 5;
    /// More than the relay looks up in every read.
    const HOLES: i32 = 150;
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    // As rarely as it looks for the owners of holes: each read comes right after such a look.
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sources.main.poll_interval", "1s");
    migrate(&settings);
    prepare(&database, KEYS + HOLES + 1).await;
    let relay = Relay::ready(&settings).await;
    let mut holder = database.connect().await;
    let mut others = database.connect().await;
    holder.execute("BEGIN").await.expect("begin");
    for key in 1..=HOLES {
        write(&mut holder, KEYS + key, 1).await;
        write(&mut others, KEYS + HOLES + 1, 1).await;
    }
    let mut early = Vec::new();
    for key in 1..=KEYS {
        let mut connection = database.connect().await;
        connection.execute("BEGIN").await.expect("begin");
        write(&mut connection, key, 1).await;
        write(&mut others, KEYS + HOLES + 1, 1).await;
        early.push((key, connection));
    }
    let many = f64::from(HOLES + KEYS);
    relay
        .await_metric("outbox_holes", &[], Duration::from_secs(10), |n| n >= many)
        .await;
    // Long enough for the relay to know who may own them.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for (key, mut connection) in early {
        connection.execute("COMMIT").await.expect("commit");
        write(&mut connection, key, 1).await;
        connection.close().await.expect("close");
    }
    let arrived = u64::from((HOLES + KEYS + 2 * KEYS).unsigned_abs());
    let deliveries = stream.await_len(arrived, Duration::from_secs(10)).await;
    for key in 1..=KEYS {
        assert_in_order(&deliveries, key);
    }
    holder.execute("COMMIT").await.expect("commit");
    holder.close().await.expect("close");
    others.close().await.expect("close");
    let all = arrived + u64::from(HOLES.unsigned_abs());
    stream.await_len(all, Duration::from_secs(10)).await;
    relay.stop().await;
}

#[tokio::test]
async fn one_event_per_key_is_in_flight_and_never_more_than_the_limit() {
    let database = Database::fresh().await;
    // One event of each key at a time: 2 keys. Without keys: as many as are allowed.
    for (keys, limit, expected) in [("n % 2", 50, 2.0), ("NULL", 7, 7.0)] {
        let settings = Settings::of(&database)
            .set("relay.name", format!("limit-{limit}"))
            .set("sinks.slow.type", "mock")
            .set("sinks.slow.delay", "100ms")
            .set("sinks.slow.max_in_flight", limit);
        migrate(&settings);
        let insert = format!(
            "TRUNCATE outbox; INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'Counted', ({keys})::text, '{{}}' FROM generate_series(1, 1000) n"
        );
        database.execute(&insert).await;
        let relay = Relay::ready(&settings).await;
        let mut most = 0.0_f64;
        throughout("the limit holds", Duration::from_secs(2), async || {
            let in_flight = relay.metric("outbox_in_flight", &[]).await.unwrap_or(0.0);
            most = most.max(in_flight);
            in_flight <= expected
        })
        .await;
        assert!(
            (most - expected).abs() < 0.5,
            "{most} of {expected} were used"
        );
        relay.kill().await;
    }
}

#[tokio::test]
async fn an_outage_reorders_no_key() {
    const KEYS: i32 = 30;
    let database = Database::fresh().await;
    let mut server = nats::PrivateNats::start("").await;
    let stream = Stream::create_forgetful(&server.url()).await;
    let settings = Settings::of(&database)
        .publishing_to(&stream)
        .set("sinks.events.timeout", "1s")
        .set("sinks.events.retry.initial_delay", "100ms")
        .set("sinks.events.retry.max_delay", "500ms");
    migrate(&settings);
    prepare(&database, KEYS).await;
    let relay = Relay::ready(&settings).await;
    let mut connection = database.connect().await;
    for key in 1..=KEYS {
        write(&mut connection, key, 100).await;
        if key % 10 == 5 {
            server.kill().await;
            server.start_again().await;
        }
    }
    let deliveries = stream
        .await_len(
            u64::from(KEYS.unsigned_abs()) * 100,
            Duration::from_secs(30),
        )
        .await;
    let mut seen = std::collections::HashSet::new();
    let first: Vec<Delivery> = deliveries
        .into_iter()
        .filter(|delivery| seen.insert(delivery.id))
        .collect();
    assert_eq!(first.len(), 3_000);
    for key in 1..=KEYS {
        assert_in_order(&first, key);
    }
    connection.close().await.expect("close");
    relay.stop().await;
}

//! What would skip events in silence is noticed: other histories, other sequences, other ledgers, other tables.

use std::time::Duration;

use sqlx::{Connection, Executor};

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::postgres::{PrivatePostgres, Stop};
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(10);

/// Waits until the relay has stopped working on its source, and returns what it says about it.
async fn stopped_loudly(relay: &mut Relay) -> String {
    eventually("the source stops loudly", SOON, async || {
        let exited = relay.exited();
        if let Some(status) = exited {
            assert_ne!(status.code(), Some(0), "a stopped source is no clean exit");
        }
        let ready = relay.get("/readyz").await;
        let unready = exited.is_some() || ready.is_some_and(|answer| answer.status == 503);
        // An outage may be over again: only an error that is told stays.
        (unready && relay.stderr().contains("ERROR")).then_some(())
    })
    .await;
    relay.stderr()
}

#[tokio::test]
async fn a_replica_promoted_behind_the_relays_cursor_skips_nothing() {
    let mut primary = PrivatePostgres::start(&[]).await;
    let database = Database::fresh_on(&primary.url()).await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database.insert("Common", Some("key"), 100).await;
    let relay = Relay::ready(&settings).await;
    stream.await_len(100, SOON).await;
    await_stored(&database).await;
    let mut replica = primary.replica().await;
    let common = format!(
        "{}/{}",
        replica.url().trim_end_matches("/postgres"),
        database_name(&database)
    );
    eventually("the replica has the first events", SOON, async || {
        let mut connection = crate::support::database::connect(&common).await.ok()?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox")
            .fetch_one(&mut connection)
            .await
            .ok()?;
        (count == 100).then_some(())
    })
    .await;
    replica.stop(Stop::Fast).await;

    // Events that the replica never hears of move the relay's cursor ahead of the replica's sequence.
    database.insert("Lost", Some("key"), 200).await;
    stream.await_len(300, SOON).await;
    await_stored(&database).await;
    primary.stop(Stop::Kill).await;
    replica.move_to(primary.port);
    // Without its primary: it must not wait for it.
    replica.start_again().await;
    replica.promote().await;
    database.insert("New", Some("key"), 200).await;
    let deliveries = stream.await_len(500, Duration::from_secs(30)).await;
    let new = deliveries
        .iter()
        .filter(|delivery| delivery.subject == stream.subject("New"));
    assert_eq!(new.count(), 200);
    relay.stop().await;
}

fn database_name(database: &Database) -> &str {
    database.url.rsplit('/').next().expect("a name")
}

/// Waits until the ledger in the database holds every event.
async fn await_stored(database: &Database) {
    eventually("the ledger holds every event", SOON, async || {
        let missing: i64 = database
            .value("SELECT count(*) FROM outbox, outbox_ledger WHERE NOT seq <@ delivered")
            .await;
        (missing == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sequence_that_starts_again_under_a_running_relay_stops_the_source() {
    sequence_starts_again(true).await;
}

#[tokio::test]
async fn a_sequence_that_starts_again_while_no_relay_runs_stops_the_source() {
    sequence_starts_again(false).await;
}

/// Every new row would count as delivered: a loud stop that names the way out, and nothing in silence.
async fn sequence_starts_again(while_running: bool) {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database.insert("Before", Some("key"), 100).await;
    let mut relay = Relay::ready(&settings).await;
    stream.await_len(100, SOON).await;
    await_stored(&database).await;
    let change = async || {
        database.execute("TRUNCATE outbox RESTART IDENTITY").await;
        database.insert("After", Some("key"), 150).await;
    };
    if while_running {
        change().await;
    } else {
        relay.stop().await;
        change().await;
        relay = Relay::start(&settings);
    }
    let said = stopped_loudly(&mut relay).await;
    assert!(
        said.contains("outbox-relay ledger reset"),
        "the way out is named:\n{said}"
    );
}

#[tokio::test]
async fn a_ledger_that_was_changed_under_a_running_relay_is_read_anew() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database.insert("First", Some("key"), 100).await;
    let relay = Relay::ready(&settings).await;
    stream.await_len(100, SOON).await;
    await_stored(&database).await;

    // What `replay` does: a range leaves the ledger, under a new token.
    database
        .execute(
            "UPDATE outbox_ledger SET token = gen_random_uuid(), \
             delivered = delivered - (SELECT int8multirange(int8range(min(seq), min(seq) + 40)) FROM outbox)",
        )
        .await;
    database.insert("Second", Some("key"), 10).await;
    let deliveries = stream.await_len(150, SOON).await;
    await_stored(&database).await;
    relay.stop().await;
    let first = deliveries
        .iter()
        .filter(|delivery| delivery.subject == stream.subject("First"));
    assert_eq!(first.count(), 140, "forty are replayed");
}

#[tokio::test]
async fn a_prepared_transaction_across_a_restart_is_delivered() {
    let mut server = PrivatePostgres::start(&["max_prepared_transactions=5"]).await;
    let database = Database::fresh_on(&server.url()).await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut connection = database.connect().await;
    connection
        .execute(
            "BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Prepared', '{}'); PREPARE TRANSACTION 'held'",
        )
        .await
        .expect("prepare");
    connection.close().await.expect("close");
    database.insert("Around", Some("key"), 10).await;
    stream.await_len(10, SOON).await;
    // Long enough for the relay to have listed the holder.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.stop(Stop::Kill).await;
    server.start_again().await;
    database.insert("Around", Some("key"), 10).await;
    stream.await_len(20, Duration::from_secs(20)).await;
    // Long enough to close a hole by evidence of before.
    tokio::time::sleep(Duration::from_secs(4)).await;
    database.execute("COMMIT PREPARED 'held'").await;
    let deliveries = stream.await_len(21, SOON).await;
    assert_eq!(deliveries[20].subject, stream.subject("Prepared"));
    relay.stop().await;
}

#[tokio::test]
async fn tables_whose_order_of_numbers_is_not_ours_are_refused() {
    for (change, said) in [
        ("ALTER TABLE outbox ALTER seq SET CACHE 20", "CACHE"),
        ("ALTER TABLE outbox ALTER seq SET CYCLE", "CYCLE"),
        ("ALTER TABLE outbox ALTER seq SET INCREMENT 2", "INCREMENT"),
        (
            "ALTER TABLE outbox ALTER seq SET GENERATED BY DEFAULT",
            "ALWAYS",
        ),
        ("CREATE TABLE heir () INHERITS (outbox)", "INHERIT"),
    ] {
        let database = Database::fresh().await;
        let settings = Settings::of(&database).set("sinks.events.type", "mock");
        migrate(&settings);
        database.execute(change).await;
        let mut relay = Relay::start(&settings);
        let log = stopped_loudly(&mut relay).await;
        assert!(
            log.to_uppercase().contains(said),
            "after {change} the relay names {said}:\n{log}"
        );
    }
}

#[tokio::test]
async fn row_security_that_is_switched_on_under_a_running_relay_stops_the_source() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let settings = settings.set("sources.main.url", database.url_for_role().await);
    let mut relay = Relay::ready(&settings).await;
    database.insert("Before", Some("key"), 5).await;
    stream.await_len(5, SOON).await;
    await_stored(&database).await;
    database
        .execute(
            "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY others ON outbox USING (event_type <> 'Hidden')",
        )
        .await;
    database.insert("Hidden", Some("key"), 5).await;
    database.insert("Shown", Some("key"), 5).await;
    let log = stopped_loudly(&mut relay).await;
    assert!(log.contains("row security"), "{log}");
    assert_eq!(stream.len().await, 5);
    database
        .execute("ALTER TABLE outbox DISABLE ROW LEVEL SECURITY")
        .await;
    let deliveries = stream.await_len(15, Duration::from_secs(60)).await;
    assert_eq!(deliveries[5].subject, stream.subject("Hidden"));
    relay.stop().await;
}

#[tokio::test]
async fn a_sequence_that_the_role_may_not_read_stops_the_source() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    let url = database.url_for_role().await;
    let role = url.split(['/', '@']).nth(2).expect("a role").to_owned();
    // Enough for the catalog's function, until nothing is drawn.
    database
        .execute(&format!(
            "REVOKE SELECT ON SEQUENCE outbox_seq_seq FROM {role}"
        ))
        .await;
    let settings = settings.set("sources.main.url", url);
    let mut relay = Relay::start(&settings);
    let log = stopped_loudly(&mut relay).await;
    assert!(
        log.contains("GRANT SELECT ON SEQUENCE public.outbox_seq_seq TO"),
        "{log}"
    );
}

#[tokio::test]
async fn a_table_that_a_subscription_fills_is_refused() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    migrate(&settings);
    database
        .execute(
            "CREATE SUBSCRIPTION filled CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p \
             WITH (connect = false, enabled = false, slot_name = NONE)",
        )
        .await;
    // What `REFRESH PUBLICATION` does when it finds the table on the other side.
    database
        .execute(
            "INSERT INTO pg_subscription_rel SELECT oid, 'outbox'::regclass, 'r', NULL FROM pg_subscription \
             WHERE subname = 'filled'",
        )
        .await;
    let mut relay = Relay::start(&settings);
    let log = stopped_loudly(&mut relay).await;
    assert!(log.contains("subscription"), "{log}");
    database.execute("DROP SUBSCRIPTION filled").await;
}

#[tokio::test]
async fn missing_tables_and_newer_tables_end_the_start() {
    let database = Database::fresh().await;
    let settings = Settings::of(&database).set("sinks.events.type", "mock");
    let mut relay = Relay::start(&settings);
    let status = relay.exit(SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        relay.stderr().contains("outbox-relay migrate"),
        "{}",
        relay.stderr()
    );

    migrate(&settings);
    database
        .execute(
            "CREATE TEMPORARY TABLE newest AS \
             SELECT * FROM _outbox_relay_migrations ORDER BY version DESC LIMIT 1; \
             UPDATE newest SET version = version + 1000; \
             INSERT INTO _outbox_relay_migrations SELECT * FROM newest",
        )
        .await;
    let mut relay = Relay::start(&settings);
    let status = relay.exit(SOON).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        relay.stderr().to_lowercase().contains("newer"),
        "{}",
        relay.stderr()
    );
    let again = run(&settings, &["migrate"]);
    assert_eq!(
        again.code,
        Some(1),
        "an older program changes no newer tables: {again:#?}"
    );
}

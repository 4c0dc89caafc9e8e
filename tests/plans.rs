//! Statements that are asked again and again are planned once, where the connection is one to the server itself.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::PrivatePostgres;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// Reads that find little, one after the other.
const ROUNDS: i64 = 40;

/// How many reads the server has executed, and how many of them it has planned.
const READS: &str = "SELECT array[sum(calls)::bigint, sum(plans)::bigint] FROM pg_stat_statements \
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
     AND query LIKE '%WITH fact AS%' AND query NOT LIKE '%pg_stat_statements%'";

/// How many statements were executed that had been prepared.
const PREPARED: &str =
    "SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'PREPARE outbox_%'";

async fn planning_server() -> PrivatePostgres {
    PrivatePostgres::start(&[
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.track_planning=on",
    ])
    .await
}

/// Events one by one, among them holes that fill and holes that don't; executed and planned reads.
async fn follow(database: &Database, settings: Settings) -> (i64, i64) {
    let stream = Stream::create(&nats::shared()).await;
    let settings = settings
        .set("sources.main.poll_interval", "20ms")
        .publishing_to(&stream);
    migrate(&settings);
    database
        .execute("CREATE EXTENSION pg_stat_statements")
        .await;
    let relay = Relay::ready(&settings).await;
    for round in 0..ROUNDS {
        let rolled_back =
            "BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Undone', '{}'); ROLLBACK";
        if round % 10 == 5 {
            database.execute(rolled_back).await;
        }
        database.insert("Planned", Some("key"), 1).await;
        let wanted = (round + 1).unsigned_abs();
        stream.await_len(wanted, Duration::from_secs(20)).await;
    }
    let reads: Vec<i64> = database.value(READS).await;
    relay.stop().await;
    let [executed, planned] = reads[..] else {
        panic!("{reads:?}");
    };
    report!("plans: {executed} reads, {planned} of them planned");
    assert!(executed >= ROUNDS, "every round is a read at least");
    (executed, planned)
}

#[tokio::test]
async fn reads_on_a_connection_to_the_server_are_planned_once() {
    let server = planning_server().await;
    let database = Database::fresh_on(&server.url()).await;
    let (executed, planned) = follow(&database, Settings::of(&database)).await;
    // With and without holes; and those before the first event, whose size nobody knew.
    assert!(
        planned * 2 < executed,
        "{planned} of {executed} reads were planned"
    );
    let prepared: i64 = database.value(PREPARED).await;
    assert_eq!(prepared, 2, "with and without holes");
}

#[tokio::test]
async fn behind_a_pooler_that_swallows_settings_no_statement_is_left_on_its_connections() {
    let server = planning_server().await;
    let database = Database::fresh_on(&server.url()).await;
    let pooler = PgBouncer::swallowing(&database.url).await;
    let through = database.url_through(pooler.port);
    let (executed, planned) = follow(&database, Settings::of_url(&through)).await;
    assert!(
        planned * 2 > executed,
        "{planned} of {executed} reads were planned"
    );
    assert_eq!(database.value::<i64>(PREPARED).await, 0);
}

/// What is planned holds for the columns as they were.
#[tokio::test]
async fn a_column_that_changes_its_type_under_way_costs_no_event() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let mut sent = 0;
    let types = ["varchar(100)", "text", "varchar(200)"];
    for kind in types {
        for _ in 0..3 {
            database.insert("Before", None, 1).await;
            sent += 1;
            stream.await_len(sent, Duration::from_secs(20)).await;
        }
        database
            .execute(&format!("ALTER TABLE outbox ALTER event_type TYPE {kind}"))
            .await;
    }
    database.insert("After", None, 10).await;
    stream.await_len(sent + 10, Duration::from_secs(20)).await;
    // The reader has noticed, or the test shows nothing.
    eventually(
        "a statement was given up",
        Duration::from_secs(5),
        async || {
            relay
                .stderr()
                .contains("cached plan must not change result type")
                .then_some(())
        },
    )
    .await;
    relay.stop().await;
}

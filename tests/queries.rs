//! What the relay asks of the database: index scans, few statements, none of them in anybody's way (I8).

use std::time::Duration;

use sqlx::{Connection, Executor};

use crate::support::database::{Database, TEST_APPLICATION};
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::postgres::PrivatePostgres;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;

/// Rows that are settled already when the relay comes.
const MILLION: &str = "INSERT INTO outbox (event_type, aggregate_id, payload, sent_at) \
     SELECT 'Old', (n % 1000)::text, '{}', now() FROM generate_series(1, 1000000) n";

#[tokio::test]
async fn at_a_million_rows_every_statement_that_touches_the_outbox_uses_its_index() {
    let server = PrivatePostgres::start(&[
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_nested_statements=on",
        "log_line_prefix=<%a>",
        "max_wal_size=4GB",
        "autovacuum=off",
    ])
    .await;
    let database = Database::fresh_on(&server.url()).await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database)
        .set("sources.main.after_delivery", "mark")
        .set("sources.main.settle_interval", "200ms")
        .publishing_to(&stream);
    migrate(&settings);
    database.execute(MILLION).await;
    database.execute("ANALYZE").await;
    database.insert("New", Some("first"), 10).await;
    let relay = Relay::ready(&settings).await;
    stream.await_len(10, Duration::from_secs(20)).await;
    let marked = "SELECT marked @> int8range(1, 1000001) FROM outbox_source";
    assert!(
        database.value::<bool>(marked).await,
        "what was marked before is not looked through"
    );

    // From here on it is under way: a hole that stays, a hole that dies, many events.
    let begun = server.log().len();
    let mut held = database.connect().await;
    held.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '{}')")
        .await
        .expect("insert");
    database
        .execute(
            "BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Undone', '{}'); ROLLBACK",
        )
        .await;
    for _ in 0..5 {
        database.insert("New", None, 1_000).await;
    }
    stream.await_len(5_010, Duration::from_secs(20)).await;
    relay
        .await_metric("outbox_holes", &[], Duration::from_secs(10), |holes| {
            holes == 1.0
        })
        .await;
    held.execute("COMMIT").await.expect("commit");
    held.close().await.expect("close");
    stream.await_len(5_011, Duration::from_secs(10)).await;
    eventually("all are settled", Duration::from_secs(20), async || {
        let sql = "SELECT count(*) FROM outbox WHERE seq > 1000000 AND sent_at IS NULL";
        (database.value::<i64>(sql).await == 0).then_some(())
    })
    .await;
    let settled = relay.metric("outbox_settled_total", &[]).await;
    assert_eq!(settled, Some(5_011.0));
    relay.stop().await;

    let log = server.log();
    let plans: Vec<&str> = plans(&log[begun..]);
    let scans: Vec<&&str> = plans
        .iter()
        .filter(|plan| plan.lines().any(scans_the_outbox))
        .collect();
    let indexed = plans
        .iter()
        .filter(|plan| plan.contains("using outbox_pkey"))
        .count();
    report!("queries: {} plans, {indexed} by the index", plans.len());
    assert!(indexed >= 10, "the reads were seen");
    assert!(
        plans.iter().any(|plan| plan.contains("Tid Scan on outbox")),
        "settling was seen"
    );
    assert!(
        scans.is_empty(),
        "{} whole-table scans, one is:\n{}",
        scans.len(),
        scans[0]
    );
    // Rows come in the index's order; only what holes show is merged with what is new.
    let reads = plans
        .iter()
        .filter(|plan| plan.contains("WITH fact AS") && !plan.contains("AS range"));
    let (sorts, ordered): (Vec<&&str>, Vec<&&str>) = reads.partition(|plan| plan.contains("Sort"));
    assert!(!ordered.is_empty(), "a read without a hole was seen");
    assert!(
        sorts.is_empty(),
        "{} reads that sort, one is:\n{}",
        sorts.len(),
        sorts[0]
    );
}

/// The relay's plans in a server log: auto_explain puts each behind one prefix.
fn plans(log: &str) -> Vec<&str> {
    let own = format!("{TEST_APPLICATION}>");
    log.split("\n<")
        .filter(|entry| entry.contains("plan:") && !entry.trim_start_matches('<').starts_with(&own))
        .collect()
}

/// Whether a line of a plan reads the outbox whole. Other tables, whose names may begin alike, have a few rows.
fn scans_the_outbox(line: &str) -> bool {
    ["Seq Scan on outbox ", "Seq Scan on public.outbox "]
        .iter()
        .any(|scan| line.contains(scan))
}

#[tokio::test]
async fn statements_per_thousand_events_are_few() {
    const EVENTS: i64 = 30_000;
    let server = PrivatePostgres::start(&[
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.track_utility=on",
        "max_wal_size=4GB",
    ])
    .await;
    let database = Database::fresh_on(&server.url()).await;
    let settings = Settings::of(&database)
        .set("sources.main.batch_size", 500)
        .set("sources.main.poll_interval", "1s")
        .set("sinks.events.type", "mock");
    migrate(&settings);
    database
        .execute("CREATE EXTENSION pg_stat_statements")
        .await;
    for _ in 0..10 {
        database.insert("Counted", None, EVENTS / 10).await;
    }
    database
        .value::<String>("SELECT pg_stat_statements_reset()::text")
        .await;
    let relay = Relay::start(&settings);
    eventually("all are published", Duration::from_secs(30), async || {
        let published = relay.metric("outbox_events_published_total", &[]).await?;
        (published >= EVENTS as f64).then_some(())
    })
    .await;
    let sql = "SELECT sum(calls)::bigint FROM pg_stat_statements \
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND query NOT LIKE '%pg_stat_statements%'";
    let statements: i64 = database.value(sql).await;
    relay.stop().await;
    let per_thousand = statements as f64 / (EVENTS as f64 / 1_000.0);
    report!("queries: {statements} statements for {EVENTS} events, {per_thousand:.1} per thousand");
    // Two reads of 500 rows, and a share of flushes, lease renewals and the start.
    assert!(
        per_thousand < 10.0,
        "{per_thousand:.1} statements per thousand events"
    );
}

/// Without checkpoints, for the first change of a page after one logs the whole page; and without autovacuum.
const QUIET: [&str; 4] = [
    "max_wal_size=8GB",
    "checkpoint_timeout=1d",
    "autovacuum=off",
    "wal_level=replica",
];

/// Bytes of WAL that the server has written so far.
const WAL: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";

#[tokio::test]
async fn delivering_writes_next_to_nothing_and_settling_little() {
    const EVENTS: i64 = 20_000;
    let server = PrivatePostgres::start(&QUIET).await;
    let database = Database::fresh_on(&server.url()).await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    database
        .execute(&format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'Counted', (n % 1000)::text, json_build_object('pad', repeat('x', 1000)) \
             FROM generate_series(1, {EVENTS}) n"
        ))
        .await;

    let before: i64 = database.value(WAL).await;
    let relay = Relay::start(&settings);
    let within = Duration::from_secs(60);
    stream.await_len(EVENTS.unsigned_abs(), within).await;
    relay.stop().await;
    let delivered: i64 = database.value(WAL).await;

    let relay = Relay::start(
        &settings
            .clone()
            .set("sources.main.after_delivery", "mark")
            .set("sources.main.settle_interval", "100ms"),
    );
    eventually("all are settled", within, async || {
        let sql = "SELECT sent_at IS NOT NULL FROM outbox ORDER BY seq DESC LIMIT 1";
        database.value::<bool>(sql).await.then_some(())
    })
    .await;
    relay.stop().await;
    let settled: i64 = database.value(WAL).await;

    let hot: f64 = eventually("the updates are counted", within, async || {
        let sql = "SELECT n_tup_upd, n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) \
             FROM pg_stat_user_tables WHERE relname = 'outbox'";
        let mut connection = database.connect().await;
        let counted: (i64, Option<f64>) = sqlx::query_as(sql)
            .fetch_one(&mut connection)
            .await
            .expect("the statistics");
        connection.close().await.expect("close");
        counted.1.filter(|_| counted.0 >= EVENTS)
    })
    .await;
    let per_event = |bytes: i64| bytes as f64 / EVENTS as f64;
    let (delivering, settling) = (
        per_event(delivered - before),
        per_event(settled - delivered),
    );
    report!(
        "queries: {delivering:.2} bytes of WAL per event delivered, {settling:.1} per event settled, {:.1} % HOT",
        hot * 100.0
    );
    assert!(delivering < 5.0, "{delivering:.2} bytes of WAL per event");
    assert!(settling < 110.0, "{settling:.1} bytes of WAL per event");
    assert!(hot > 0.99, "{hot} of the updates are HOT");
}

#[tokio::test]
async fn no_transaction_of_the_relay_stays_open() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    let settings = Settings::of(&database).publishing_to(&stream);
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let sql = format!(
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name <> '{TEST_APPLICATION}'"
    );
    let mut longest = 0.0_f64;
    for _ in 0..20 {
        database.insert("Counted", Some("key"), 100).await;
        longest = longest.max(database.value(&sql).await);
    }
    stream.await_len(2_000, Duration::from_secs(20)).await;
    relay.stop().await;
    assert!(
        longest < 1.0,
        "a transaction of {longest} s while publishing"
    );
}

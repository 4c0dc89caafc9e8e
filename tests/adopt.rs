//! Tables that were there before the relay: `migrate --adopt` on three shapes, under writers that never heard of it
//! (DESIGN: tables; reading, rule 6).

mod refusals;
mod table;

use std::time::Duration;

use sqlx::Connection;
use uuid::Uuid;

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::relay::{Ended, Relay, run};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::stream::Stream;
use crate::support::writers::{Load, Writers};

const SOON: Duration = Duration::from_secs(20);

/// What a worker in Go has: an id of the application's, and a mark.
const PLAIN: &str = "CREATE TABLE outbox (id uuid PRIMARY KEY, event_type text NOT NULL, draft_id uuid NOT NULL, \
     payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), sent_at timestamptz); \
     CREATE INDEX outbox_unsent ON outbox (created_at) WHERE sent_at IS NULL";

/// What Quarkus makes.
const QUARKUS: &str = "CREATE TABLE outboxevent (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
     aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, timestamp timestamp NOT NULL, \
     payload varchar(8000), tracingspancontext varchar(256))";

/// What Debezium's documentation has.
const DEBEZIUM: &str = "CREATE TABLE outboxevent (id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
     aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)";

/// Ids that an application draws before it inserts.
const NUMBERED: &str = "CREATE TABLE outbox (id bigserial PRIMARY KEY, event_type text NOT NULL, aggregate_id text, \
     payload json NOT NULL, created_at timestamptz NOT NULL DEFAULT now())";

fn plain(database: &Database) -> Settings {
    Settings::of(database)
        .set("sources.main.columns.aggregate_id", "draft_id")
        .set("sources.main.columns.aggregate_type", false)
        .set("sources.main.columns.headers", false)
}

fn debezium(database: &Database) -> Settings {
    Settings::of(database)
        .set("sources.main.table", "outboxevent")
        .set("sources.main.columns.aggregate_type", "aggregatetype")
        .set("sources.main.columns.aggregate_id", "aggregateid")
        .set("sources.main.columns.event_type", "type")
        .set("sources.main.columns.headers", false)
        .set("sources.main.columns.sent_at", false)
}

fn numbered(database: &Database) -> Settings {
    Settings::of(database)
        .set("sources.main.columns.id", "event_id")
        .set("sources.main.columns.aggregate_type", false)
        .set("sources.main.columns.headers", false)
        .set("sources.main.columns.sent_at", false)
}

fn with_mock(settings: Settings) -> Settings {
    settings.set("sinks.events.type", "mock")
}

fn adopt(settings: &Settings, arguments: &[&str]) -> Ended {
    let ended = run(settings, &[&["migrate", "--adopt"], arguments].concat());
    assert_eq!(ended.code, Some(0), "adopt: {ended:#?}");
    let story = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("main: "));
    story.for_each(|line| report!("{line}"));
    ended
}

fn refused(settings: &Settings, arguments: &[&str]) -> String {
    let ended = run(settings, &[&["migrate", "--adopt"], arguments].concat());
    assert_eq!(ended.code, Some(1), "it must be refused: {ended:#?}");
    ended.stderr
}

/// Rows of the plain shape, oldest last in the table, three by three of the same time; none is sent.
async fn fill_backwards(database: &Database, rows: i64) {
    database
        .execute(&format!(
            "INSERT INTO outbox (id, event_type, draft_id, payload, created_at) SELECT gen_random_uuid(), 'Old', \
             md5('key')::uuid, jsonb_build_object('n', n), \
             timestamptz '2026-01-01' - n / 3 * interval '1 minute' FROM generate_series(0, {rows} - 1) n"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")] // the writers go on while a command runs
async fn a_workers_table_under_writers_goes_on_where_the_worker_stopped() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    database.execute(PLAIN).await;
    let settings = plain(&database)
        .set("sources.main.mode", "notify")
        .set("sources.main.after_delivery", "mark")
        .set("sources.main.settle_interval", "100ms")
        .publishing_to(&stream);
    let load = Load {
        keys: 100,
        insert: "INSERT INTO outbox (id, event_type, draft_id, payload, created_at) SELECT id, 'Counted', \
                 lpad($2, 32, '0')::uuid, payload::jsonb, clock_timestamp() FROM unnest($1, $3) AS event (id, payload)",
        ..Load::default()
    };
    let writers = Writers::start(&database, load).await;
    writers.until(1_000).await;
    // The worker before has published most of it; some keys were stuck, and what follows them was not.
    let mut connection = database.connect().await;
    let sent: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE outbox SET sent_at = now() WHERE draft_id::text NOT LIKE '%7' RETURNING id",
    )
    .fetch_all(&mut connection)
    .await
    .expect("mark");
    connection.close().await.expect("close");
    writers.until(1_500).await;
    let ended = adopt(&settings, &[]);
    for said in [
        "writers will wait for about",
        "count as delivered",
        "outbox_unsent",
        "GRANT INSERT",
    ] {
        assert!(ended.stdout.contains(said), "{said}: {ended:#?}");
    }
    writers.until(2_000).await;
    let relay = Relay::ready(&settings).await;
    writers.until(4_000).await;
    let mut record = writers.stop().await;
    for id in &sent {
        record
            .committed
            .remove(id)
            .expect("what was sent was committed");
    }
    stream.await_ids(&record.ids(), SOON).await;
    let unmarked = "SELECT count(*) FROM outbox WHERE sent_at IS NULL";
    eventually("every row is marked", SOON, async || {
        (database.value::<i64>(unmarked).await == 0).then_some(())
    })
    .await;
    let figures = check("adopted", &record, &stream.deliveries().await);
    assert_eq!(figures.duplicates, 0, "what was sent is not sent again");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")] // the writers go on while a command runs
async fn a_quarkus_table_is_relayed_under_its_writers() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    database.execute(QUARKUS).await;
    let unmapped = debezium(&database).publishing_to(&stream);
    let said = refused(&unmapped, &["--published-before", "none"]);
    assert!(said.contains("(timestamp) by columns.created_at"), "{said}");
    let settings = unmapped
        .set("sources.main.columns.created_at", "timestamp")
        .set("sources.main.mode", "notify")
        .set("sources.main.after_delivery", "delete")
        .set("sources.main.settle_interval", "100ms");
    let load = Load {
        keys: 100,
        insert: "INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, timestamp, payload) \
                 SELECT id, 'Order', $2, 'Counted', clock_timestamp() AT TIME ZONE 'UTC', payload \
                 FROM unnest($1, $3) AS event (id, payload)",
        ..Load::default()
    };
    let writers = Writers::start(&database, load).await;
    writers.until(500).await;
    adopt(&settings, &["--published-before", "none"]);
    writers.until(1_000).await;
    let relay = Relay::ready(&settings).await;
    writers.until(2_500).await;
    let record = writers.stop().await;
    stream.await_ids(&record.ids(), SOON).await;
    eventually("delivered rows are deleted", SOON, async || {
        (database
            .value::<i64>("SELECT count(*) FROM outboxevent")
            .await
            == 0)
            .then_some(())
    })
    .await;
    let deliveries = stream.deliveries().await;
    let figures = check("quarkus", &record, &deliveries);
    assert_eq!(figures.duplicates, 0);
    relay.stop().await;
}

#[tokio::test]
async fn rows_that_are_deleted_as_they_are_inserted_are_found_out() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    database.execute(DEBEZIUM).await;
    let settings = debezium(&database).publishing_to(&stream);
    let insert = async |key: &str, remove: bool| {
        let remove = if remove {
            "DELETE FROM outboxevent"
        } else {
            ""
        };
        database
            .execute(&format!(
                "BEGIN; INSERT INTO outboxevent SELECT gen_random_uuid(), 'Order', '{key}', 'Placed', \
                 jsonb_build_object('n', n) FROM generate_series(1, 20) n; {remove}; COMMIT"
            ))
            .await;
    };
    insert("removed", true).await;
    eventually("the statistics are there", SOON, async || {
        let deleted = "SELECT coalesce(sum(n_tup_del), 0)::int8 FROM pg_stat_user_tables WHERE relname = 'outboxevent'";
        (database.value::<i64>(deleted).await == 20).then_some(())
    })
    .await;
    let ended = adopt(&settings, &[]);
    for said in [
        "20 rows were inserted and 20 deleted",
        "remove-after-insert=false",
    ] {
        assert!(ended.stdout.contains(said), "{said}: {ended:#?}");
    }
    // It was switched off: the old INSERT, without a list of columns, works with the two new ones.
    insert("kept", false).await;
    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(20, SOON).await;
    let order: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    assert_eq!(order, (1..=20).collect::<Vec<_>>());
    assert_eq!(deliveries[0].envelope()["aggregateId"], "kept");
    relay.stop().await;
}

#[tokio::test]
async fn rows_without_a_time_are_numbered_as_they_lie() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    database.execute(DEBEZIUM).await;
    database
        .execute(
            "INSERT INTO outboxevent SELECT gen_random_uuid(), 'Order', 'key', 'Placed', jsonb_build_object('n', n) \
             FROM generate_series(1, 300) n",
        )
        .await;
    let settings = debezium(&database).publishing_to(&stream);
    let said = refused(&settings, &["--published-before", "2026-01-01T00:00:00Z"]);
    assert!(said.contains("no column that says when"), "{said}");
    adopt(&settings, &["--published-before", "none"]);
    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(300, SOON).await;
    let order: Vec<i64> = deliveries.iter().map(|d| d.number("n")).collect();
    assert_eq!(order, (1..=300).collect::<Vec<_>>());
    relay.stop().await;
}

#[tokio::test]
async fn ids_that_were_drawn_ahead_are_delivered_however_late_they_come() {
    let database = Database::fresh().await;
    let stream = Stream::create(&nats::shared()).await;
    database.execute(NUMBERED).await;
    let settings = numbered(&database).publishing_to(&stream);
    let by_id = settings.clone().set("sources.main.columns.seq", "id");
    let said = refused(&by_id, &["--published-before", "none"]);
    assert!(said.contains("draw such numbers ahead"), "{said}");

    // A block of ids for an instance that is slow to use them.
    database
        .execute("SELECT nextval('outbox_id_seq') FROM generate_series(1, 50)")
        .await;
    let insert = async |first: i64, count: i64| {
        database
            .execute(&format!(
                "INSERT INTO outbox (id, event_type, aggregate_id, payload) SELECT id, 'Placed', 'key', \
                 json_build_object('id', id) FROM generate_series({first}, {first} + {count} - 1) id"
            ))
            .await;
    };
    insert(51, 100).await;
    insert(1, 10).await;
    let ended = adopt(&settings, &["--published-before", "none"]);
    assert!(
        ended
            .stdout
            .contains("\"event_id\", filled by gen_random_uuid()"),
        "{ended:#?}"
    );
    let relay = Relay::ready(&settings).await;
    insert(151, 100).await;
    stream.await_len(210, SOON).await;
    // Far below everything that was read.
    insert(11, 40).await;
    let deliveries = stream.await_len(250, SOON).await;
    let ids: Vec<i64> = deliveries.iter().map(|d| d.number("id")).collect();
    let expected: Vec<i64> = (51..=150)
        .chain(1..=10)
        .chain(151..=250)
        .chain(11..=50)
        .collect();
    assert_eq!(ids, expected, "in the order in which they were inserted");
    relay.stop().await;
}

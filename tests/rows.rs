//! Rows as writers leave them: what can't be told of an event makes it a dead letter, and stops nothing else.

use std::time::Duration;

use sqlx::Executor;

use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::nats;
use crate::support::relay::{Relay, migrate, run};
use crate::support::settings::Settings;
use crate::support::stream::Stream;

const SOON: Duration = Duration::from_secs(60);

async fn setting(database: &Database) -> (Stream, Settings) {
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(database).publishing_to(&stream);
    migrate(&settings);
    (stream, settings)
}

#[tokio::test]
async fn what_can_not_be_read_is_a_dead_letter_and_the_rest_is_delivered() {
    let database = Database::of_any_bytes().await;
    let (stream, settings) = setting(&database).await;
    database
        .execute(
            r#"INSERT INTO outbox (event_type, aggregate_id, payload, headers, created_at) VALUES
             ('Good', 'key', '{}', NULL, now()), (E'Bad\xff', 'key', '{}', NULL, now()),
             ('Good', E'key\xff', '{}', NULL, now()), ('Good', 'key', E'"\xff"', NULL, now()),
             ('Good', 'key', '{}', E'{"a":"\xff"}', now()), ('Good', 'key', '{}', NULL, '294000-01-01'),
             ('Good', 'key', '{}', NULL, 'infinity'), ('Good', 'key', '{}', NULL, '-infinity'),
             ('Last', 'key', '{}', NULL, now())"#,
        )
        .await;
    let relay = Relay::ready(&settings).await;
    eventually("every event is accounted for", SOON, async || {
        let sql = "SELECT delivered::text FROM outbox_ledger";
        (database.value::<String>(sql).await == "{[1,10)}").then_some(())
    })
    .await;
    let deliveries = stream.deliveries().await;
    let subjects: Vec<&str> = deliveries.iter().map(|d| d.subject.as_str()).collect();
    assert_eq!(subjects, [stream.subject("Good"), stream.subject("Last")]);
    let reasons: String = database
        .value("SELECT string_agg(seq || ' ' || reason, '\n' ORDER BY seq) FROM outbox_dead_letter")
        .await;
    let expected = [
        "2 the row can't be read: event_type is not UTF-8",
        "3 the row can't be read: aggregate_id is not UTF-8",
        "4 the payload is not JSON",
        "5 the row can't be read: headers is not UTF-8",
        "6 the row can't be read: created_at is infinite or beyond",
        "7 the row can't be read: created_at is infinite or beyond",
        "8 the row can't be read: created_at is infinite or beyond",
    ];
    let reasons: Vec<&str> = reasons.lines().collect();
    assert_eq!(reasons.len(), expected.len(), "{reasons:#?}");
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.starts_with(expected), "{reason}");
    }
    assert_eq!(run(&settings, &["status"]).code, Some(0));

    // What its reason says.
    database
        .execute("UPDATE outbox SET created_at = now() WHERE seq = 7")
        .await;
    let retry = ["dead-letters", "retry", "--all"];
    let ended = run(&settings, &retry);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    stream.await_len(3, SOON).await;
    relay.stop().await;

    let replay = ["replay", "--sink", "events", "--from-seq", "1", "--dry-run"];
    let ended = run(&settings, &replay);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

#[tokio::test]
async fn bytes_are_read_rightly_whatever_form_the_role_wants_them_in() {
    let database = Database::fresh().await;
    let (stream, settings) = setting(&database).await;
    let settings = settings.set("sinks.events.envelope.format", "raw");
    database
        .execute(
            "ALTER TABLE outbox ALTER payload TYPE bytea USING ''; \
             INSERT INTO outbox (event_type, payload) VALUES ('Bytes', '\\x00ff5c61')",
        )
        .await;
    let name: String = database.value("SELECT current_database()::text").await;
    database
        .execute(&format!(
            "ALTER DATABASE {name} SET bytea_output = 'escape'"
        ))
        .await;
    let relay = Relay::ready(&settings).await;
    let deliveries = stream.await_len(1, SOON).await;
    assert_eq!(deliveries[0].body[..], b"\x00\xff\\a"[..]);
    relay.stop().await;
}

/// `id` is the name of one column in the table and of another one in the relay.
#[tokio::test]
async fn a_seq_that_is_called_id_is_in_order_all_the_same() {
    let database = Database::fresh().await;
    let stream = Stream::create_forgetful(&nats::shared()).await;
    let settings = Settings::of(&database)
        .set("sources.main.columns.seq", "id")
        .set("sources.main.columns.id", "event_id")
        .set("sources.main.batch_size", 100)
        .publishing_to(&stream);
    database
        .execute(
            "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
             event_id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), event_type text NOT NULL, aggregate_type text, \
             aggregate_id text, payload jsonb NOT NULL, headers jsonb, \
             created_at timestamptz NOT NULL DEFAULT now(), sent_at timestamptz)",
        )
        .await;
    migrate(&settings);
    // A hole of many rows, and many rows behind it: more of one key than are kept, so that some are fetched again.
    let mut held = database.connect().await;
    let insert = |first: i64, last: i64| {
        format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'Placed', 'key', json_build_object('n', n) FROM generate_series({first}, {last}) n"
        )
    };
    held.execute("BEGIN").await.expect("begin");
    held.execute(sqlx::AssertSqlSafe(insert(1, 200)))
        .await
        .expect("rows");
    database.execute(&insert(201, 500)).await;
    let relay = Relay::ready(&settings).await;
    let order = async |count: u64| -> Vec<i64> {
        let deliveries = stream.await_len(count, SOON).await;
        deliveries.iter().map(|d| d.number("n")).collect()
    };
    let mut expected: Vec<i64> = (201..=500).collect();
    assert_eq!(order(300).await, expected);
    held.execute("COMMIT").await.expect("commit");
    expected.extend(1..=200);
    assert_eq!(order(500).await, expected);
    relay.stop().await;
}

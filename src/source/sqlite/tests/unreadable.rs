//! Rows that no message can be made of.

use super::*;

/// The same columns without the conditions that keep writers from most of this.
const LENIENT: &str = "DROP TABLE outbox; CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, \
    id DEFAULT (randomblob(16)), event_type, aggregate_type, aggregate_id, payload, headers, \
    created_at DEFAULT '2024-01-01 00:00:00', sent_at)";

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_event_with_a_flaw() {
    let outbox = Outbox::new().await;
    outbox.execute(LENIENT).await;
    migrate(&outbox.config).await.expect("migrated");
    let not_utf8 = "CAST(x'61ff62' AS TEXT)";
    let cases = [
        ("event_type", not_utf8, "event_type is not UTF-8"),
        ("event_type", "NULL", "event_type is NULL"),
        ("aggregate_type", not_utf8, "aggregate_type is not UTF-8"),
        ("aggregate_id", not_utf8, "aggregate_id is not UTF-8"),
        ("headers", not_utf8, "headers is not UTF-8"),
        ("payload", "NULL", "payload is NULL"),
        ("id", "'nobody'", "id is no UUID"),
        ("created_at", "'soon'", "created_at is no time"),
        ("created_at", "'now'", "created_at is no time"),
        ("created_at", "1704067200", "created_at is no time"),
        ("created_at", "2460310.5", "created_at is no time"),
        ("created_at", "x'ff'", "created_at is no time"),
        ("created_at", "NULL", "created_at is no time"),
        ("created_at", not_utf8, "created_at is no time"),
        (
            "created_at",
            "'-4713-11-25 00:00:00'",
            "created_at is no time",
        ),
        (
            "created_at",
            "'99999-01-01 00:00:00'",
            "created_at is no time",
        ),
    ];
    for (column, value, _) in cases {
        let mut row = vec![("event_type", "'Happened'"), ("payload", "'1'")];
        row.retain(|(name, _)| *name != column);
        row.push((column, value));
        let (names, given): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        let (names, given) = (names.join(", "), given.join(", "));
        outbox
            .execute(&format!("INSERT INTO outbox ({names}) VALUES ({given})"))
            .await;
    }
    outbox.write(1).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let batch = reader.read(ALL.0, ALL.1).await.expect("read");
    assert_eq!(batch.events.len(), cases.len() + 1);
    for (event, (column, value, said)) in batch.events.iter().zip(cases) {
        let flaw = event.flaw.as_deref().unwrap_or_default();
        assert!(flaw.contains(said), "{column} = {value}: {flaw:?}");
    }
    assert_eq!(batch.events[0].event_type, "a\u{fffd}b");
    assert_eq!(batch.events[cases.len()].flaw, None);
    // As dead letters they are stored, shown, and retried once somebody has mended the row.
    let mut store = source.ledger_store(&grant.lease, "out");
    let mut with_letters = flush("{[1,18)}");
    with_letters.dead_letters = batch.events[..cases.len()]
        .iter()
        .map(|event| DeadLetter {
            event: Arc::clone(event),
            reason: "can't be read".into(),
            attempts: 1,
        })
        .collect();
    store.flush(&with_letters).await.expect("stored");
    use crate::source::dead_letters::{DeadLetters, Retry};
    let ids: Vec<i64> = (1..=16).collect();
    for id in &ids {
        let letter = DeadLetters::read(&source, *id).await.expect("shown");
        assert!(letter.is_some());
    }
    let retried = source.retry("out", &ids).await.expect("no error");
    assert_eq!(
        retried,
        Retry::Done {
            retried: 16,
            gone: 0
        }
    );
}

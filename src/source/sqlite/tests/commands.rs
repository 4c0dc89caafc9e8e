//! What commands do to ledgers.

use super::*;
use crate::config::Start;
use crate::source::bookkeeping::{Bookkeeping as _, LedgerEntry, LedgerName};

fn named(sink: &str) -> LedgerName {
    LedgerName {
        relay: "main".into(),
        source: "app".into(),
        sink: sink.into(),
    }
}

async fn listed(source: &Sqlite) -> Vec<LedgerEntry> {
    source.list().await.expect("listed")
}

/// An outbox of four rows, and its source with a ledger each for `left` and `right`.
async fn with_ledgers() -> (Outbox, Sqlite, Grant) {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    let source = outbox.source();
    source.inspect().await.expect("fit");
    let grant = source.acquire(&sinks(&["left", "right"])).await;
    let grant = grant.expect("no error").expect("free");
    let mut store = source.ledger_store(&grant.lease, "left");
    store.flush(&flush("{[1,3)}")).await.expect("stored");
    (outbox, source, grant)
}

#[tokio::test]
async fn every_ledger_of_the_table_is_listed() {
    let (outbox, source, grant) = with_ledgers().await;
    outbox
        .execute(
            "INSERT INTO outbox_source (relay, source, table_name, incarnation) VALUES \
             ('other', 'app', 'Outbox', 'before'), ('other', 'else', 'elsewhere', 'x'); \
             INSERT INTO outbox_ledger (relay, source, sink, token, delivered) VALUES \
             ('other', 'app', 'far', 'x', '{[1,2)}'), ('other', 'else', 'far', 'x', '{}'); \
             UPDATE outbox_ledger SET updated_at = '2024-01-01T00:00:00.500Z', token = 'a command' \
             WHERE sink = 'left'",
        )
        .await;
    let entries = listed(&source).await;
    let names: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.relay.as_str(), entry.name.sink.as_str()))
        .collect();
    assert_eq!(
        names,
        [("main", "left"), ("main", "right"), ("other", "far")]
    );
    assert_eq!(entries[0].delivered, ranges("{[1,3)}"));
    assert_eq!(entries[0].updated_at.timestamp_millis(), 1_704_067_200_500);
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.holder.is_some(), entry.changed, entry.stale))
        .collect();
    let expected = [
        (true, true, false),
        (true, false, false),
        (false, false, true),
    ];
    assert_eq!(told, expected);
    source.release(&grant.lease).await.expect("released");
    assert!(
        listed(&source)
            .await
            .iter()
            .all(|entry| entry.holder.is_none() && !entry.changed)
    );
}

#[tokio::test]
async fn a_dropped_ledger_no_longer_decides() {
    let (outbox, source, grant) = with_ledgers().await;
    assert!(!source.drop_ledger(&named("none")).await.expect("no error"));
    assert!(source.drop_ledger(&named("right")).await.expect("no error"));
    assert!(!source.drop_ledger(&named("right")).await.expect("no error"));
    let mut store = source.ledger_store(&grant.lease, "right");
    let fenced = store.flush(&flush("{[1,5)}")).await;
    assert!(matches!(fenced, Err(SourceError::Fenced)), "{fenced:?}");
    let settler = source.settler(&grant.lease).await.expect("no error");
    let settled = settler.expect("marks").settle().await.expect("settled");
    assert_eq!(settled.marked, 2);
    drop(outbox);
}

#[tokio::test]
async fn a_renamed_ledger_takes_its_dead_letters_along() {
    let (outbox, source, grant) = with_ledgers().await;
    let mut store = source.ledger_store(&grant.lease, "left");
    let mut refused = flush("{[1,3)}");
    refused.dead_letters.push(DeadLetter {
        event: crate::fixture::numbered(2),
        reason: "no".into(),
        attempts: 1,
    });
    store.flush(&refused).await.expect("stored");
    let taken = source.rename(&named("left"), "right").await;
    assert!(
        matches!(taken, Err(SourceError::Database { .. })),
        "{taken:?}"
    );
    assert!(
        !source
            .rename(&named("none"), "new")
            .await
            .expect("no error")
    );
    assert!(
        source
            .rename(&named("left"), "new")
            .await
            .expect("no error")
    );
    let entries = listed(&source).await;
    assert_eq!(entries[0].name, named("new"));
    assert_eq!(entries[0].delivered, ranges("{[1,3)}"));
    let letters: Vec<String> = sqlx::query_scalar("SELECT sink FROM outbox_dead_letter")
        .fetch_all(&mut outbox.app().await)
        .await
        .expect("read");
    assert_eq!(letters, ["new"]);
    let mut store = source.ledger_store(&grant.lease, "new");
    let fenced = store.flush(&flush("{[1,5)}")).await;
    assert!(matches!(fenced, Err(SourceError::Fenced)), "{fenced:?}");
}

#[tokio::test]
async fn reset_ledgers_start_anew_as_told() {
    let (outbox, source, grant) = with_ledgers().await;
    outbox
        .execute(
            "UPDATE outbox SET sent_at = created_at WHERE seq < 4; \
             UPDATE outbox_source SET deleted = '{[1,2)}', marked = '{[1,5)}'; \
             UPDATE outbox_ledger SET closed = '{[1,2)}'",
        )
        .await;
    for (start, delivered, marked) in [
        (Start::Earliest, "{}", "{}"),
        (Start::Unsettled, "{[1,4)}", "{[1,4)}"),
        (Start::Latest, "{[1,5)}", "{}"),
    ] {
        let started = source.reset(start).await.expect("reset");
        let expected = ["left", "right"].map(|sink| (sink.to_owned(), ranges(delivered)));
        assert_eq!(started, expected);
        let stored: Vec<(String, String, String, String)> = sqlx::query_as(
            "SELECT delivered, closed, marked, deleted FROM outbox_ledger JOIN outbox_source USING (relay, source)",
        )
        .fetch_all(&mut outbox.app().await)
        .await
        .expect("read");
        let row = [delivered, "{}", marked, "{}"].map(str::to_owned);
        assert!(
            stored
                .iter()
                .all(|it| [&it.0, &it.1, &it.2, &it.3] == row.each_ref()),
            "{stored:?}"
        );
    }
    let mut store = source.ledger_store(&grant.lease, "left");
    let fenced = store.flush(&flush("{[1,5)}")).await;
    assert!(matches!(fenced, Err(SourceError::Fenced)), "{fenced:?}");
}

#[tokio::test]
async fn a_table_that_counts_anew_is_told_apart_from_what_it_was_for_every_relay() {
    let (outbox, source, grant) = with_ledgers().await;
    let mut store = source.ledger_store(&grant.lease, "left");
    store.flush(&flush("{[1,5)}")).await.expect("stored");
    let other = outbox.source_of("other", "");
    let theirs = other
        .acquire(&sinks(&["out"]))
        .await
        .expect("no error")
        .expect("free");
    let mut store = other.ledger_store(&theirs.lease, "out");
    store.flush(&flush("{[1,5)}")).await.expect("stored");
    outbox
        .execute("DELETE FROM outbox; DELETE FROM sqlite_sequence WHERE name = 'outbox'")
        .await;
    let refused = source.acquire(&sinks(&["left", "right"])).await;
    assert!(
        matches!(refused, Err(SourceError::Refused(_))),
        "{refused:?}"
    );
    source.reset(Start::Earliest).await.expect("reset");
    // It comes as far as the other relay's ledger reaches, which still speaks of what was there before.
    outbox.write(4).await;
    let stale: Vec<bool> = listed(&source)
        .await
        .iter()
        .map(|entry| entry.stale)
        .collect();
    assert_eq!(stale, [false, false, true]);
    let refused = other.acquire(&sinks(&["out"])).await;
    assert!(
        matches!(refused, Err(SourceError::Refused(_))),
        "{refused:?}"
    );
    other.reset(Start::Earliest).await.expect("reset");
    assert!(listed(&source).await.iter().all(|entry| !entry.stale));
    let grant = source
        .acquire(&sinks(&["left", "right"]))
        .await
        .expect("no error");
    assert!(grant.is_some());
}

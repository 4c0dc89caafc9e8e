//! What becomes of rows that every ledger has.

use super::*;
use crate::source::{Settled, Settler};

const NOTHING: Settled = Settled {
    marked: 0,
    deleted: 0,
    expired: 0,
    more: false,
};

impl Outbox {
    /// Many rows at once.
    async fn fill(&self, rows: usize) {
        self.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO outbox (event_type, payload) SELECT 'Happened', CAST(i AS TEXT) FROM n"
        ))
        .await;
    }

    /// The `seq` of the rows for which `condition` holds.
    async fn rows(&self, condition: &str) -> Vec<i64> {
        let sql = format!("SELECT seq FROM outbox WHERE {condition} ORDER BY seq");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut self.app().await)
            .await
            .expect("read")
    }

    /// What the file remembers of settled rows.
    async fn recorded(&self) -> (String, String) {
        let sql = "SELECT marked, deleted FROM outbox_source WHERE relay = 'main'";
        sqlx::query_as(sql)
            .fetch_one(&mut self.app().await)
            .await
            .expect("read")
    }

    /// A ledger that another relay keeps of the table.
    async fn stranger(&self, delivered: &str) {
        self.execute(&format!(
            "INSERT INTO outbox_source (relay, source, table_name, incarnation) SELECT 'other', 'theirs', \
             'OUTBOX', incarnation FROM outbox_incarnation; INSERT INTO outbox_ledger \
             (relay, source, sink, token, delivered) VALUES ('other', 'theirs', 'far', 'x', '{delivered}')"
        ))
        .await;
    }
}

/// A settler of a source whose ledger has `delivered`.
async fn settler_of(source: &Sqlite, delivered: &str) -> Box<dyn Settler> {
    let grant = acquired(source).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    store.flush(&flush(delivered)).await.expect("stored");
    let settler = source.settler(&grant.lease).await.expect("no error");
    settler.expect("there is something to settle")
}

async fn settled(settler: &mut Box<dyn Settler>) -> Settled {
    settler.settle().await.expect("settled")
}

#[tokio::test]
async fn delivered_rows_are_marked_once() {
    let outbox = Outbox::new().await;
    outbox.write(4).await;
    let source = outbox.source();
    let mut settler = settler_of(&source, "{[1,3),[4,5)}").await;
    let marked = Settled {
        marked: 3,
        ..NOTHING
    };
    assert_eq!(settled(&mut settler).await, marked);
    let marked = "sent_at LIKE '____-__-__T__:__:__.___Z'";
    assert_eq!(outbox.rows(marked).await, [1, 2, 4]);
    assert_eq!(outbox.rows("sent_at IS NULL").await, [3]);
    assert_eq!(outbox.recorded().await.0, "{[1,3),[4,5)}");
    // An application that takes the mark off has its reasons; and who takes over doesn't look again.
    outbox.execute("UPDATE outbox SET sent_at = NULL").await;
    assert_eq!(settled(&mut settler).await, NOTHING);
    outbox
        .execute("UPDATE outbox_lease SET expires_at = 0")
        .await;
    let mut next = settler_of(&outbox.source(), "{[1,3),[4,5)}").await;
    assert_eq!(settled(&mut next).await, NOTHING);
}

#[tokio::test]
async fn delivered_rows_are_deleted_and_remembered() {
    let outbox = Outbox::new().await;
    outbox.write(5).await;
    outbox.execute("DELETE FROM outbox WHERE seq = 2").await;
    let source = outbox.source_of("main", "after_delivery = 'delete'");
    let mut settler = settler_of(&source, "{[1,4)}").await;
    let deleted = Settled {
        deleted: 2,
        ..NOTHING
    };
    assert_eq!(settled(&mut settler).await, deleted);
    assert_eq!(outbox.rows("true").await, [4, 5]);
    assert_eq!(outbox.recorded().await.1, "{[1,4)}");
    assert_eq!(settled(&mut settler).await, NOTHING);
}

#[tokio::test]
async fn rows_are_kept_if_so_configured() {
    let outbox = Outbox::new().await;
    let source = outbox.source_of("main", "after_delivery = 'keep'");
    let grant = acquired(&source).await;
    let settler = source.settler(&grant.lease).await.expect("no error");
    assert!(settler.is_none());
}

#[tokio::test]
async fn rows_past_their_retention_are_deleted_if_every_ledger_has_them() {
    let outbox = Outbox::new().await;
    outbox.write(5).await;
    let old =
        "UPDATE outbox SET created_at = '2024-01-01T02:00:00.123456+02:00' WHERE seq IN (2, 3, 5)";
    outbox.execute(old).await;
    let keep = "after_delivery = 'keep'\nretention = '1h'";
    let source = outbox.source_of("main", keep);
    let mut settler = settler_of(&source, "{[1,5)}").await;
    let done = settled(&mut settler).await;
    assert_eq!((done.expired, done.deleted, done.marked), (2, 0, 0));
    assert_eq!(outbox.rows("true").await, [1, 4, 5]);
    assert_eq!(outbox.recorded().await.1, "{[2,4)}");
    // What is left of them is young: not looked at again for a while.
    assert!(done.more);
    assert_eq!(settled(&mut settler).await, NOTHING);
    outbox
        .execute("UPDATE outbox SET created_at = '2024-01-01T00:00:00Z'")
        .await;
    assert_eq!(settled(&mut settler).await, NOTHING);
}

#[tokio::test]
async fn a_step_is_bounded_and_the_next_goes_on() {
    let outbox = Outbox::new().await;
    outbox.fill(12_001).await;
    outbox
        .execute("DELETE FROM outbox WHERE seq BETWEEN 2 AND 2000")
        .await;
    let mut settler = settler_of(&outbox.source(), "{[1,12001)}").await;
    let mut steps = Vec::new();
    while steps.last().is_none_or(|&(_, more)| more) {
        let step = settled(&mut settler).await;
        steps.push((step.marked, step.more));
    }
    assert_eq!(steps, [(3_001, true), (5_000, true), (2_000, false)]);
    assert_eq!(outbox.rows("sent_at IS NULL").await, [12_001]);
    assert_eq!(settled(&mut settler).await, NOTHING);
}

#[tokio::test]
async fn a_ledger_of_another_relay_holds_rows_back() {
    let outbox = Outbox::new().await;
    outbox.write(6).await;
    outbox.stranger("{[2,4)}").await;
    let delete = "after_delivery = 'delete'\nretention = '1s'";
    let source = outbox.source_of("main", delete);
    outbox
        .execute("UPDATE outbox SET created_at = '2024-01-01'")
        .await;
    let mut settler = settler_of(&source, "{[1,6)}").await;
    assert_eq!(settled(&mut settler).await.deleted, 2);
    assert_eq!(outbox.rows("true").await, [1, 4, 5, 6]);
    // Whatever it loses, nothing more is settled.
    outbox
        .execute("UPDATE outbox_ledger SET delivered = '{}' WHERE relay = 'other'")
        .await;
    assert_eq!(settled(&mut settler).await, NOTHING);
    // What a hole was closed for may show there yet.
    outbox
        .execute("UPDATE outbox_ledger SET delivered = '{[1,7)}', closed = '{[4,5)}' WHERE relay = 'other'")
        .await;
    settled(&mut settler).await;
    assert_eq!(outbox.rows("true").await, [4, 6]);
}

#[tokio::test]
async fn a_ledger_of_another_table_counts_as_empty() {
    for stale in [
        "UPDATE outbox_source SET incarnation = 'before' WHERE relay = 'other'",
        "UPDATE outbox_ledger SET delivered = '{[1,9)}' WHERE relay = 'other'",
    ] {
        let outbox = Outbox::new().await;
        outbox.write(3).await;
        outbox.stranger("{[1,4)}").await;
        outbox.execute(stale).await;
        let mut settler = settler_of(&outbox.source(), "{[1,4)}").await;
        assert_eq!(settled(&mut settler).await, NOTHING, "{stale}");
    }
}

#[tokio::test]
async fn nothing_is_settled_in_a_table_that_was_made_anew() {
    let outbox = Outbox::new().await;
    outbox.write(3).await;
    let mut settler = settler_of(&outbox.source(), "{[1,4)}").await;
    outbox
        .execute("UPDATE outbox_incarnation SET incarnation = 'another'")
        .await;
    let changed = settler.settle().await;
    assert!(matches!(changed, Err(SourceError::Changed)), "{changed:?}");
    assert!(outbox.rows("sent_at IS NOT NULL").await.is_empty());
}

#[tokio::test]
async fn what_was_marked_before_the_first_ledger_is_not_looked_at() {
    let outbox = Outbox::new().await;
    outbox.write(5).await;
    outbox
        .execute("UPDATE outbox SET sent_at = created_at WHERE seq < 4")
        .await;
    let source = outbox.source();
    acquired(&source).await;
    assert_eq!(outbox.recorded().await.0, "{[1,4)}");
}

#[tokio::test]
async fn rows_of_open_dead_letters_are_deleted_only_when_the_letters_are_gone() {
    let outbox = Outbox::new().await;
    outbox.fill(30_000).await;
    let source = outbox.source_of("main", "after_delivery = 'delete'\nretention = '1h'");
    let mut settler = settler_of(&source, "{[1,30001)}").await;
    // One more than are held back one by one: from the last on nothing is deleted.
    outbox
        .execute(
            "INSERT INTO outbox_dead_letter (relay, source, sink, seq, event_id, event_type, payload, payload_type, \
             created_at, reason, attempts) SELECT 'main', 'app', 'out', seq, id, 'T', '', 'json', '', '', 1 \
             FROM outbox WHERE seq % 2 = 0 AND seq <= 20002",
        )
        .await;
    while settled(&mut settler).await != NOTHING {}
    let odd = "seq % 2 = 1 AND seq < 20002";
    assert_eq!(outbox.rows(odd).await, [0; 0]);
    assert_eq!(outbox.rows("true").await.len(), 19_999);
    let (_, deleted) = outbox.recorded().await;
    assert!(!ranges(&deleted).contains(2), "it can still be retried");
    outbox.execute("DELETE FROM outbox_dead_letter").await;
    while settled(&mut settler).await != NOTHING {}
    assert_eq!(outbox.rows("true").await, [0; 0]);
}

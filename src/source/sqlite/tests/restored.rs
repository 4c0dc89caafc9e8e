//! Files that were set back in place, under a relay that remembers more.

use super::*;

impl Outbox {
    fn copy(&self) -> PathBuf {
        self.folder.join("copy.db")
    }

    /// Takes a copy of the file as it is now.
    async fn back_up(&self) {
        std::fs::remove_file(self.copy()).ok();
        let sql = format!("VACUUM INTO '{}'", self.copy().display());
        self.execute(&sql).await;
    }

    /// Puts the copy's content into the file, in one transaction, as the backup API does: the file stays the same,
    /// and so do the names inside.
    async fn restore(&self) {
        let mut sql = format!(
            "ATTACH '{}' AS copy; BEGIN IMMEDIATE; DELETE FROM main.sqlite_sequence; ",
            self.copy().display()
        );
        for table in [
            "outbox",
            "outbox_lease",
            "outbox_ledger",
            "outbox_incarnation",
            "outbox_source",
            "outbox_dead_letter",
            "sqlite_sequence",
        ] {
            sql.push_str(&format!(
                "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM copy.{table} ORDER BY 1; "
            ));
        }
        self.execute(&(sql + "COMMIT")).await;
    }
}

/// Reads what is there, and says which.
async fn read(reader: &mut Box<dyn Reader>) -> Vec<i64> {
    seqs(&reader.read(ALL.0, ALL.1).await.expect("read").events)
}

fn changed<T: std::fmt::Debug>(result: Result<T, SourceError>) {
    assert!(matches!(result, Err(SourceError::Changed)), "{result:?}");
}

#[tokio::test]
async fn an_older_copy_restored_into_the_file_is_another_incarnation() {
    let outbox = Outbox::new().await;
    outbox.write(2).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    assert_eq!(read(&mut reader).await, [1, 2]);
    store.flush(&flush("{[1,3)}")).await.expect("stored");
    outbox.back_up().await;
    assert!(source.renew(&grant.lease).await.expect("no error"));
    // Another that has read nothing knows what all of the holding know.
    let mut fresh = reader_of(&source, &grant).await;
    outbox.write(3).await;
    assert_eq!(read(&mut reader).await, [3, 4, 5]);
    outbox.restore().await;
    // These take the same numbers.
    outbox.write(4).await;
    changed(reader.read(ALL.0, ALL.1).await);
    changed(fresh.fetch(&[1], usize::MAX).await);
    changed(fresh.unread().await);
    changed(store.flush(&flush("{[1,6)}")).await);
    changed(store.still_ours().await);
    assert!(!source.renew(&grant.lease).await.expect("no error"));
    // What the file says now counts, and nothing of what was remembered.
    let grant = acquired(&source).await;
    assert_eq!(grant.ledgers[0].delivered, ranges("{[1,3)}"));
    let mut reader = reader_of(&source, &grant).await;
    assert_eq!(read(&mut reader).await, [3, 4, 5, 6]);
    let mut store = source.ledger_store(&grant.lease, "out");
    store.flush(&flush("{[1,7)}")).await.expect("stored");
    // Even if no row tells: a ledger of before may lack what a command has changed since.
    outbox.back_up().await;
    assert!(source.renew(&grant.lease).await.expect("no error"));
    outbox.restore().await;
    changed(store.still_ours().await);
    changed(reader.unread().await);
}

#[tokio::test]
async fn a_copy_that_the_counter_cannot_tell_is_known_by_the_newest_event() {
    let outbox = Outbox::new().await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    outbox.back_up().await;
    outbox.write(2).await;
    assert_eq!(read(&mut reader).await, [1, 2]);
    outbox.restore().await;
    outbox.write(3).await;
    changed(store.flush(&flush("{[1,3)}")).await);
    changed(store.still_ours().await);
    changed(reader.read(ALL.0, ALL.1).await);
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    assert_eq!(read(&mut reader).await, [1, 2, 3]);
}

#[tokio::test]
async fn an_emptied_sqlite_sequence_is_noticed_once_numbers_come_twice() {
    let outbox = Outbox::new().await;
    outbox.write(5).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    let mut store = source.ledger_store(&grant.lease, "out");
    assert_eq!(read(&mut reader).await, [1, 2, 3, 4, 5]);
    store.flush(&flush("{[1,6)}")).await.expect("stored");
    // While the highest row stands, the numbers go on behind it, and a writer can't choose one below.
    outbox
        .execute("DELETE FROM outbox WHERE seq IN (2, 3); DELETE FROM sqlite_sequence")
        .await;
    let below = "INSERT INTO outbox (seq, event_type, payload) VALUES (3, 'Happened', '1')";
    assert!(outbox.app().await.execute(below).await.is_err());
    assert!(read(&mut reader).await.is_empty());
    outbox.write(1).await;
    assert_eq!(read(&mut reader).await, [6]);
    store.flush(&flush("{[1,7)}")).await.expect("stored");
    // Now they begin anew, and come further than the ledger before anybody looks.
    outbox
        .execute("DELETE FROM outbox; DELETE FROM sqlite_sequence")
        .await;
    outbox.write(8).await;
    changed(reader.read(ALL.0, ALL.1).await);
    changed(store.flush(&flush("{[1,7)}")).await);
    let refused = |result: Result<Option<Grant>, SourceError>| {
        assert!(
            matches!(&result, Err(SourceError::Refused(reason))
                if reason.contains("seq 6 is another") && reason.contains("ledger reset --source app")),
            "{result:?}"
        );
    };
    refused(source.acquire(&sinks(&["out"])).await);
    // A relay that did not run meanwhile knows it from the file.
    outbox
        .execute("UPDATE outbox_lease SET expires_at = 0")
        .await;
    let next = outbox.source();
    refused(next.acquire(&sinks(&["out"])).await);
    use crate::source::bookkeeping::Bookkeeping as _;
    next.reset(config::Start::Unsettled).await.expect("reset");
    let grant = acquired(&next).await;
    let mut reader = reader_of(&next, &grant).await;
    assert_eq!(read(&mut reader).await, [1, 2, 3, 4, 5, 6, 7, 8]);
}

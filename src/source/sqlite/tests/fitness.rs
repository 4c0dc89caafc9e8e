//! Files and tables that are not, or no longer, what they must be.

use super::*;

#[tokio::test]
async fn a_file_put_in_place_of_another_is_noticed() {
    let outbox = Outbox::new().await;
    let other = Outbox::new().await;
    outbox.write(3).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    assert_eq!(
        reader.read(ALL.0, ALL.1).await.expect("read").events.len(),
        3
    );
    let mut store = source.ledger_store(&grant.lease, "out");
    store.flush(&flush("{[1,4)}")).await.expect("stored");
    // The connections still have the old file open, and would go on with it.
    std::fs::rename(&other.config.path, &outbox.config.path).expect("replaced");
    for suffix in ["-wal", "-shm"] {
        let log = format!("{}{suffix}", outbox.config.path.display());
        std::fs::remove_file(log).ok();
    }
    let read = reader.read(ALL.0, ALL.1).await;
    assert!(matches!(read, Err(SourceError::Changed)), "{read:?}");
    let stored = store.flush(&flush("{[1,4)}")).await;
    assert!(matches!(stored, Err(SourceError::Changed)), "{stored:?}");
    assert!(!source.renew(&grant.lease).await.expect("no error"));
    // Nor do they go on with the new one.
    assert!(matches!(
        reader.read(ALL.0, ALL.1).await,
        Err(SourceError::Changed)
    ));
    assert!(matches!(
        store.flush(&flush("{[1,4)}")).await,
        Err(SourceError::Changed)
    ));
    assert!(!source.renew(&grant.lease).await.expect("no error"));
    // It is another outbox, with no ledger yet.
    let grant = acquired(&source).await;
    assert!(grant.ledgers[0].delivered.is_empty());
}

#[tokio::test]
async fn numbers_that_begin_anew_are_refused() {
    let outbox = Outbox::new().await;
    outbox.write(5).await;
    let source = outbox.source();
    let grant = acquired(&source).await;
    let mut reader = reader_of(&source, &grant).await;
    reader.read(ALL.0, ALL.1).await.expect("read");
    source
        .ledger_store(&grant.lease, "out")
        .flush(&flush("{[1,6)}"))
        .await
        .expect("stored");
    outbox
        .execute("DELETE FROM outbox; DELETE FROM sqlite_sequence")
        .await;
    outbox.write(1).await;
    assert!(matches!(
        reader.read(ALL.0, ALL.1).await,
        Err(SourceError::Changed)
    ));
    let refused = source.acquire(&sinks(&["out"])).await;
    let Err(SourceError::Refused(reason)) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert!(
        reason.contains("reach up to 5, but seq has only come to 1"),
        "{reason}"
    );
    // A table of the same name, even if it has come further.
    outbox.execute("DROP TABLE outbox").await;
    assert!(matches!(
        source.inspect().await,
        Err(SourceError::Migrate(_))
    ));
    migrate(&outbox.config).await.expect("migrated");
    outbox.write(9).await;
    let refused = source.acquire(&sinks(&["out"])).await;
    let Err(SourceError::Refused(reason)) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert!(reason.contains("was made anew"), "{reason}");
}

#[tokio::test]
async fn unfit_files_are_refused_and_migrate_mends_what_it_can() {
    let outbox = Outbox::new().await;
    let source = outbox.source();
    for (damage, said) in [
        ("DROP TRIGGER outbox_seq_is_drawn", "lacks the triggers"),
        ("DELETE FROM outbox_incarnation", "are missing beside"),
        ("PRAGMA journal_mode = delete", "journal mode delete"),
        (
            "DELETE FROM _outbox_relay_migrations WHERE version = 2; ALTER TABLE outbox_lease DROP COLUMN changes; \
             ALTER TABLE outbox_lease DROP COLUMN newest_seq; ALTER TABLE outbox_lease DROP COLUMN newest_id",
            "older than this relay needs",
        ),
        ("DROP TABLE outbox", "there is no table"),
    ] {
        // The journal mode changes only while nobody else has the file open.
        source.link.lock().await.close().await;
        outbox.execute(damage).await;
        let unfit = source.inspect().await;
        let Err(SourceError::Migrate(reason)) = unfit else {
            panic!("{damage}: {unfit:?}");
        };
        assert!(
            reason.contains(said) && reason.contains("migrate"),
            "{reason}"
        );
        migrate(&outbox.config).await.expect(damage);
        source.inspect().await.expect(damage);
    }
    outbox
        .execute("UPDATE _outbox_relay_migrations SET version = 99 WHERE version = 2")
        .await;
    assert!(matches!(
        source.inspect().await,
        Err(SourceError::Migrate(_))
    ));
    assert!(matches!(
        migrate(&outbox.config).await,
        Err(SourceError::Refused(_))
    ));
    outbox
        .execute("DELETE FROM _outbox_relay_migrations; INSERT INTO _outbox_relay_migrations VALUES (1, 'relay', ''), (2, 'holding', ''); \
            DROP TABLE outbox; CREATE TABLE outbox (seq INTEGER PRIMARY KEY, id, event_type, aggregate_type, \
            aggregate_id, payload, headers, created_at, sent_at)")
        .await;
    let unfit = source.inspect().await;
    assert!(
        matches!(&unfit, Err(SourceError::Refused(reason)) if reason.contains("AUTOINCREMENT")),
        "{unfit:?}"
    );
    std::fs::remove_dir_all(&outbox.folder).expect("removed");
    let unfit = source.inspect().await;
    assert!(
        matches!(&unfit, Err(SourceError::Migrate(reason)) if reason.contains("there is no file")),
        "{unfit:?}"
    );
}

#[tokio::test]
async fn the_printed_sql_makes_what_migrate_makes() {
    let made = Outbox::new().await;
    let printed_config = config::Sqlite {
        path: made.folder.join("printed.db"),
        table: "outbox".to_owned(),
    };
    let options = SqliteConnectOptions::new()
        .filename(&printed_config.path)
        .create_if_missing(true);
    let mut connection = options.connect().await.expect("opened");
    connection
        .execute(AssertSqlSafe(printed(&printed_config)))
        .await
        .expect("valid SQL");
    let schema = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
    let by_hand: Vec<(String, String)> = sqlx::query_as(schema)
        .fetch_all(&mut connection)
        .await
        .expect("read");
    let by_command: Vec<(String, String)> = sqlx::query_as(schema)
        .fetch_all(&mut made.app().await)
        .await
        .expect("read");
    assert_eq!(by_hand, by_command);
    assert_eq!(
        migrate(&printed_config).await.expect("nothing to do").len(),
        2
    );
}

#[tokio::test]
async fn tables_whose_rows_would_not_stay_as_they_are_are_refused() {
    const COLUMNS: &str =
        "id, event_type, aggregate_type, aggregate_id, payload, headers, created_at, sent_at";
    let key = "seq INTEGER PRIMARY KEY AUTOINCREMENT";
    for (sql, said) in [
        (
            format!("CREATE TABLE outbox (seq INTEGER PRIMARY KEY /* AUTOINCREMENT */, {COLUMNS})"),
            "AUTOINCREMENT",
        ),
        (
            format!("CREATE TABLE outbox (seq INTEGER PRIMARY KEY, {COLUMNS}) WITHOUT ROWID"),
            "AUTOINCREMENT",
        ),
        (
            format!(
                "CREATE TABLE kept ({key}, {COLUMNS}); CREATE VIEW outbox AS SELECT * FROM kept"
            ),
            "is a view",
        ),
        (
            format!("CREATE TABLE outbox ({key}, {COLUMNS}, UNIQUE (id) ON CONFLICT REPLACE)"),
            "ON CONFLICT REPLACE",
        ),
        (
            format!(
                "CREATE TABLE draft (id INTEGER PRIMARY KEY); CREATE TABLE outbox ({key}, {COLUMNS}, \
                 FOREIGN KEY (aggregate_id) REFERENCES draft ON DELETE CASCADE)"
            ),
            "ON DELETE CASCADE",
        ),
        (
            format!(
                "CREATE TABLE outbox ({key}, {COLUMNS}); CREATE TRIGGER tidy AFTER INSERT ON outbox \
                 BEGIN DELETE FROM outbox WHERE seq < NEW.seq - 100; END"
            ),
            "the trigger tidy deletes rows",
        ),
        (
            format!(
                "CREATE TABLE outbox ({key}, {COLUMNS}); CREATE TABLE draft (id); CREATE TRIGGER renamed \
                 AFTER UPDATE ON draft BEGIN UPDATE outbox SET aggregate_id = NEW.id; END"
            ),
            "the trigger renamed changes rows",
        ),
        (
            "CREATE VIRTUAL TABLE outbox USING fts5(seq)".to_owned(),
            "is a virtual table",
        ),
    ] {
        let outbox = Outbox::new().await;
        outbox.execute(&format!("DROP TABLE outbox; {sql}")).await;
        for refused in [
            migrate(&outbox.config).await.map(|_| ()),
            outbox.source().inspect().await,
        ] {
            assert!(
                matches!(&refused, Err(SourceError::Refused(reason)) if reason.contains(said)),
                "{sql}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_of_another_encoding_is_refused() {
    let outbox = Outbox::new().await;
    let config = config::Sqlite {
        path: outbox.folder.join("utf16.db"),
        table: "outbox".to_owned(),
    };
    let options = SqliteConnectOptions::new()
        .filename(&config.path)
        .create_if_missing(true);
    let mut connection = options.connect().await.expect("opened");
    connection
        .execute("PRAGMA encoding = 'UTF-16'; CREATE TABLE draft (id)")
        .await
        .expect("made");
    let refused = migrate(&config).await;
    assert!(
        matches!(&refused, Err(SourceError::Refused(reason)) if reason.contains("UTF-16")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_guard_that_was_changed_is_made_anew() {
    let outbox = Outbox::new().await;
    outbox
        .execute(
            "DROP TRIGGER outbox_seq_is_drawn; CREATE TRIGGER outbox_seq_is_drawn AFTER INSERT ON outbox \
             WHEN 0 BEGIN SELECT RAISE(ABORT, 'never'); END",
        )
        .await;
    let unfit = outbox.source().inspect().await;
    assert!(matches!(unfit, Err(SourceError::Migrate(_))), "{unfit:?}");
    migrate(&outbox.config).await.expect("migrated");
    outbox.source().inspect().await.expect("fit");
    outbox.write(2).await;
    let below = "INSERT INTO outbox (seq, event_type, payload) VALUES (-1, 'Happened', '1')";
    assert!(outbox.app().await.execute(below).await.is_err());
}

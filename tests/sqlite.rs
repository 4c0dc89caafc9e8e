//! The relay on a SQLite file: the same promises, without a server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng as _;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::eventually::{at_most, eventually};
use crate::support::process::Signal;
use crate::support::relay::{Relay, migrate, run};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::temporary::TemporaryFolder;

const KEYS: usize = 5;

/// What writers did: ids of events by key in the order of their commits, and those that must never be seen.
#[derive(Debug, Default)]
struct Record {
    committed: BTreeMap<String, BTreeMap<i64, Uuid>>,
    rolled_back: BTreeSet<Uuid>,
}

impl Record {
    fn merge(&mut self, other: Self) {
        for (key, events) in other.committed {
            self.committed.entry(key).or_default().extend(events);
        }
        self.rolled_back.extend(other.rolled_back);
    }

    fn ids(&self) -> BTreeSet<Uuid> {
        let events = self.committed.values().flat_map(BTreeMap::values);
        events.copied().collect()
    }
}

pub(crate) async fn open(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file);
    let options = options.busy_timeout(Duration::from_secs(20));
    options.connect().await.expect("open the file")
}

/// A folder with a migrated file.
fn outbox() -> (TemporaryFolder, PathBuf, Settings) {
    let folder = TemporaryFolder::new("sqlite");
    let file = folder.path().join("app.db");
    let settings = Settings::of_file(&file);
    migrate(&settings);
    (folder, file, settings)
}

/// Writers on the same keys, whose counters say in which order they committed.
async fn start_writers(file: &Path, stop: &CancellationToken) -> JoinSet<Record> {
    let mut connection = open(file).await;
    let counters = "CREATE TABLE counter (key TEXT PRIMARY KEY, n INTEGER NOT NULL)";
    connection.execute(counters).await.expect("create counters");
    let mut writers = JoinSet::new();
    for _ in 0..3 {
        let (file, stop) = (file.to_owned(), stop.clone());
        writers.spawn(async move {
            let mut connection = open(&file).await;
            let mut record = Record::default();
            while !stop.is_cancelled() {
                transaction(&mut connection, &mut record).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            record
        });
    }
    writers
}

/// One to four events, the third of them rolled back to a savepoint; one transaction in eight rolled back.
async fn transaction(connection: &mut SqliteConnection, record: &mut Record) {
    let (events, fails) = {
        let mut random = rand::rng();
        (random.random_range(1..=4), random.random_ratio(1, 8))
    };
    let mut written = Vec::new();
    let begin = connection.begin_with("BEGIN IMMEDIATE");
    let mut transaction = begin.await.expect("begin");
    for number in 0..events {
        let key = format!("key-{}", rand::rng().random_range(0..KEYS));
        if number == 2 {
            let mut savepoint = transaction.begin().await.expect("a savepoint");
            let (id, _) = insert(&mut savepoint, &key).await;
            savepoint.rollback().await.expect("roll back to it");
            record.rolled_back.insert(id);
        }
        let (id, n) = insert(&mut transaction, &key).await;
        written.push((key, n, id));
    }
    if fails {
        transaction.rollback().await.expect("roll back");
        record
            .rolled_back
            .extend(written.iter().map(|(_, _, id)| id));
        return;
    }
    transaction.commit().await.expect("commit");
    for (key, n, id) in written {
        record.committed.entry(key).or_default().insert(n, id);
    }
}

async fn insert(connection: &mut SqliteConnection, key: &str) -> (Uuid, i64) {
    let counted =
        "INSERT INTO counter VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET n = n + 1 RETURNING n";
    let n: i64 = sqlx::query_scalar(counted)
        .bind(key)
        .fetch_one(&mut *connection)
        .await
        .expect("count");
    let id = Uuid::now_v7();
    let event =
        "INSERT INTO outbox (id, event_type, aggregate_id, payload) VALUES (?, 'Counted', ?, ?)";
    sqlx::query(event)
        .bind(id.to_string())
        .bind(key)
        .bind(format!(r#"{{"n":{n}}}"#))
        .execute(connection)
        .await
        .expect("insert an event");
    (id, n)
}

/// Compares the lines of all relays, one after the other, with the record.
fn check(record: &Record, lines: &[String]) {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let mut duplicates = 0;
    for line in lines {
        // A killed relay may leave a torn line; what it was to say comes again.
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let id = event["eventId"].as_str().expect("an id");
        let id: Uuid = id.parse().expect("a UUID");
        assert!(!record.rolled_back.contains(&id), "rolled back: {line}");
        if !seen.insert(id) {
            duplicates += 1;
            continue;
        }
        let key = event["aggregateId"].as_str().expect("a key").to_owned();
        let n = event["payload"]["n"].as_i64().expect("a number");
        let before = last.insert(key, n);
        assert!(before < Some(n), "{before:?} before {line}");
    }
    let missing: Vec<_> = record.ids().difference(&seen).copied().collect();
    report!(
        "{} committed, {} rolled back, {duplicates} delivered twice",
        record.ids().len(),
        record.rolled_back.len()
    );
    assert!(missing.is_empty(), "{} lost: {missing:?}", missing.len());
    assert_eq!(seen, record.ids(), "nothing but what was committed");
    assert!(duplicates < seen.len() / 4, "{duplicates} duplicates");
}

fn seen(lines: &[String], ids: &BTreeSet<Uuid>) -> bool {
    let text = lines.join("\n");
    ids.iter().all(|id| text.contains(&id.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_relay_is_killed() {
    let (_folder, file, settings) = outbox();
    let stop = CancellationToken::new();
    let mut writers = start_writers(&file, &stop).await;
    let first = Relay::ready(&settings).await;
    eventually("events are printed", Duration::from_secs(20), async || {
        (first.stdout().len() > 300).then_some(())
    })
    .await;
    let mut lines = first.output_after(Signal::Kill).await;
    let printed = lines.len();
    // It waits for the lease of the dead one to run out.
    let second = Relay::ready(&settings).await;
    eventually("it takes over", Duration::from_secs(30), async || {
        (second.stdout().len() > 300).then_some(())
    })
    .await;
    stop.cancel();
    let mut record = Record::default();
    while let Some(written) = writers.join_next().await {
        record.merge(written.expect("a writer's record"));
    }
    let ids = record.ids();
    eventually("all are printed", Duration::from_secs(20), async || {
        let both: Vec<String> = lines.iter().cloned().chain(second.stdout()).collect();
        seen(&both, &ids).then_some(())
    })
    .await;
    lines.extend(second.output_after(Signal::Terminate).await);
    report!("{printed} lines before the kill, {} in all", lines.len());
    check(&record, &lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_over_at_once_and_repeats_nothing() {
    let (_folder, file, settings) = outbox();
    let stop = CancellationToken::new();
    let mut writers = start_writers(&file, &stop).await;
    let first = Relay::ready(&settings).await;
    eventually("events are printed", Duration::from_secs(20), async || {
        (!first.stdout().is_empty()).then_some(())
    })
    .await;
    let second = Relay::ready(&settings).await;
    assert_eq!(second.stdout().len(), 0, "one of two publishes");
    let mut lines = first.output_after(Signal::Terminate).await;
    at_most("the other goes on", Duration::from_secs(6), async || {
        (second.stdout().len() > 100).then_some(())
    })
    .await;
    stop.cancel();
    let mut record = Record::default();
    while let Some(written) = writers.join_next().await {
        record.merge(written.expect("a writer's record"));
    }
    let total = record.ids().len();
    eventually("all are printed", Duration::from_secs(20), async || {
        (lines.len() + second.stdout().len() >= total).then_some(())
    })
    .await;
    lines.extend(second.output_after(Signal::Terminate).await);
    assert_eq!(lines.len(), total, "each once");
    check(&record, &lines);
}

#[tokio::test]
async fn a_running_relay_goes_on_with_a_file_that_is_put_in_place() {
    let (folder, file, settings) = outbox();
    let relay = Relay::ready(&settings).await;
    let restored = folder.path().join("restored.db");
    let elsewhere = Settings::of_file(&restored);
    migrate(&elsewhere);
    let emitted = run(&elsewhere, &["emit", "Restored", "--key", "k"]);
    assert_eq!(emitted.code, Some(0), "{emitted:#?}");
    // Everything into the one file that is moved.
    let mut checkpoint = open(&restored).await;
    let pragma = checkpoint.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    pragma.await.expect("checkpoint");
    checkpoint.close().await.expect("close");
    for suffix in ["-wal", "-shm"] {
        let mut beside = file.clone().into_os_string();
        beside.push(suffix);
        // It is there only while the relay has the file open.
        drop(std::fs::remove_file(beside));
    }
    std::fs::rename(&restored, &file).expect("replace the file");
    eventually(
        "its event is printed",
        Duration::from_secs(20),
        async || {
            let lines = relay.stdout();
            lines
                .iter()
                .any(|line| line.contains(emitted.stdout.trim()))
                .then_some(())
        },
    )
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_dead_letter_and_holds_up_no_other() {
    let (_folder, file, settings) = outbox();
    let mut app = open(&file).await;
    app.execute(
        "INSERT INTO outbox (event_type, aggregate_id, payload) VALUES ('A', 'k', '1'), \
         (CAST(x'ff' AS TEXT), 'k', '2'), ('A', CAST(x'ff' AS TEXT), '3'), ('A', 'k', '4')",
    )
    .await
    .expect("written");
    let relay = Relay::ready(&settings).await;
    let letters = async || {
        let sql = "SELECT seq, reason FROM outbox_dead_letter ORDER BY seq";
        let mut connection = open(&file).await;
        let letters: Vec<(i64, String)> = sqlx::query_as(sql)
            .fetch_all(&mut connection)
            .await
            .expect("read");
        letters
    };
    eventually("all are through", Duration::from_secs(60), async || {
        (relay.stdout().len() == 2 && letters().await.len() == 2).then_some(())
    })
    .await;
    let letters = letters().await;
    assert_eq!((letters[0].0, letters[1].0), (2, 3), "{letters:?}");
    assert!(
        letters[0].1.contains("event_type is not UTF-8"),
        "{letters:?}"
    );
    assert!(
        letters[1].1.contains("aggregate_id is not UTF-8"),
        "{letters:?}"
    );
    // Mended and retried, it is delivered.
    app.execute("UPDATE outbox SET event_type = 'A' WHERE seq = 2")
        .await
        .expect("mended");
    let retried = run(&settings, &["dead-letters", "retry", "--all"]);
    assert_eq!(retried.code, Some(0), "{retried:#?}");
    eventually("it is printed", Duration::from_secs(60), async || {
        let lines = relay.stdout();
        lines
            .iter()
            .any(|line| line.contains(r#""payload":2"#))
            .then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn commands_work_on_a_file() {
    let folder = TemporaryFolder::new("sqlite");
    let settings = Settings::of_file(&folder.path().join("app.db"));
    let check = run(&settings, &["check", "--connect"]);
    assert_eq!(check.code, Some(1), "{check:#?}");
    assert!(check.stdout.contains("there is no file"), "{check:#?}");
    let start = run(&settings, &[]);
    assert_eq!(start.code, Some(1), "{start:#?}");
    assert!(start.stderr.contains("outbox-relay migrate"), "{start:#?}");
    let printed = run(&settings, &["migrate", "--print"]);
    migrate(&settings);
    let check = run(&settings, &["check", "--connect"]);
    assert_eq!(check.code, Some(0), "{check:#?}");
    let emit = run(&settings, &["emit", "PickMade", "--count", "3"]);
    assert_eq!((emit.code, emit.stdout.trim()), (Some(0), "3 events"));
    let relay = Relay::ready(&settings).await;
    eventually("all are printed", Duration::from_secs(10), async || {
        (relay.stdout().len() == 3).then_some(())
    })
    .await;
    relay.stop().await;
    // What is printed can be run by hand.
    let mut by_hand = SqliteConnectOptions::new()
        .filename(folder.path().join("by-hand.db"))
        .create_if_missing(true)
        .connect()
        .await
        .expect("create a file");
    by_hand
        .execute(AssertSqlSafe(printed.stdout))
        .await
        .expect("valid SQL");
    by_hand.close().await.expect("close");
    let check = run(
        &Settings::of_file(&folder.path().join("by-hand.db")),
        &["check", "--connect"],
    );
    assert_eq!(check.code, Some(0), "{check:#?}");
}

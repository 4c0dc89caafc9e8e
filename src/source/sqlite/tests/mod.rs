//! The contract of a source, on real files.

mod commands;
mod fitness;
mod overview;
mod owning;
mod reading;
mod restored;
mod settling;
mod unreadable;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use uuid::Uuid;

use super::*;
use crate::enqueue::NewEvent;
use crate::event::{Event, Payload};
use crate::source::{DeadLetter, EventWriter as _, Flush};

/// No limit.
const ALL: (usize, usize) = (1_000, usize::MAX);

/// A folder with a migrated file, removed on drop.
struct Outbox {
    folder: PathBuf,
    config: config::Sqlite,
}

impl Outbox {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("outbox-relay-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a temporary folder");
        let config = config::Sqlite {
            path: folder.join("app.db"),
            table: "outbox".to_owned(),
        };
        let outbox = Self { folder, config };
        migrate(&outbox.config).await.expect("migrated");
        outbox
    }

    fn source(&self) -> Sqlite {
        self.source_of("main", "")
    }

    /// A source of another relay, or with further settings.
    fn source_of(&self, relay: &str, settings: &str) -> Sqlite {
        let text = format!(
            "[relay]\nname = '{relay}'\n[sources.app]\ntype = 'sqlite'\npath = '{}'\n{settings}\n\
             [sinks.out]\ntype = 'stdout'\n",
            self.config.path.display()
        );
        let loaded = config::Config::from_toml(&text, &config::Environment::default());
        let config = loaded.expect("valid").config;
        Sqlite::new(&config.relay, &config.sources["app"], &self.config)
    }

    /// A connection as an application would have it.
    async fn app(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(&self.config.path);
        options.connect().await.expect("opened")
    }

    async fn execute(&self, sql: &str) {
        let mut app = self.app().await;
        app.execute(AssertSqlSafe(sql.to_owned())).await.expect(sql);
        app.close().await.expect("closed");
    }

    async fn write(&self, events: usize) {
        for n in 0..events {
            let sql =
                format!("INSERT INTO outbox (event_type, payload) VALUES ('Happened', '{n}')");
            self.execute(&sql).await;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn sinks(names: &[&str]) -> Vec<SinkStart> {
    let start = |name: &&str| SinkStart {
        sink: (*name).to_owned(),
        start: None,
    };
    names.iter().map(start).collect()
}

async fn acquired(source: &Sqlite) -> Grant {
    source.inspect().await.expect("fit");
    let grant = source.acquire(&sinks(&["out"])).await.expect("no error");
    grant.expect("nobody else has it")
}

async fn reader_of(source: &Sqlite, grant: &Grant) -> Box<dyn Reader> {
    let delivered = &grant.ledgers[0].delivered;
    source
        .reader(&grant.lease, delivered)
        .await
        .expect("a reader")
}

fn flush(delivered: &str) -> Flush {
    Flush {
        delivered: delivered.to_owned(),
        closed: "{}".to_owned(),
        dead_letters: Vec::new(),
    }
}

fn seqs(events: &[Arc<Event>]) -> Vec<i64> {
    events.iter().map(|event| event.seq).collect()
}

fn ranges(text: &str) -> RangeSet {
    RangeSet::parse(text).expect("a multirange")
}

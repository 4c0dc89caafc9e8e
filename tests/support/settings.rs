//! Configurations of the relay under test.

use std::path::Path;

use toml::{Table, Value};

use super::database::Database;
use super::stream::Stream;

/// A configuration as TOML, changed key by key.
#[derive(Debug, Clone)]
pub(crate) struct Settings(Table);

impl Settings {
    /// A source `main` in poll mode on this database, and no sink yet. Rows stay as they are, so that tests
    /// can compare.
    pub(crate) fn of(database: &Database) -> Self {
        Self::of_url(&database.url)
    }

    /// The same for a database by its URL.
    pub(crate) fn of_url(url: &str) -> Self {
        Self(Table::new())
            .set("relay.name", "test")
            .set("relay.shutdown_timeout", "10s")
            .set("sources.main.type", "postgres")
            .set("sources.main.url", url)
            .set("sources.main.mode", "poll")
            .set("sources.main.poll_interval", "50ms")
            .set("sources.main.after_delivery", "keep")
    }

    /// A source `main` on this SQLite file, and a sink `lines` that prints.
    pub(crate) fn of_file(file: &Path) -> Self {
        Self(Table::new())
            .set("relay.name", "test")
            .set("sources.main.type", "sqlite")
            .set_file("sources.main.path", file)
            .set("sources.main.poll_interval", "20ms")
            .set("sinks.lines.type", "stdout")
            .set("sinks.lines.flush_interval", "100ms")
    }

    /// With a sink `events` that publishes into a stream, which exists already.
    pub(crate) fn publishing_to(self, stream: &Stream) -> Self {
        self.publishing("events", stream)
    }

    /// With a sink of this name that publishes into a stream.
    pub(crate) fn publishing(self, sink: &str, stream: &Stream) -> Self {
        let subject = stream.subject("{event_type}");
        self.set(&format!("sinks.{sink}.type"), "jetstream")
            .set(&format!("sinks.{sink}.url"), stream.url.as_str())
            .set(&format!("sinks.{sink}.subject"), subject)
            .set(&format!("sinks.{sink}.flush_interval"), "200ms")
    }

    /// Sets a key by its path.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().expect("a path");
        let mut table = &mut self.0;
        for key in keys {
            table = table
                .entry(key)
                .or_insert_with(|| Table::new().into())
                .as_table_mut()
                .expect("a table on the way");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Sets a key to a file's path.
    pub(crate) fn set_file(self, path: &str, file: &Path) -> Self {
        self.set(path, file.to_str().expect("a path in UTF-8"))
    }

    /// Takes out a key, or a table with all of its keys.
    pub(crate) fn without(mut self, path: &str) -> Self {
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().expect("a path");
        let mut table = &mut self.0;
        for key in keys {
            let value = table.get_mut(key).expect("a key on the way");
            table = value.as_table_mut().expect("a table on the way");
        }
        table.remove(last).expect("a key to take out");
        self
    }

    /// With a source of this name on another database, like `main`.
    pub(crate) fn reading(self, source: &str, url: &str) -> Self {
        let key = |key: &str| format!("sources.{source}.{key}");
        self.set(&key("type"), "postgres")
            .set(&key("url"), url)
            .set(&key("mode"), "poll")
            .set(&key("poll_interval"), "50ms")
            .set(&key("after_delivery"), "keep")
    }

    pub(crate) fn toml(&self) -> String {
        toml::to_string(&self.0).expect("a table is TOML")
    }
}

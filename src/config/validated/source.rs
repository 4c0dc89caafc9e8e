//! Sources: a table in a database, and how it is watched.

use std::path::PathBuf;
use std::time::Duration;

use super::{Contents, Secret, Tls};

/// `[sources.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The key under `[sources]`.
    pub name: String,
    /// Events read per statement at most.
    pub batch_size: u32,
    /// How often an idle table is read in poll mode.
    pub poll_interval: Duration,
    /// What happens to delivered rows.
    pub after_delivery: AfterDelivery,
    /// Settled events older than this are deleted.
    pub retention: Option<Duration>,
    /// How often delivered rows are settled.
    pub settle_interval: Duration,
    /// What kind of database it is.
    pub kind: SourceKind,
}

/// What `type` a source has, with that type's own settings.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // there are a handful of sources
pub enum SourceKind {
    /// `type = "postgres"`
    Postgres(Postgres),
    /// `type = "sqlite"`
    Sqlite(Sqlite),
}

/// Settings of a PostgreSQL source.
#[derive(Debug, Clone, PartialEq)]
pub struct Postgres {
    /// Connection URL with its password.
    pub url: Secret,
    /// What the files hold that the URL names, such as `sslrootcert`.
    pub url_files: Contents,
    /// How the table is watched.
    pub mode: Mode,
    /// The outbox table.
    pub table: TableName,
    /// Names of the outbox table's columns.
    pub columns: Columns,
    /// Deliver only what a crash of the server can't take back.
    pub wait_for_flush: bool,
    /// Files for TLS; whether TLS is used is said by the URL's `sslmode`, `verify-full` where `ca` is set.
    pub tls: Option<Tls>,
}

/// Settings of a SQLite source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqlite {
    /// The database file.
    pub path: PathBuf,
    /// The outbox table.
    pub table: String,
}

/// How a source is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read every `poll_interval` when idle.
    Poll,
    /// Woken by the doorbell; read every `fallback` when it stays silent.
    Notify {
        /// The longest wait for a ring.
        fallback: Duration,
    },
}

/// A table's name, as it is to be quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema; `None`: found by the connection's `search_path`.
    pub schema: Option<String>,
    /// The table.
    pub name: String,
}

/// Names of the outbox table's columns. `None` where the table has no such column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Columns {
    pub seq: String,
    pub id: String,
    pub event_type: String,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    pub payload: String,
    pub headers: Option<String>,
    pub created_at: String,
    pub sent_at: Option<String>,
}

/// What happens to rows that every ledger has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDelivery {
    /// `sent_at` is set.
    Mark,
    /// The row is deleted.
    Delete,
    /// Nothing.
    Keep,
}

//! `[sources.NAME]` as typed.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ColumnName, DurationText, Tls};
use crate::config::Secret;

/// One source: what all types have, and what its type has.
#[derive(Debug, Clone)]
pub(in crate::config) struct Source {
    /// Keys of every type.
    pub(in crate::config) common: SourceCommon,
    /// Keys of its own; `None` if it has no valid type.
    pub(in crate::config) kind: Option<SourceKind>,
}

/// A source's type with its keys.
#[derive(Debug, Clone)]
pub(in crate::config) enum SourceKind {
    /// `type = "postgres"`
    Postgres(Box<Postgres>),
    /// `type = "sqlite"`
    Sqlite(Sqlite),
}

/// Keys of every `[sources.NAME]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct SourceCommon {
    /// Events read per statement at most, 1 to 10000. Default 500: more costs memory and gains little.
    pub(in crate::config) batch_size: Option<u32>,
    /// How often the table is read while nothing happens; while there is more it is read at once. Default "5s".
    pub(in crate::config) poll_interval: Option<DurationText>,
    /// What happens to rows that every sink has: mark (sets sent_at), delete or keep. Default "mark".
    #[schemars(extend("enum" = ["mark", "delete", "keep"]))]
    pub(in crate::config) after_delivery: Option<String>,
    /// Rows that every sink has are deleted when they are older than this. Default: never.
    pub(in crate::config) retention: Option<DurationText>,
    /// How often rows that every sink has are settled: marked, deleted or found too old. Default "1s".
    pub(in crate::config) settle_interval: Option<DurationText>,
}

/// Keys of a source of type `postgres`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Postgres {
    /// Connection URL: postgres://user:password@host:port/database. Required, unless DATABASE_URL is set.
    pub(in crate::config) url: Option<Secret>,
    /// How the table is watched: poll (read every poll_interval) or notify (woken by the writers). Default "notify".
    #[schemars(extend("enum" = ["poll", "notify"]))]
    pub(in crate::config) mode: Option<String>,
    /// With mode notify: how often the table is read although nobody rang. Default "30s".
    pub(in crate::config) fallback_interval: Option<DurationText>,
    /// The outbox table, NAME or SCHEMA.NAME, spelled exactly as the database has it. Default "outbox", found by
    /// the connection's search_path.
    pub(in crate::config) table: Option<String>,
    /// Deliver only what a crash of the server can't take back: for writers that use synchronous_commit = off.
    /// Default false, for it costs a look at the server's log position per read.
    pub(in crate::config) wait_for_flush: Option<bool>,
    /// Names of the table's columns, where they are not the standard ones.
    pub(in crate::config) columns: Columns,
    /// Files for TLS. Whether TLS is used is said by the URL's sslmode; it is verify-full where ca is set.
    pub(in crate::config) tls: Option<Tls>,
}

/// `[sources.NAME.columns]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Columns {
    /// bigint GENERATED ALWAYS AS IDENTITY, for the relay alone. Default "seq".
    pub(in crate::config) seq: Option<String>,
    /// uuid: the event's identity. Default "id".
    pub(in crate::config) id: Option<String>,
    /// text: what happened. Default "event_type".
    pub(in crate::config) event_type: Option<String>,
    /// text: the kind of thing it happened to; false if there is no such column. Default "aggregate_type".
    pub(in crate::config) aggregate_type: Option<ColumnName>,
    /// The ordering key; false if there is no such column, and then nothing is ordered. Default "aggregate_id".
    pub(in crate::config) aggregate_id: Option<ColumnName>,
    /// json, jsonb, text or bytea: the payload. Default "payload".
    pub(in crate::config) payload: Option<String>,
    /// jsonb: headers that travel with the message; false if there is no such column. Default "headers".
    pub(in crate::config) headers: Option<ColumnName>,
    /// timestamptz: when it happened. Default "created_at".
    pub(in crate::config) created_at: Option<String>,
    /// timestamptz: set by after_delivery = "mark"; false if there is no such column. Default "sent_at".
    pub(in crate::config) sent_at: Option<ColumnName>,
}

/// Keys of a source of type `sqlite`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Sqlite {
    /// The database file. Required.
    pub(in crate::config) path: Option<String>,
    /// The outbox table. Default "outbox".
    pub(in crate::config) table: Option<String>,
}

//! The tables: made by `outbox-relay migrate`, printed by `migrate --print`.
//!
//! Bookkeeping has a table of its own name, for the application may use sqlx's migrations too.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::inspect;
use super::link::{Link, limited};
use super::shape::Shape;
use super::sql::{self, GUARD, Names};
use crate::config;
use crate::source::SourceError;

const MIGRATE: &str = "cannot migrate the tables";

/// The relay's own tables, oldest migration first. A migration that was released never changes.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "relay",
        include_str!("../../../migrations/sqlite/0001_relay.sql"),
    ),
    (
        "holding",
        include_str!("../../../migrations/sqlite/0002_holding.sql"),
    ),
];

const OUTBOX: &str = include_str!("../../../migrations/sqlite/outbox.sql");

const BOOKKEEPING: &str = "CREATE TABLE IF NOT EXISTS _outbox_relay_migrations (\n    \
    version    INTEGER PRIMARY KEY,\n    name       TEXT NOT NULL,\n    \
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))\n);\n";

/// The version of the relay's tables that this relay works with.
#[allow(clippy::cast_possible_wrap)] // a handful of migrations
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Makes whatever is missing, the file too, in one transaction, and says in words what was done.
///
/// # Errors
/// If the file can't be written, or has an outbox table that the relay can't work with.
pub async fn migrate(config: &config::Sqlite) -> Result<Vec<String>, SourceError> {
    let names = Names::new(&config.table);
    let mut link = Link::new(&config.path);
    let mut connected = link.create(MIGRATE).await?;
    let connection = &mut connected.connection;
    let outcome = limited(MIGRATE, async {
        // It stays with the file. Not possible within a transaction.
        connection.execute("PRAGMA journal_mode = wal").await?;
        connection.execute("BEGIN IMMEDIATE").await?;
        let outcome = make_missing(connection, &names).await?;
        let end = if outcome.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        connection.execute(end).await?;
        Ok(outcome)
    });
    let done = outcome.await?.map_err(SourceError::Refused)?;
    link.give_back(connected);
    inspect::inspect(&mut link, &names).await?;
    link.close().await;
    Ok(done)
}

/// The whole SQL of a new installation.
#[must_use]
pub fn printed(config: &config::Sqlite) -> String {
    let names = Names::new(&config.table);
    let mut script = format!(
        "PRAGMA journal_mode = wal;\n\nBEGIN IMMEDIATE;\n\n{}\n{}\n{BOOKKEEPING}\n",
        names.filled(OUTBOX),
        names.filled(GUARD)
    );
    for (version, (name, migration)) in (1..).zip(MIGRATIONS) {
        script.push_str(&names.filled(migration));
        script.push_str(&format!("\n{}\n", record_sql(version, name)));
    }
    script.push_str(&format!("{}\n\nCOMMIT;\n", incarnation_sql(&names)));
    script
}

/// The version of the relay's tables; `None` if there are none.
pub(super) async fn installed_version(
    connection: &mut SqliteConnection,
) -> Result<Option<i64>, sqlx::Error> {
    if !exists(connection, "_outbox_relay_migrations").await? {
        return Ok(None);
    }
    let version = "SELECT max(version) FROM _outbox_relay_migrations";
    sqlx::query_scalar(version).fetch_one(connection).await
}

/// Whether the outbox table has a name that tells it from any other.
pub(super) async fn has_incarnation(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<bool, sqlx::Error> {
    if !exists(connection, "outbox_incarnation").await? {
        return Ok(false);
    }
    let there = "SELECT EXISTS (SELECT 1 FROM outbox_incarnation WHERE table_name = ?)";
    let there = sqlx::query_scalar(there).bind(&names.plain);
    there.fetch_one(connection).await
}

/// The inner error says why nothing can be made.
async fn make_missing(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Result<Vec<String>, String>, sqlx::Error> {
    let installed = installed_version(connection).await?.unwrap_or(0);
    if installed > VERSION {
        return Ok(Err(format!(
            "the relay's tables are of version {installed}, newer than the {VERSION} that this relay knows"
        )));
    }
    let mut done = Vec::new();
    let shape = Shape::gather(connection, names).await?;
    let is_new = shape.is_none();
    if let Some(Err(reason)) = shape.as_ref().map(|shape| shape.check(names)) {
        return Ok(Err(reason));
    }
    let mut script = String::new();
    if is_new {
        script.push_str(&names.filled(OUTBOX));
        done.push(format!("{} created", names.table));
    } else {
        done.push(format!("{} is there already", names.table));
    }
    if !shape.is_some_and(|shape| shape.is_guarded(names)) {
        script.push_str(&names.unguard());
        script.push_str(&names.filled(GUARD));
    }
    script.push_str(BOOKKEEPING);
    for (version, (name, migration)) in (1..).zip(MIGRATIONS) {
        if version > installed {
            script.push_str(&names.filled(migration));
            script.push_str(&record_sql(version, name));
            done.push(format!("migration {version} ({name}) applied"));
        }
    }
    connection.execute(AssertSqlSafe(script)).await?;
    if installed == VERSION {
        done.push(format!(
            "the relay's tables are of version {VERSION} already"
        ));
    }
    // A table that is made anew begins to count anew, whatever ledgers there are from before.
    if is_new || !has_incarnation(connection, names).await? {
        connection
            .execute(AssertSqlSafe(incarnation_sql(names)))
            .await?;
    }
    Ok(Ok(done))
}

async fn exists(connection: &mut SqliteConnection, table: &str) -> Result<bool, sqlx::Error> {
    let there = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view') \
        AND name = ? COLLATE NOCASE)";
    sqlx::query_scalar(there)
        .bind(table)
        .fetch_one(connection)
        .await
}

fn record_sql(version: i64, name: &str) -> String {
    format!("INSERT INTO _outbox_relay_migrations (version, name) VALUES ({version}, '{name}');\n")
}

/// Gives the table a name that tells it from any other, and from what it was before.
pub(super) fn incarnation_sql(names: &Names) -> String {
    format!(
        "INSERT OR REPLACE INTO outbox_incarnation (table_name, incarnation) \
         VALUES ({}, lower(hex(randomblob(16))));",
        sql::literal(&names.plain)
    )
}

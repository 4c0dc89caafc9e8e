//! What must be true of the file before anything can be promised.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::link::{Link, limited};
use super::migrate::{self, VERSION};
use super::sql::Names;
use crate::source::SourceError;

const INSPECT: &str = "cannot inspect the outbox table";

/// Columns of the outbox table.
const COLUMNS: [&str; 9] = [
    "seq",
    "id",
    "event_type",
    "aggregate_type",
    "aggregate_id",
    "payload",
    "headers",
    "created_at",
    "sent_at",
];

/// What an inspection found.
#[derive(Debug)]
struct Facts {
    journal_mode: String,
    /// The statement that made the table; `None`: there is no such table.
    table: Option<String>,
    columns: BTreeSet<String>,
    /// The column that is the whole primary key, with its type.
    key: Option<(String, String)>,
    triggers: BTreeSet<String>,
    version: Option<i64>,
    has_incarnation: bool,
}

/// Inspects the file.
pub(super) async fn inspect(link: &mut Link, names: &Names) -> Result<(), SourceError> {
    if !link.exists().await {
        return Err(SourceError::Migrate(format!(
            "there is no file {}: run `outbox-relay migrate` (or `run --migrate`), or mend the source's path",
            link.path()
        )));
    }
    let mut connected = link.checkout(INSPECT).await?;
    let facts = limited(INSPECT, Facts::gather(&mut connected.connection, names)).await?;
    link.give_back(connected);
    facts.check(names)
}

impl Facts {
    async fn gather(connection: &mut SqliteConnection, names: &Names) -> Result<Self, sqlx::Error> {
        let journal_mode = sqlx::query_scalar("PRAGMA journal_mode");
        let table =
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE";
        let table = sqlx::query_scalar(table).bind(&names.plain);
        let triggers =
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE";
        let triggers = sqlx::query_scalar(triggers).bind(&names.plain);
        let columns =
            sqlx::query("SELECT name, type, pk FROM pragma_table_info(?)").bind(&names.plain);
        let mut facts = Self {
            journal_mode: journal_mode.fetch_one(&mut *connection).await?,
            table: table.fetch_optional(&mut *connection).await?,
            columns: BTreeSet::new(),
            key: None,
            triggers: triggers
                .fetch_all(&mut *connection)
                .await?
                .into_iter()
                .collect(),
            version: migrate::installed_version(connection).await?,
            has_incarnation: migrate::has_incarnation(connection, names).await?,
        };
        for row in columns.fetch_all(connection).await? {
            let name: String = row.try_get("name")?;
            if row.try_get::<i64, _>("pk")? == 1 {
                facts.key = Some((name.clone(), row.try_get("type")?));
            }
            facts.columns.insert(name);
        }
        Ok(facts)
    }

    fn check(&self, names: &Names) -> Result<(), SourceError> {
        const RUN_MIGRATE: &str = "run `outbox-relay migrate` (or `run --migrate`)";
        let table = &names.table;
        let Some(made_by) = &self.table else {
            return Err(SourceError::Migrate(format!(
                "there is no table {table}: {RUN_MIGRATE}"
            )));
        };
        self.check_shape(names, made_by)?;
        let missing = if self.version.is_some_and(|version| version > VERSION) {
            return Err(SourceError::Migrate(format!(
                "the relay's tables are of version {}, newer than the {VERSION} that this relay knows: run a \
                 newer outbox-relay",
                self.version.unwrap_or_default()
            )));
        } else if self.version != Some(VERSION) || !self.has_incarnation {
            format!("the relay's tables are missing beside {table}, or older than this relay needs")
        } else if !names
            .triggers()
            .iter()
            .all(|name| self.triggers.contains(name))
        {
            format!("the table {table} lacks the triggers that keep writers from choosing seq")
        } else if self.journal_mode != "wal" {
            format!(
                "the file is in journal mode {}, in which reading holds up the writers; it must be wal",
                self.journal_mode
            )
        } else {
            return Ok(());
        };
        Err(SourceError::Migrate(format!("{missing}: {RUN_MIGRATE}")))
    }

    /// What `migrate` can't mend.
    fn check_shape(&self, names: &Names, made_by: &str) -> Result<(), SourceError> {
        let table = &names.table;
        let refuse = |reason: String| Err(SourceError::Refused(reason));
        if let Some(column) = COLUMNS.iter().find(|name| !self.columns.contains(**name)) {
            return refuse(format!("the table {table} has no column {column}"));
        }
        let is_key =
            |(name, kind): &(String, String)| name == "seq" && kind.eq_ignore_ascii_case("integer");
        if !self.key.as_ref().is_some_and(is_key)
            || !made_by.to_ascii_uppercase().contains("AUTOINCREMENT")
        {
            return refuse(format!(
                "the table {table} has no column seq INTEGER PRIMARY KEY AUTOINCREMENT: without it a number \
                 could be given out twice, and the second event would count as delivered; see `outbox-relay \
                 migrate --print`"
            ));
        }
        Ok(())
    }
}

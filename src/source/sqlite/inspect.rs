//! What must be true of the file before anything can be promised.

use sqlx::sqlite::SqliteConnection;

use super::link::{Link, limited};
use super::migrate::{self, VERSION};
use super::shape::Shape;
use super::sql::Names;
use crate::source::SourceError;

const INSPECT: &str = "cannot inspect the outbox table";

/// What an inspection found.
#[derive(Debug)]
struct Facts {
    journal_mode: String,
    /// `None`: there is no such table.
    shape: Option<Shape>,
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
        Ok(Self {
            journal_mode: journal_mode.fetch_one(&mut *connection).await?,
            shape: Shape::gather(connection, names).await?,
            version: migrate::installed_version(connection).await?,
            has_incarnation: migrate::has_incarnation(connection, names).await?,
        })
    }

    fn check(&self, names: &Names) -> Result<(), SourceError> {
        const RUN_MIGRATE: &str = "run `outbox-relay migrate` (or `run --migrate`)";
        let table = &names.table;
        let Some(shape) = &self.shape else {
            return Err(SourceError::Migrate(format!(
                "there is no table {table}: {RUN_MIGRATE}"
            )));
        };
        shape.check(names).map_err(SourceError::Refused)?;
        let missing = if self.version.is_some_and(|version| version > VERSION) {
            return Err(SourceError::Migrate(format!(
                "the relay's tables are of version {}, newer than the {VERSION} that this relay knows: run a \
                 newer outbox-relay",
                self.version.unwrap_or_default()
            )));
        } else if self.version != Some(VERSION) || !self.has_incarnation {
            format!("the relay's tables are missing beside {table}, or older than this relay needs")
        } else if !shape.is_guarded(names) {
            format!(
                "the table {table} lacks the triggers that keep writers from choosing seq, or has others"
            )
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
}

//! One connection that is made when it is needed and dropped when it fails, to the file that stands at the path.
//!
//! A file that is moved away or replaced lives on for whoever has it open: a relay would read the old one for
//! ever. So the path is looked at before each exchange.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::source::SourceError;

const CLOSE: &str = "cannot close the file";

/// How long a statement waits for another writer. Shorter than the lease lasts, so that a renewal that waits in
/// vain is tried again in time.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one exchange may take before its connection counts as dead.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What tells a file from another that is put in its place: it can't be reused while somebody has the file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    async fn of(path: &Path) -> io::Result<Self> {
        let metadata = tokio::fs::metadata(path).await?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Both numbers in one, for [`crate::source::LeaseId::sequence_filenode`].
    pub(super) fn number(self) -> i64 {
        (self.inode ^ self.device.rotate_left(40)).cast_signed()
    }
}

/// A connection of one task's own. Whatever fails, the connection is dropped with it: its state is unknown.
#[derive(Debug)]
pub(super) struct Link {
    path: PathBuf,
    connected: Option<Connected>,
}

/// A connection and the file that it has open.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connection: SqliteConnection,
    pub(super) file: FileId,
}

impl Link {
    /// A link that connects at its first use.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            // With its folder a name is never mistaken for a URI or for `:memory:`.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            connected: None,
        }
    }

    /// Takes the connection out, made anew if need be. What fails simply doesn't give it back.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the connection is to a file that is no longer at the path.
    pub(super) async fn checkout(
        &mut self,
        action: &'static str,
    ) -> Result<Connected, SourceError> {
        let file = self.file(action).await?;
        match self.connected.take() {
            Some(connected) if connected.file == file => Ok(connected),
            Some(_) => Err(SourceError::Changed),
            None => self.connect(action, false).await,
        }
    }

    /// Connects, and creates the file if there is none.
    pub(super) async fn create(&mut self, action: &'static str) -> Result<Connected, SourceError> {
        self.connect(action, true).await
    }

    /// Puts a connection back whose last statement succeeded.
    pub(super) fn give_back(&mut self, connected: Connected) {
        self.connected = Some(connected);
    }

    /// Closes the connection, and with the last one of all the log beside the file.
    pub(super) async fn close(&mut self) {
        if let Some(connected) = self.connected.take() {
            // What can't be closed is closed by the end of the process.
            limited(CLOSE, connected.connection.close()).await.ok();
        }
    }

    /// Whether there is a file.
    pub(super) async fn exists(&self) -> bool {
        !matches!(FileId::of(&self.path).await, Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    async fn connect(&self, action: &'static str, create: bool) -> Result<Connected, SourceError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(create)
            .busy_timeout(BUSY_TIMEOUT)
            // A crash of the machine may take back the last flushes: the ledger may forget, and the events of
            // that time are in the same log before them.
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        let before = FileId::of(&self.path).await.ok();
        let connection = limited(action, options.connect()).await?;
        let file = self.file(action).await?;
        if before.is_some_and(|before| before != file) {
            return Err(database(
                action,
                "the file was replaced while it was opened",
            ));
        }
        Ok(Connected { connection, file })
    }

    async fn file(&self, action: &'static str) -> Result<FileId, SourceError> {
        FileId::of(&self.path)
            .await
            .map_err(|error| database(action, format!("cannot look at {}: {error}", self.path())))
    }
}

/// Awaits `work`, the statements of one exchange, within the time limit.
pub(super) async fn limited<T>(
    action: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SourceError> {
    limited_to(EXCHANGE_TIMEOUT, action, work).await
}

/// The same for what may take longer.
pub(super) async fn limited_to<T>(
    limit: Duration,
    action: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| database(action, format!("no answer within {limit:?}")))?
        .map_err(|error| failed(action, error))
}

/// A table or a column that was there at the inspection and is gone belongs to another incarnation.
fn failed(action: &'static str, error: sqlx::Error) -> SourceError {
    match &error {
        sqlx::Error::Database(of)
            if ["no such table", "no such column"]
                .iter()
                .any(|what| of.message().starts_with(what)) =>
        {
            SourceError::Changed
        }
        _ => database(action, error),
    }
}

fn database(action: &'static str, source: impl Into<crate::error::BoxError>) -> SourceError {
    SourceError::Database {
        action,
        source: source.into(),
    }
}

//! One connection that is made when it is needed and dropped when it fails.

use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::source::SourceError;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one statement may take before its connection counts as dead. Long enough for a read that looks up
/// every hole; a half-open connection is noticed by it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection of one task's own. Whatever fails, the connection is dropped with it: its state is unknown.
#[derive(Debug)]
pub(super) struct Link {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Link {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self {
            options,
            connection: None,
        }
    }

    /// Whether the next statement goes out on the connection of the one before.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Drops the connection.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Takes the connection out, made anew if need be. What fails simply doesn't give it back.
    pub(super) async fn checkout(
        &mut self,
        action: &'static str,
    ) -> Result<PgConnection, SourceError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect());
        connecting
            .await
            .map_err(|_| timed_out(action, CONNECT_TIMEOUT))?
            .map_err(|error| failed(action, error))
    }

    /// Puts a connection back whose last statement succeeded.
    pub(super) fn give_back(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
    }

    /// Runs one message of the simple protocol and hands each row to `take` as it arrives. Several statements
    /// in it form one transaction.
    pub(super) async fn query(
        &mut self,
        action: &'static str,
        sql: String,
        mut take: impl FnMut(PgRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), SourceError> {
        let mut connection = self.checkout(action).await?;
        limited(action, async {
            let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(&mut connection);
            while let Some(row) = rows.try_next().await? {
                take(row)?;
            }
            Ok(())
        })
        .await?;
        self.give_back(connection);
        Ok(())
    }

    /// Says good-bye to the server, so that it doesn't log a lost client.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The connection is gone either way.
            tokio::time::timeout(Duration::from_secs(1), connection.close())
                .await
                .ok();
        }
    }
}

/// Awaits `work`, the statements of one exchange, within the time limit.
pub(super) async fn limited<T>(
    action: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(STATEMENT_TIMEOUT, work)
        .await
        .map_err(|_| timed_out(action, STATEMENT_TIMEOUT))?
        .map_err(|error| failed(action, error))
}

fn failed(action: &'static str, error: sqlx::Error) -> SourceError {
    SourceError::Database {
        action,
        source: error.into(),
    }
}

fn timed_out(action: &'static str, limit: Duration) -> SourceError {
    SourceError::Database {
        action,
        source: format!("no answer within {limit:?}").into(),
    }
}

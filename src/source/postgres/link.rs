//! One connection that is made when it is needed and dropped when it fails.

mod prepared;

use std::borrow::Cow;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use self::prepared::Plans;
use crate::error::BoxError;
use crate::source::SourceError;

pub(super) use self::prepared::Prepared;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one statement may take before its connection counts as dead. Long enough for a read that looks up
/// every hole; a half-open connection is noticed by it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for the server, a little shorter: a backend that waits for a lock doesn't notice that its client has
/// gone, and one more would wait with each new attempt.
const SERVER_TIMEOUT: &str = "25s";

/// Settings of each session, whatever the role or the database has been given.
const SETTINGS: [(&str, &str); 10] = [
    ("statement_timeout", SERVER_TIMEOUT),
    // The compiler costs more than it saves on any of our statements.
    ("jit", "off"),
    // So does a worker; and without any, the parts of a UNION ALL come one after the other.
    ("max_parallel_workers_per_gather", "0"),
    // How rows come, and are read.
    ("bytea_output", "hex"),
    ("TimeZone", "UTC"),
    // A connection waits for its next event for as long as that takes.
    ("idle_session_timeout", "0"),
    // Between two statements, never: a host that loses power there would leave its locks behind for hours.
    ("idle_in_transaction_session_timeout", SERVER_TIMEOUT),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// Begins a transaction that the server ends in time, whether it works or waits for its client; behind a pooler too.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = '25s'; \
    SET LOCAL idle_in_transaction_session_timeout = '25s'";

/// What stands before a message where a pooler refuses settings of the session. It is part of the message's
/// transaction and ends with it.
const LOCAL_SETTINGS: &str = "SET LOCAL statement_timeout = '25s'; SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0; \
     SET LOCAL bytea_output = 'hex'; SET LOCAL TimeZone = 'UTC'; ";

/// A connection of one task's own. Whatever fails, the connection is dropped with it: its state is unknown.
#[derive(Debug)]
pub(super) struct Link {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    /// A pooler stands in between, which refuses settings at the start of a session.
    pooled: bool,
    /// Counts connections.
    generation: u64,
    /// Settings of this link's sessions, beside those of all.
    planning: &'static [(&'static str, &'static str)],
    plans: Plans,
}

impl Link {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self {
            options,
            connection: None,
            pooled: false,
            generation: 0,
            planning: &[],
            plans: Plans::default(),
        }
    }

    /// Names the connection that the next statement goes out on; `None` if it is still to be made.
    pub(super) fn generation(&self) -> Option<u64> {
        self.connection.is_some().then_some(self.generation)
    }

    /// Takes the connection out, made anew if need be. What fails simply doesn't give it back.
    pub(super) async fn checkout(
        &mut self,
        action: &'static str,
    ) -> Result<PgConnection, SourceError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connection = match connecting {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.not_connected(action, Failed(error).into())),
            Err(_) => return Err(self.not_connected(action, no_answer(CONNECT_TIMEOUT))),
        };
        self.generation += 1;
        Ok(connection)
    }

    fn not_connected(&self, action: &'static str, source: BoxError) -> SourceError {
        let options = &self.options;
        let server = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let database = options.get_database().unwrap_or(options.get_username());
        let place = format!("{server}, database {database}");
        let error = NotConnected { place, source };
        SourceError::Database {
            action,
            source: error.into(),
        }
    }

    async fn connect(&mut self) -> Result<PgConnection, sqlx::Error> {
        if !self.pooled {
            let settings = SETTINGS.iter().chain(self.planning).copied();
            match self.options.clone().options(settings).connect().await {
                Err(error) if is_refused_setting(&error) => self.pooled = true,
                result => return result,
            }
        }
        self.options.connect().await
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
        take: impl FnMut(PgRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), SourceError> {
        self.query_within(STATEMENT_TIMEOUT, action, sql, take)
            .await
    }

    /// The same for a message that may take longer, and says so to the server itself.
    pub(super) async fn query_within(
        &mut self,
        limit: Duration,
        action: &'static str,
        sql: String,
        mut take: impl FnMut(PgRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), SourceError> {
        let mut connection = self.checkout(action).await?;
        let sql = if self.pooled {
            format!("{LOCAL_SETTINGS}{sql}")
        } else {
            sql
        };
        within(limit, action, async {
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
    within(STATEMENT_TIMEOUT, action, work).await
}

async fn within<T>(
    limit: Duration,
    action: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| timed_out(action, limit))?
        .map_err(|error| failed(action, error))
}

/// Whether PgBouncer says so of a setting in the start-up message.
fn is_refused_setting(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.message().contains("unsupported startup parameter"))
}

/// The failure of a statement.
pub(super) fn failed(action: &'static str, error: sqlx::Error) -> SourceError {
    SourceError::Database {
        action,
        source: Failed(error).into(),
    }
}

/// Whether a table that a statement names is not there, or no longer.
pub(super) fn is_undefined_table(error: &SourceError) -> bool {
    refusal(error).is_some_and(|code| code == "42P01")
}

/// The code by which the server says that it won't do a statement.
pub(super) fn refusal(error: &SourceError) -> Option<Cow<'_, str>> {
    let SourceError::Database { source, .. } = error else {
        return None;
    };
    let Failed(error) = source.downcast_ref()?;
    error.as_database_error()?.code()
}

/// Why a statement failed, in the server's words. The client's own text adds a line of the server's source code.
#[derive(Debug)]
struct Failed(sqlx::Error);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_database_error() {
            Some(error) => f.write_str(error.message()),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0.as_database_error() {
            Some(_) => None,
            None => self.0.source(),
        }
    }
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to PostgreSQL at {place}")]
struct NotConnected {
    place: String,
    #[source]
    source: BoxError,
}

fn timed_out(action: &'static str, limit: Duration) -> SourceError {
    SourceError::Database {
        action,
        source: no_answer(limit),
    }
}

fn no_answer(limit: Duration) -> BoxError {
    format!("no answer within {limit:?}").into()
}

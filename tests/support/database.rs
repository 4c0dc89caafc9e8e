//! A database of a test's own.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};

/// Connections of the tests are told from the relay's by this.
pub(crate) const TEST_APPLICATION: &str = "test";

/// An empty database on a running server, dropped (if that server still runs) with the value.
#[derive(Debug)]
pub(crate) struct Database {
    server: String,
    name: String,
    /// Where the relay and the writers find it.
    pub(crate) url: String,
}

impl Database {
    /// A database on the server that `tests/run` started.
    pub(crate) async fn fresh() -> Self {
        Self::fresh_on(&server()).await
    }

    /// A database on the server of this URL.
    pub(crate) async fn fresh_on(server: &str) -> Self {
        Self::fresh_with(server, "").await
    }

    /// One whose text may be any bytes.
    pub(crate) async fn of_any_bytes() -> Self {
        let ascii = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'";
        Self::fresh_with(&server(), ascii).await
    }

    async fn fresh_with(server: &str, options: &str) -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        execute(
            server,
            &format!("CREATE DATABASE {name} TEMPLATE template0 {options}"),
        )
        .await;
        let (prefix, _) = server
            .rsplit_once('/')
            .expect("a PostgreSQL URL with a database");
        let url = format!("{prefix}/{name}");
        Self {
            server: server.to_owned(),
            name,
            url,
        }
    }

    /// The URL of this database at another port, where a pooler listens.
    pub(crate) fn url_through(&self, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{}", self.name)
    }

    /// The URL for a new role that may do anything with the tables that are there, and nothing else.
    pub(crate) async fn url_for_role(&self) -> String {
        let role = format!("role_{}", uuid::Uuid::new_v4().simple());
        self.execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
        ))
        .await;
        self.url.replace("//postgres@", &format!("//{role}@"))
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        connect(&self.url).await.expect("connect to the database")
    }

    /// Executes statements without parameters, in one transaction unless they say otherwise.
    pub(crate) async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    /// The one value that a query yields.
    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.expect("close");
        value
    }

    /// Inserts events of one type and key in one transaction: `{"n":1}` and so on.
    pub(crate) async fn insert(&self, event_type: &str, key: Option<&str>, count: i64) {
        let mut connection = self.connect().await;
        sqlx::query(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT $1, $2, format('{\"n\":%s}', n)::json FROM generate_series(1, $3) n",
        )
        .bind(event_type)
        .bind(key)
        .bind(count)
        .execute(&mut connection)
        .await
        .expect("insert events");
        connection.close().await.expect("close");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A runtime of its own: drop is not async, and the test's runtime may be the one that is ending.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let drop_database = async {
                    let mut connection = connect(&server).await?;
                    connection.execute(AssertSqlSafe(statement)).await
                };
                // Best effort: the server may be gone, or hold a prepared transaction in that database.
                drop(tokio::time::timeout(Duration::from_secs(5), drop_database).await);
            });
        });
        drop(thread.join());
    }
}

fn server() -> String {
    std::env::var("OUTBOX_TEST_POSTGRES").expect(
        "PostgreSQL for the tests is missing: run tests/run, or set OUTBOX_TEST_POSTGRES \
         to the URL of a superuser",
    )
}

/// Connects under the tests' own application name.
pub(crate) async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    let options = options
        .application_name(TEST_APPLICATION)
        .disable_statement_logging();
    PgConnection::connect_with(&options).await
}

/// Executes statements without parameters.
pub(crate) async fn execute(url: &str, sql: &str) {
    let mut connection = connect(url).await.expect("connect to PostgreSQL");
    connection
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("close");
}

//! Databases with an outbox.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::Result;

/// What a backlog is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Shape {
    pub(crate) events: u64,
    pub(crate) keys: u64,
    /// Bytes of a payload.
    pub(crate) payload: usize,
    /// Gaps in the numbers of the newest rows, each by a transaction that was rolled back.
    pub(crate) holes: u64,
}

/// A database with an outbox, and a connection of the benchmark's own to it.
#[derive(Debug)]
pub(crate) struct Dataset {
    pub(crate) url: String,
    pub(crate) connection: PgConnection,
    pub(crate) events: u64,
}

/// The server's counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counters {
    statements: i64,
    wal: i64,
}

impl Counters {
    /// Statements, those of writers aside, and bytes of WAL since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> (i64, i64) {
        (self.statements - earlier.statements, self.wal - earlier.wal)
    }
}

impl Dataset {
    /// An empty outbox, in place of what the server had under this name.
    pub(crate) async fn create(server: &str, name: &str) -> Result<Self> {
        let mut admin = PgConnection::connect(server).await?;
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name}"),
        ] {
            admin.execute(AssertSqlSafe(sql)).await?;
        }
        admin.close().await?;
        let (server, _) = server.rsplit_once('/').ok_or("a URL with a database")?;
        let url = format!("{server}/{name}");
        let mut connection = PgConnection::connect(&url).await?;
        connection
            .execute("CREATE EXTENSION pg_stat_statements")
            .await?;
        Ok(Self {
            url,
            connection,
            events: 0,
        })
    }

    /// To be called when `migrate` has made the outbox: what is large is stored beside its row, and as it is. A payload
    /// of nothing but `x` would shrink to nothing.
    pub(crate) async fn store_plainly(&mut self) -> Result {
        let plain = "ALTER TABLE outbox ALTER payload SET STORAGE EXTERNAL";
        self.connection.execute(plain).await?;
        Ok(())
    }

    /// Fills the outbox.
    pub(crate) async fn fill(&mut self, shape: Shape) -> Result {
        let Shape {
            events,
            keys,
            payload,
            holes,
        } = shape;
        let body = payload.saturating_sub(2);
        // The same bytes as `Name::payload`.
        let insert = format!(
            "INSERT INTO outbox (event_type, aggregate_id, payload) \
             SELECT 'OrderPlaced', 'order-' || n % {keys}, \
             (rpad(format('{{\"key\":%s,\"counter\":%s,\"pad\":\"', n % {keys}, n / {keys}), {body}, 'x') || '\"}}')::json \
             FROM generate_series($1::int8, $2::int8 - 1) AS n"
        );
        // The newest rows lie between holes.
        let whole = events - holes.min(events);
        let insert = || sqlx::query(AssertSqlSafe(insert.clone()));
        insert()
            .bind(0_i64)
            .bind(whole.cast_signed())
            .execute(&mut self.connection)
            .await?;
        let mut begun = whole;
        while begun < events {
            // A number that nobody uses, as a rolled-back INSERT leaves it.
            self.connection
                .execute("SELECT nextval(pg_get_serial_sequence('outbox', 'seq'))")
                .await?;
            insert()
                .bind(begun.cast_signed())
                .bind((begun + 1).cast_signed())
                .execute(&mut self.connection)
                .await?;
            begun += 1;
        }
        self.events = events;
        // So that no autovacuum comes in between. It is no checkpoint.
        self.connection.execute("VACUUM ANALYZE outbox").await?;
        Ok(())
    }

    /// Has no relay been here? All of them have, and none is remembered.
    pub(crate) async fn forget_relays(&mut self) -> Result {
        let tables = "outbox_ledger, outbox_lease, outbox_source, outbox_dead_letter";
        for table in tables.split(", ") {
            let sql = format!("DELETE FROM {table}");
            self.connection.execute(AssertSqlSafe(sql)).await?;
        }
        Ok(())
    }

    pub(crate) async fn counters(&mut self) -> Result<Counters> {
        let sql = "SELECT coalesce((SELECT sum(calls) FROM pg_stat_statements \
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE 'INSERT INTO outbox (%'), 0)::int8, \
             (pg_current_wal_insert_lsn() - '0/0')::int8";
        let (statements, wal) = sqlx::query_as(sql).fetch_one(&mut self.connection).await?;
        Ok(Counters { statements, wal })
    }

    /// The share of updates of the outbox that needed no new entry in its index.
    pub(crate) async fn hot_share(&mut self) -> Result<Option<f64>> {
        self.connection
            .execute("SELECT pg_stat_clear_snapshot()")
            .await?;
        let sql = "SELECT n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) FROM pg_stat_user_tables \
             WHERE relname = 'outbox'";
        Ok(sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// Settling goes by `seq`.
    pub(crate) async fn is_newest_settled(&mut self) -> Result<bool> {
        let sql = "SELECT sent_at IS NOT NULL FROM outbox ORDER BY seq DESC LIMIT 1";
        Ok(sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// The processes of the server that serve the relay.
    pub(crate) async fn backends(&mut self) -> Result<Vec<u32>> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name LIKE 'outbox-relay%'";
        let pids: Vec<i32> = sqlx::query_scalar(sql)
            .fetch_all(&mut self.connection)
            .await?;
        Ok(pids.into_iter().map(i32::unsigned_abs).collect())
    }
}

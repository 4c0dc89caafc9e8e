//! The session that listens and holds the lock.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row as _};

use super::{ANSWER_TIMEOUT, Lost, PROBE};
use crate::source::postgres::link::Link;
use crate::source::postgres::sql::{self, Names};

/// How long a notification that the relay sends itself may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The second key of the advisory lock; the first is the table's OID.
const LOCK_KEY: i32 = 1;

/// One session: LISTEN, the lock, and the table's OID by which both go.
pub(super) struct Session {
    pub(super) listener: PgListener,
    oid: i64,
}

/// What is looked at before the lock is taken, and while it is held.
pub(super) struct Standing {
    /// The table's, as its name resolves now.
    oid: i64,
    /// The share of the server's queue of notifications that is in use.
    pub(super) queue_usage: f64,
}

impl Session {
    pub(super) async fn open(options: &PgConnectOptions, names: &Names) -> Result<Self, Lost> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ANSWER_TIMEOUT)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // The server must notice soon that a relay has vanished: its lock makes every writer ring.
        let limits = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; \
                      SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000; \
                      SET idle_session_timeout = 0";
        sqlx::raw_sql(limits).execute(&mut listener).await?;
        let mut session = Self { listener, oid: 0 };
        session.oid = session.standing(names).await?.oid;
        let channel = session.channel();
        session.listener.listen(&channel).await?;
        Ok(session)
    }

    fn channel(&self) -> String {
        format!("outbox_relay_{}", self.oid)
    }

    /// The keys of the advisory lock: an OID above 2^31 is a negative key.
    fn lock_keys(&self) -> String {
        format!("{}::oid::int4, {LOCK_KEY}", self.oid)
    }

    pub(super) async fn standing(&mut self, names: &Names) -> Result<Standing, Lost> {
        let sql = format!(
            "SELECT {}::int8 AS oid, pg_notification_queue_usage() AS usage",
            names.oid()
        );
        let row = self.answer(sql).await?;
        Ok(Standing {
            oid: row.try_get::<Option<i64>, _>("oid")?.ok_or(Lost::NoTable)?,
            queue_usage: row.try_get("usage")?,
        })
    }

    /// Whether the table is still the one that this session listens for.
    pub(super) fn is_of(&self, standing: &Standing) -> bool {
        self.oid == standing.oid
    }

    pub(super) async fn try_lock(&mut self) -> Result<bool, Lost> {
        self.one(format!(
            "SELECT pg_try_advisory_lock({}) AS answer",
            self.lock_keys()
        ))
        .await
    }

    pub(super) async fn disarm(&mut self) -> Result<(), Lost> {
        self.one(format!(
            "SELECT pg_advisory_unlock({}) AS answer",
            self.lock_keys()
        ))
        .await?;
        Ok(())
    }

    /// Whether somebody else holds the lock alone: a writer shares it.
    pub(super) async fn is_armed_by_another(&mut self) -> Result<bool, Lost> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ({}) AS holder) AS answer",
            self.holders_sql()
        );
        self.one(sql).await
    }

    /// Ends the sessions of those who held the lease before: one that hangs while armed makes every writer ring.
    pub(super) async fn evict(&mut self, session_name: &str) -> Result<(), Lost> {
        let sql = format!(
            "SELECT coalesce(bool_or(pg_terminate_backend(activity.pid)), false) AS answer \
             FROM pg_stat_activity AS activity JOIN ({}) AS holder USING (pid) \
             WHERE activity.application_name = {}",
            self.holders_sql(),
            sql::literal(session_name),
        );
        match self.one(sql).await {
            Ok(true) => tracing::warn!(
                "the doorbell of the former holder of the lease was still armed, its session was ended"
            ),
            Ok(false) => {}
            Err(Lost::Database(error)) if is_denied(&error) => {
                self.warn_of_former(session_name).await?;
            }
            Err(lost) => return Err(lost),
        }
        Ok(())
    }

    /// The table is polled while the former holder's lock stands, and all writers ring.
    async fn warn_of_former(&mut self, session_name: &str) -> Result<(), Lost> {
        let sql = format!(
            "SELECT coalesce(string_agg(format('backend %s of role %I', activity.pid, activity.usename), ', '), \
             'gone') AS former, current_user::text AS own FROM pg_stat_activity AS activity \
             JOIN ({}) AS holder USING (pid) WHERE activity.application_name = {}",
            self.holders_sql(),
            sql::literal(session_name),
        );
        let row = self.answer(sql).await?;
        let (former, own): (String, String) = (row.try_get("former")?, row.try_get("own")?);
        tracing::warn!(
            former,
            "the doorbell of the former holder of the lease is still armed, and this relay may not end its session: \
             writers ring in vain meanwhile. End that backend, and GRANT its role, or pg_signal_backend, to {own}"
        );
        Ok(())
    }

    fn holders_sql(&self) -> String {
        format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = {}::oid AND objid = {LOCK_KEY} \
             AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted AND pid <> pg_backend_pid() \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            self.oid
        )
    }

    /// Notifies itself from another session.
    pub(super) async fn probe(&mut self, options: &PgConnectOptions) -> Result<(), Lost> {
        let mut link = Link::new(options.clone());
        let sql = format!("SELECT pg_notify('{}', '')", self.channel());
        link.query(PROBE, sql, |_| Ok(())).await?;
        link.close().await;
        match tokio::time::timeout(PROBE_TIMEOUT, self.listener.try_recv()).await {
            Ok(received) => received?.map(drop).ok_or(Lost::Gap),
            Err(_elapsed) => Err(Lost::Deaf),
        }
    }

    async fn one(&mut self, sql: String) -> Result<bool, Lost> {
        Ok(self.answer(sql).await?.try_get("answer")?)
    }

    async fn answer(&mut self, sql: String) -> Result<sqlx::postgres::PgRow, Lost> {
        let answer = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut self.listener);
        Ok(tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| Lost::Silent)??)
    }
}

/// Whether the role lacks a privilege.
fn is_denied(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "42501")
}

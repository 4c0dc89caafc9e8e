//! The doorbell: NOTIFY without its price.
//!
//! NOTIFY takes a global lock over the commit, so a trigger that always notifies makes writers queue up. Ours
//! notifies only while the relay sleeps, like a network card that interrupts only an idle driver: the relay
//! holds an advisory lock while it sleeps (*armed*), and a writer that can share the lock knows that it is awake.
//!
//! Nothing is missed at the edge: to fall asleep the relay must get the lock alone, which it can't while a
//! writer that shared it is still in flight; and once it has it, every pipeline reads once more.
//!
//! Lock and LISTEN live on one session, used for nothing else and never inside a transaction.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;

use super::link::Link;
use super::sql::{self, Names};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::source::SourceError;
use crate::source::bell::{Ringer, Waiting};

/// How often idle pipelines read while the relay is awake.
const AWAKE_POLL: Duration = Duration::from_millis(4);

/// How long nothing must have been found before the relay falls asleep: steady traffic keeps it awake, and what
/// comes more slowly than this can afford to ring.
const LINGER: Duration = Duration::from_millis(60);

/// Pauses between attempts to get the lock while writers in flight hold it.
const FIRST_ARMING_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_ARMING_PAUSE: Duration = Duration::from_millis(250);

/// How often the lock is tried while another relay holds it.
const OTHER_RELAY_PAUSE: Duration = Duration::from_millis(50);

/// How often a sleeping session proves that its connection is alive.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How often pipelines read at least while there is no session.
const OUT_OF_ORDER_POLL: Duration = Duration::from_millis(250);

/// The pause before a pooler is looked at again.
const POOLER_PAUSE: Duration = Duration::from_secs(60);

/// How long a statement on the session may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a notification that the relay sends itself may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The second key of the advisory lock; the first is the table's OID.
const LOCK_KEY: i32 = 1;

const PROBE: &str = "cannot try the doorbell";

/// The doorbell of one source.
#[derive(Debug)]
pub(super) struct Doorbell {
    options: PgConnectOptions,
    names: Names,
    ringer: Ringer,
    /// Names the session of this relay and source, so that a successor finds it.
    session_name: String,
    /// How often pipelines read while there is no session.
    poll_interval: Duration,
}

/// Why a session of the doorbell ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection was lost")]
    Gap,
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Silent,
    #[error("there is a pooler in transaction mode in between, which needs mode = \"poll\"")]
    Pooler,
    #[error("a notification that the relay sent itself did not arrive")]
    Deaf,
    #[error("the outbox table is gone")]
    NoTable,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// One session: LISTEN, the lock, and the table's OID by which both go.
struct Session {
    listener: PgListener,
    oid: i64,
}

impl Doorbell {
    pub(super) fn new(
        options: PgConnectOptions,
        names: &Names,
        ringer: Ringer,
        relay: &str,
        source: &str,
        poll_interval: Duration,
    ) -> Self {
        // PostgreSQL keeps 63 bytes of it, which two names need not fit into.
        let session_name = format!("outbox-relay bell {:016x}", hash(relay, source));
        Self {
            options: options.application_name(&session_name),
            names: names.clone(),
            ringer,
            session_name,
            poll_interval,
        }
    }

    /// Rings for ever: session after session, and polling in between.
    pub(super) async fn ring(mut self) {
        let mut backoff = Backoff::source();
        loop {
            let lost = match self.session(&mut backoff).await {
                Ok(never) => match never {},
                Err(lost) => lost,
            };
            // Whatever was missed meanwhile is read now, and the rest by polling.
            let every = self.poll_interval.min(OUT_OF_ORDER_POLL);
            self.ringer.tell(Waiting::Polling { every });
            self.ringer.set_trouble(Some(chain(&lost)));
            let delay = match lost {
                Lost::Pooler => POOLER_PAUSE,
                _ => backoff.failed(),
            };
            tracing::warn!(
                error = chain(&lost),
                ?delay,
                "the doorbell is out of order, the table is polled"
            );
            tokio::time::sleep(delay).await;
        }
    }

    async fn session(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Lost> {
        refuse_pooler(&self.options).await?;
        let mut session = Session::open(&self.options, &self.names).await?;
        session.probe(&self.options).await?;
        session.evict(&self.session_name).await?;
        self.ringer.set_trouble(None);
        if backoff.succeeded() {
            tracing::info!("the doorbell is in order again");
        }
        loop {
            self.ringer.tell(Waiting::Polling { every: AWAKE_POLL });
            self.linger(&mut session).await?;
            self.arm(&mut session).await?;
            self.sleep(&mut session).await?;
            session.disarm().await?;
        }
    }

    /// Stays awake until nothing was found for a while.
    async fn linger(&mut self, session: &mut Session) -> Result<(), Lost> {
        loop {
            let idle = self.ringer.idle_for();
            if idle >= LINGER {
                return Ok(());
            }
            // Notifications that come late from before are drained: an undrained listener pins the horizon.
            match tokio::time::timeout(LINGER - idle, session.listener.try_recv()).await {
                Ok(received) => received?.map(drop).ok_or(Lost::Gap)?,
                Err(_elapsed) => {}
            }
        }
    }

    /// Gets the lock, which no writer in flight may share, and has every pipeline read once more.
    async fn arm(&mut self, session: &mut Session) -> Result<(), Lost> {
        let mut pause = FIRST_ARMING_PAUSE;
        let mut told = false;
        if session.resolve(&self.names).await? != session.oid {
            // The table was made anew: its writers ring elsewhere.
            return Err(Lost::Gap);
        }
        while !session.try_lock().await? {
            if session.is_armed_by_another().await? {
                pause = OTHER_RELAY_PAUSE;
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        "another relay's doorbell is armed on this table, it is polled meanwhile"
                    );
                }
            }
            self.ringer.tell(Waiting::Polling { every: pause });
            tokio::select! {
                received = session.listener.try_recv() => received?.map(drop).ok_or(Lost::Gap)?,
                // Writers that overlap leave no moment to arm in, and are no reason to poll them at leisure.
                () = self.ringer.activity() => {
                    self.ringer.tell(Waiting::Polling { every: AWAKE_POLL });
                    self.linger(session).await?;
                    pause = FIRST_ARMING_PAUSE;
                    continue;
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_ARMING_PAUSE);
        }
        self.ringer.tell(Waiting::Armed {
            since: Instant::now(),
        });
        Ok(())
    }

    /// Until a writer rings, or a pipeline finds something that was committed before.
    async fn sleep(&mut self, session: &mut Session) -> Result<(), Lost> {
        loop {
            tokio::select! {
                received = session.listener.try_recv() => {
                    return received?.map(drop).ok_or(Lost::Gap);
                }
                () = self.ringer.activity() => return Ok(()),
                () = tokio::time::sleep(PING_INTERVAL) => {}
            }
            session.one("SELECT true AS answer".into()).await?;
        }
    }
}

impl Session {
    async fn open(options: &PgConnectOptions, names: &Names) -> Result<Self, Lost> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ANSWER_TIMEOUT)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // The server must notice soon that a relay has vanished: its lock makes every writer ring.
        let limits = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; \
                      SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000";
        sqlx::raw_sql(limits).execute(&mut listener).await?;
        let mut session = Self { listener, oid: 0 };
        session.oid = session.resolve(names).await?;
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

    async fn resolve(&mut self, names: &Names) -> Result<i64, Lost> {
        let sql = format!(
            "SELECT to_regclass({})::oid::int8 AS answer",
            names.table_literal()
        );
        let row = self.answer(sql).await?;
        row.try_get::<Option<i64>, _>("answer")?
            .ok_or(Lost::NoTable)
    }

    async fn try_lock(&mut self) -> Result<bool, Lost> {
        self.one(format!(
            "SELECT pg_try_advisory_lock({}) AS answer",
            self.lock_keys()
        ))
        .await
    }

    async fn disarm(&mut self) -> Result<(), Lost> {
        self.one(format!(
            "SELECT pg_advisory_unlock({}) AS answer",
            self.lock_keys()
        ))
        .await?;
        Ok(())
    }

    /// Whether somebody else holds the lock alone: a writer shares it.
    async fn is_armed_by_another(&mut self) -> Result<bool, Lost> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ({}) AS holder) AS answer",
            self.holders_sql()
        );
        self.one(sql).await
    }

    /// Ends the sessions of those who held the lease before: one that hangs while armed makes every writer ring.
    async fn evict(&mut self, session_name: &str) -> Result<(), Lost> {
        let sql = format!(
            "SELECT coalesce(bool_or(pg_terminate_backend(activity.pid)), false) AS answer \
             FROM pg_stat_activity AS activity JOIN ({}) AS holder USING (pid) \
             WHERE activity.application_name = {}",
            self.holders_sql(),
            sql::literal(session_name),
        );
        if self.one(sql).await? {
            tracing::warn!(
                "the doorbell of the former holder of the lease was still armed, its session was ended"
            );
        }
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
    async fn probe(&mut self, options: &PgConnectOptions) -> Result<(), Lost> {
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

/// Tells relays and sources apart; the same in every process of one build.
fn hash(relay: &str, source: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (relay, source).hash(&mut hasher);
    hasher.finish()
}

/// Finds out whether a pooler hands out one server connection to several clients: LISTEN and the lock would then
/// stay behind with somebody else's session. Two clients of a pooler meet on one backend, or one client is moved
/// to another while the first is busy; without a pooler neither can happen.
async fn refuse_pooler(options: &PgConnectOptions) -> Result<(), Lost> {
    let (mut first, mut second) = (Link::new(options.clone()), Link::new(options.clone()));
    let before = backend(&mut first, "").await?;
    let other = backend(&mut second, "BEGIN; ").await?;
    let after = backend(&mut first, "").await?;
    second.query(PROBE, "ROLLBACK".into(), |_| Ok(())).await?;
    first.close().await;
    second.close().await;
    if before == other || before != after {
        return Err(Lost::Pooler);
    }
    Ok(())
}

/// The backend that executes a statement.
async fn backend(link: &mut Link, prelude: &str) -> Result<i32, SourceError> {
    let mut pid = 0;
    link.query(
        PROBE,
        format!("{prelude}SELECT pg_backend_pid() AS pid"),
        |row| {
            pid = row.try_get("pid")?;
            Ok(())
        },
    )
    .await?;
    Ok(pid)
}

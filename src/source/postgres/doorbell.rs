//! The doorbell: NOTIFY without its price.
//!
//! NOTIFY takes a global lock over the commit, so a trigger that always notifies makes writers queue up. Ours
//! notifies only while the relay sleeps, like a network card that interrupts only an idle driver: the relay
//! holds an advisory lock while it sleeps (*armed*), and a writer that can share the lock knows that it is awake.
//!
//! Nothing is missed at the edge: to fall asleep the relay must get the lock alone, which it can't while a
//! writer that shared it is still in flight; and once it has it, every pipeline reads once more.
//!
//! Lock and LISTEN live on one session (`session`), used for nothing else and never inside a transaction.
//!
//! A queue of notifications that is full makes the commits of writers who ring fail, whoever's listener doesn't drain
//! it: long before that the relay stays awake, and nobody rings.

mod pooler;
mod session;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;

use self::pooler::refuse_pooler;
use self::session::Session;
use super::sql::Names;
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

/// How often a sleeping session looks at the queue of notifications, and proves that its connection is alive.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How often pipelines read at least while there is no session.
const OUT_OF_ORDER_POLL: Duration = Duration::from_millis(250);

/// The pause before a pooler is looked at again.
const POOLER_PAUSE: Duration = Duration::from_secs(60);

/// How long a statement on the session may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const PROBE: &str = "cannot try the doorbell";

/// From what share of the server's queue of notifications on writers are not to ring, and below which they may again.
const QUEUE_BOUND: f64 = 0.5;
const QUEUE_CALM: f64 = 0.4;

/// How often a queue that is too full is looked at; the table is polled at the same pace.
const QUEUE_PAUSE: Duration = Duration::from_millis(250);

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
        let mut crowded = false;
        loop {
            let standing = session.standing(&self.names).await?;
            if !session.is_of(&standing) {
                // The table was made anew: its writers ring elsewhere.
                return Err(Lost::Gap);
            }
            if is_crowded(standing.queue_usage, crowded) {
                pause = QUEUE_PAUSE;
                if !std::mem::replace(&mut crowded, true) {
                    self.warn_of_queue(standing.queue_usage);
                }
            } else if session.try_lock().await? {
                break;
            } else if session.is_armed_by_another().await? {
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
        if crowded {
            self.ringer.set_trouble(None);
            tracing::info!("the queue of notifications has room again, writers ring");
        }
        self.ringer.tell(Waiting::Armed {
            since: Instant::now(),
        });
        Ok(())
    }

    fn warn_of_queue(&self, usage: f64) {
        let percent = usage * 100.0;
        let trouble = format!(
            "the server's queue of notifications is {percent:.0} % full, and commits that notify fail when it is \
             full: end the listener that holds it up (the oldest `backend_xmin` or `xact_start` in pg_stat_activity)"
        );
        tracing::warn!(trouble, "writers are not to ring, the table is polled");
        self.ringer.set_trouble(Some(trouble));
    }

    /// Until a writer rings, a pipeline finds something that was committed before, or ringing would do harm.
    async fn sleep(&mut self, session: &mut Session) -> Result<(), Lost> {
        loop {
            tokio::select! {
                received = session.listener.try_recv() => {
                    return received?.map(drop).ok_or(Lost::Gap);
                }
                () = self.ringer.activity() => return Ok(()),
                () = tokio::time::sleep(PING_INTERVAL) => {}
            }
            // Also proves that the connection is alive.
            if is_crowded(session.standing(&self.names).await?.queue_usage, false) {
                return Ok(());
            }
        }
    }
}

/// Tells relays and sources apart; the same in every process of one build.
fn hash(relay: &str, source: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (relay, source).hash(&mut hasher);
    hasher.finish()
}

/// Whether the queue of notifications is too full for writers to ring; `crowded`: whether it was just now.
fn is_crowded(usage: f64, crowded: bool) -> bool {
    usage >= if crowded { QUEUE_CALM } else { QUEUE_BOUND }
}

#[cfg(test)]
mod tests {
    use super::is_crowded;

    #[test]
    fn writers_ring_only_while_the_queue_is_at_most_half_full() {
        let seen = [0.0, 0.49, 0.5, 0.45, 0.4, 0.39, 0.45, 1.0];
        let crowded = seen.iter().scan(false, |crowded, usage| {
            *crowded = is_crowded(*usage, *crowded);
            Some(*crowded)
        });
        let expected = [false, false, true, true, true, false, false, true];
        assert_eq!(crowded.collect::<Vec<_>>(), expected);
    }
}

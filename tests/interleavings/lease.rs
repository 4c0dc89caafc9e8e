//! The lease: at any time the flushes of one session at most are accepted, those of the last to take the lease, and it
//! began with all that was accepted before.

use std::time::Duration;

use outbox_relay::ledger::RangeSet;
use outbox_relay::source::postgres::Postgres;
use outbox_relay::source::{Flush, Grant, LeaseId, Source, SourceError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::Executor;
use uuid::Uuid;

use super::{Broken, SINK, drawn, source, start};
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::relay::migrate;
use crate::support::report::report;
use crate::support::settings::Settings;

const SESSIONS: usize = 3;

/// An acquisition that doesn't fence off the others.
const UNSTAMPED: &str = "CREATE FUNCTION keep_token() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN IF EXISTS (SELECT FROM outbox_lease WHERE token = NEW.token) THEN NEW.token := OLD.token; END IF; \
    RETURN NEW; END $$; \
    CREATE TRIGGER keep_token BEFORE UPDATE ON outbox_ledger FOR EACH ROW EXECUTE FUNCTION keep_token()";

/// A relay, and what it believes of its lease.
struct Session {
    source: Postgres,
    held: Option<Held>,
}

#[derive(Clone)]
struct Held {
    lease: LeaseId,
    delivered: RangeSet,
}

/// What must be true.
#[derive(Default)]
struct Model {
    /// Of the lease, and of the ledger.
    lease: Option<Uuid>,
    stamp: Option<Uuid>,
    /// The session that took the lease.
    owner: Option<usize>,
    expired: bool,
    stored: RangeSet,
    next: i64,
}

struct Machine {
    random: StdRng,
    sessions: Vec<Session>,
    model: Model,
    database: Database,
    acquired: usize,
    flushed: usize,
    fenced: usize,
    /// Flushes that an acquisition was ahead of.
    overtaken: usize,
}

impl Machine {
    async fn build(seed: u64) -> Self {
        let database = Database::fresh().await;
        let settings = Settings::of(&database);
        migrate(&settings.clone().set("sinks.events.type", "mock"));
        // As many as are delivered here: a ledger that is ahead of its sequence is refused.
        let drawn = "SELECT nextval('outbox_seq_seq') FROM generate_series(1, 50000)";
        database.execute(drawn).await;
        let session = |_| Session {
            source: source(&settings),
            held: None,
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            sessions: (0..SESSIONS).map(session).collect(),
            model: Model {
                expired: true,
                next: 1,
                ..Model::default()
            },
            database,
            acquired: 0,
            flushed: 0,
            fenced: 0,
            overtaken: 0,
        }
    }

    async fn run(&mut self, steps: u64) -> Result<(), Broken> {
        for step in 1..=steps {
            let one = self.random.random_range(0..SESSIONS);
            let other = self.random.random_range(0..SESSIONS);
            let (name, taken) = match self.random.random_range(0..14) {
                0..=2 => ("acquire", self.acquire(one).await),
                3..=6 => ("flush", self.flush(one).await),
                7 => ("renew", self.renew(one).await),
                8 => ("release", self.release(one).await),
                9 => ("expire", self.expire().await),
                10 => ("a command", self.command().await),
                11 => ("join", self.join(one).await),
                _ => ("flush and acquire at a time", self.race(one, other).await),
            };
            taken.map_err(|broken| format!("step {step}, {name}: {broken}"))?;
            self.check()
                .await
                .map_err(|broken| format!("step {step}, after {name}: {broken}"))?;
        }
        Ok(())
    }

    async fn acquire(&mut self, number: usize) -> Result<(), Broken> {
        let grant = self.sessions[number].source.acquire(&start()).await;
        // Its own it may take anew.
        let is_own = self.model.owner == Some(number);
        let is_free = self.model.lease.is_none() || self.model.expired || is_own;
        let grant = grant.expect("the server stays");
        if grant.is_some() != is_free {
            return Err(format!(
                "the lease is free: {is_free}, granted: {}",
                grant.is_some()
            ));
        }
        match grant {
            Some(grant) => self.granted(number, grant),
            None => Ok(()),
        }
    }

    fn granted(&mut self, number: usize, grant: Grant) -> Result<(), Broken> {
        let Grant { lease, ledgers, .. } = grant;
        let delivered = ledgers[0].delivered.clone();
        if delivered != self.model.stored {
            let stored = &self.model.stored;
            return Err(format!("{delivered} was read, {stored} had been accepted"));
        }
        self.acquired += 1;
        self.model.expired = false;
        self.model.owner = Some(number);
        self.model.lease = Some(lease.token);
        self.model.stamp = Some(lease.token);
        self.sessions[number].held = Some(Held { lease, delivered });
        Ok(())
    }

    /// The flush of a session that has delivered one more.
    fn next_flush(&mut self, number: usize) -> Option<(LeaseId, RangeSet)> {
        let held = self.sessions[number].held.as_mut()?;
        held.delivered.insert(self.model.next);
        self.model.next += 2;
        Some((held.lease.clone(), held.delivered.clone()))
    }

    /// What came of a flush; `fenced`: another has stamped the ledger.
    fn flushed(
        &mut self,
        number: usize,
        delivered: RangeSet,
        outcome: Result<(), SourceError>,
    ) -> Result<bool, Broken> {
        match outcome {
            Ok(()) => {
                self.flushed += 1;
                self.model.stored = delivered;
                Ok(true)
            }
            Err(SourceError::Fenced) => {
                self.fenced += 1;
                // It drops its memory, and may join again if the lease is still its own.
                if let Some(held) = &mut self.sessions[number].held {
                    held.delivered = self.model.stored.clone();
                }
                Ok(false)
            }
            Err(other) => Err(format!("a flush failed: {other:?}")),
        }
    }

    async fn flush(&mut self, number: usize) -> Result<(), Broken> {
        let Some((lease, delivered)) = self.next_flush(number) else {
            return Ok(());
        };
        let expected = self.model.stamp == Some(lease.token);
        let outcome = store(&self.sessions[number].source, &lease, &delivered).await;
        let accepted = self.flushed(number, delivered, outcome)?;
        match accepted == expected {
            true => Ok(()),
            false => Err(format!("accepted: {accepted}, expected: {expected}")),
        }
    }

    async fn renew(&mut self, number: usize) -> Result<(), Broken> {
        let Some(held) = &self.sessions[number].held else {
            return Ok(());
        };
        let renewed = self.sessions[number].source.renew(&held.lease).await;
        let renewed = renewed.expect("the server stays");
        let expected = self.model.lease == Some(held.lease.token);
        if renewed {
            self.model.expired = false;
        }
        match renewed == expected {
            true => Ok(()),
            false => Err(format!("renewed: {renewed}, expected: {expected}")),
        }
    }

    async fn release(&mut self, number: usize) -> Result<(), Broken> {
        let Some(held) = self.sessions[number].held.take() else {
            return Ok(());
        };
        let released = self.sessions[number].source.release(&held.lease).await;
        released.expect("the server stays");
        // Nobody's but its own.
        if self.model.lease == Some(held.lease.token) {
            self.model.expired = true;
        }
        Ok(())
    }

    /// Time passes.
    async fn expire(&mut self) -> Result<(), Broken> {
        let past = "UPDATE outbox_lease SET expires_at = clock_timestamp() - interval '1 second'";
        self.database.execute(past).await;
        self.model.expired = true;
        Ok(())
    }

    /// Changes the ledger, as `replay` does.
    async fn command(&mut self) -> Result<(), Broken> {
        let change = "UPDATE outbox_ledger SET token = gen_random_uuid(), delivered = '{}'";
        self.database.execute(change).await;
        if self.model.stamp.take().is_some() {
            self.model.stored = RangeSet::new();
        }
        Ok(())
    }

    async fn join(&mut self, number: usize) -> Result<(), Broken> {
        let Session { source, held } = &mut self.sessions[number];
        let Some(held) = held else { return Ok(()) };
        let [sink] = start();
        let joined = source.join(&held.lease, &sink).await;
        let joined = joined.expect("the server stays");
        let expected = self.model.lease == Some(held.lease.token);
        if joined.is_some() != expected {
            return Err(format!(
                "joined: {}, expected: {expected}",
                joined.is_some()
            ));
        }
        if let Some(ledger) = joined {
            if ledger.delivered != self.model.stored {
                return Err(format!("{} was read, not what is stored", ledger.delivered));
            }
            held.delivered = ledger.delivered;
            self.model.stamp = Some(held.lease.token);
        }
        Ok(())
    }

    /// A flush and an acquisition that meet at the ledger's row: whichever comes first, nothing accepted is lost.
    async fn race(&mut self, flushing: usize, acquiring: usize) -> Result<(), Broken> {
        let held = self.sessions[flushing].held.as_ref();
        let stamped = held.is_some_and(|held| self.model.stamp == Some(held.lease.token));
        let Some((lease, delivered)) = self.next_flush(flushing).filter(|_| stamped) else {
            // It would be told so without having to wait.
            return Ok(());
        };
        self.expire().await?;
        let mut holder = self.database.connect().await;
        let lock = "BEGIN; SELECT FROM outbox_ledger FOR UPDATE";
        holder.execute(lock).await.expect("lock the ledger");
        let flush_first: bool = self.random.random();
        let (database, sessions) = (&self.database, &self.sessions);
        let flush = async {
            let second = if flush_first { 0 } else { 1 };
            waiting(database, second).await;
            store(&sessions[flushing].source, &lease, &delivered).await
        };
        let acquire = async {
            let second = if flush_first { 1 } else { 0 };
            waiting(database, second).await;
            sessions[acquiring].source.acquire(&start()).await
        };
        let release = async {
            waiting(database, 2).await;
            holder.execute("COMMIT").await.expect("let go");
        };
        let (flushed, granted, ()) = tokio::join!(flush, acquire, release);
        let granted = granted.expect("the server stays").expect("it had ended");
        let accepted = self.flushed(flushing, delivered, flushed)?;
        self.overtaken += usize::from(!accepted);
        self.granted(acquiring, granted)
    }

    /// The ledger itself says whose it is: nobody's but the last one's.
    async fn check(&self) -> Result<(), Broken> {
        for (number, session) in self.sessions.iter().enumerate() {
            let Some(held) = &session.held else { continue };
            let mut store = session.source.ledger_store(&held.lease, SINK);
            let ours = match store.still_ours().await {
                Ok(()) => true,
                Err(SourceError::Fenced) => false,
                Err(other) => return Err(format!("{other:?}")),
            };
            let expected = self.model.stamp == Some(held.lease.token);
            if ours != expected {
                return Err(format!(
                    "session {number} may flush: {ours}, expected: {expected}"
                ));
            }
        }
        Ok(())
    }
}

async fn store(
    source: &Postgres,
    lease: &LeaseId,
    delivered: &RangeSet,
) -> Result<(), SourceError> {
    let flush = Flush {
        delivered: delivered.to_string(),
        closed: RangeSet::new().to_string(),
        dead_letters: Vec::new(),
    };
    source.ledger_store(lease, SINK).flush(&flush).await
}

/// Until so many wait for the row.
async fn waiting(database: &Database, count: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(
        "they wait for the row",
        Duration::from_secs(10),
        async || (database.value::<i64>(sql).await >= count).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn one_session_at_most_is_heard() {
    let (steps, seed) = drawn("lease", 400);
    let mut machine = Machine::build(seed).await;
    let outcome = machine.run(steps).await;
    outcome.unwrap_or_else(|broken| panic!("seed {seed}, {broken}"));
    report!(
        "lease: taken {} times, {} flushes accepted, {} fenced off, {} of them by an acquisition that was ahead by a moment",
        machine.acquired,
        machine.flushed,
        machine.fenced,
        machine.overtaken
    );
    assert!(
        machine.overtaken > 0 && machine.flushed > 0,
        "too few to show anything"
    );
}

#[tokio::test]
async fn an_acquisition_that_fences_nobody_off_is_noticed() {
    let (_, seed) = drawn("a lease without a fence", 0);
    let mut machine = Machine::build(seed).await;
    machine.database.execute(UNSTAMPED).await;
    let broken = machine.run(10_000).await.expect_err("somebody is heard");
    report!("seed {seed}, {broken}");
}

//! The doorbell: whatever is committed between two steps of a relay that falls asleep or wakes is read without a
//! fallback, or somebody has rung for it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use outbox_relay::ledger::RangeSet;
use outbox_relay::source::bell::{Bell, Waiting};
use outbox_relay::source::{Reader, Source};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::gate::Gate;
use super::{Broken, drawn, source, start};
use crate::support::database::Database;
use crate::support::relay::migrate;
use crate::support::report::report;
use crate::support::settings::Settings;

const WRITERS: usize = 4;

/// How long a ring, or the end of an episode, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so many steps everything comes to rest, and everything must have been read.
const EPISODE: u64 = 40;

/// A writer that rings if it finds the relay asleep, and doesn't keep it awake until its commit otherwise.
const HASTY: &str = "CREATE FUNCTION is_awake() RETURNS boolean LANGUAGE plpgsql AS $$ DECLARE t int4 := 'outbox'::regclass::oid::int4; \
    BEGIN IF pg_try_advisory_lock_shared(t, 1) THEN PERFORM pg_advisory_unlock_shared(t, 1); RETURN true; END IF; \
    RETURN false; END $$; \
    DROP TRIGGER outbox_relay_ring ON outbox; \
    CREATE TRIGGER outbox_relay_ring AFTER INSERT ON outbox FOR EACH STATEMENT WHEN (NOT is_awake()) \
    EXECUTE FUNCTION outbox_relay_ring()";

/// One connection, and its transaction if one is open.
struct Writer {
    connection: PgConnection,
    backend: u32,
    open: Option<Vec<Uuid>>,
}

/// A transaction that was committed: its events must be read, or its backend must have rung after it had rung so often.
struct Commit {
    backend: u32,
    rung_before: usize,
    ids: Vec<Uuid>,
}

/// A pipeline that reads when it must, and never because time has passed.
struct Sleeper {
    bell: Bell,
    reader: Box<dyn Reader>,
    last_read: Option<Instant>,
    seen: HashSet<Uuid>,
}

struct Machine {
    random: StdRng,
    gate: Gate,
    writers: Vec<Writer>,
    sleeper: Sleeper,
    /// Everybody may listen: what the relay is rung by.
    listener: PgListener,
    rung: HashMap<u32, usize>,
    unread: Vec<Commit>,
    committed: usize,
    armed: usize,
    _doorbell: AbortOnDropHandle<()>,
    _database: Database,
}

impl Machine {
    async fn build(seed: u64, breakage: &str) -> Self {
        let database = Database::fresh().await;
        let settings = Settings::of(&database)
            .set("sources.main.mode", "notify")
            .set("sources.main.poll_interval", "10m")
            .set("sources.main.fallback_interval", "10m");
        migrate(&settings.clone().set("sinks.events.type", "mock"));
        let relay = source(&settings);
        relay.inspect().await.expect("fit tables");
        let grant = relay.acquire(&start()).await.expect("a server");
        let lease = grant.expect("nobody else is there").lease;
        let reader = relay.reader(&lease, &RangeSet::new()).await;
        database.execute(breakage).await;

        // The doorbell alone goes through the gate.
        let server = database.url.split(['@', '/']).nth(3).expect("host:port");
        let gate = Gate::before(server).await;
        let gated = source(&settings.set("sources.main.url", database.url_through(gate.port)));
        let (bell, doorbell) = gated.doorbell().expect("notify");
        let oid: i64 = database.value("SELECT 'outbox'::regclass::oid::int8").await;
        let mut listener = PgListener::connect(&database.url).await.expect("connect");
        let channel = format!("outbox_relay_{oid}");
        listener.listen(&channel).await.expect("listen");
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let mut connection = database.connect().await;
            let backend = sqlx::query_scalar("SELECT pg_backend_pid()");
            let backend: i32 = backend.fetch_one(&mut connection).await.expect("a pid");
            writers.push(Writer {
                connection,
                backend: backend.unsigned_abs(),
                open: None,
            });
        }
        Self {
            random: StdRng::seed_from_u64(seed),
            gate,
            writers,
            sleeper: Sleeper {
                bell,
                reader: reader.expect("a reader"),
                last_read: None,
                seen: HashSet::new(),
            },
            listener,
            rung: HashMap::new(),
            unread: Vec::new(),
            committed: 0,
            armed: 0,
            _doorbell: AbortOnDropHandle::new(tokio::spawn(doorbell)),
            _database: database,
        }
    }

    async fn run(mut self, steps: u64) -> Result<Self, Broken> {
        for step in 1..=steps {
            let taken = self.step().await;
            if step % EPISODE == 0 {
                self.rest()
                    .await
                    .map_err(|broken| format!("step {step}: {broken}"))?;
            }
            self.check()
                .await
                .map_err(|broken| format!("step {step}, {taken}: {broken}"))?;
        }
        Ok(self)
    }

    async fn step(&mut self) -> &'static str {
        match self.random.random_range(0..10) {
            0..=2 => {
                // Its next statement, if it is about to send one.
                if self.gate.is_asked(Duration::from_millis(70)).await {
                    self.gate.pass().await;
                }
                "the doorbell's next statement"
            }
            3 => {
                self.sleeper.follow(&mut self.armed).await;
                "the pipeline"
            }
            _ => {
                let writer = self.random.random_range(0..WRITERS);
                self.write(writer).await
            }
        }
    }

    async fn write(&mut self, number: usize) -> &'static str {
        let writer = &mut self.writers[number];
        let Some(ids) = &mut writer.open else {
            writer.execute("BEGIN").await;
            writer.open = Some(Vec::new());
            return "BEGIN";
        };
        match self.random.random_range(0..6) {
            0..=2 => {
                let id = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
                ids.push(id);
                writer.insert(id).await;
                "INSERT"
            }
            3 => {
                let id = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
                writer.execute("SAVEPOINT a").await;
                writer.insert(id).await;
                writer.execute("ROLLBACK TO a").await;
                "INSERT in a savepoint that is rolled back"
            }
            4 => {
                writer.open = None;
                writer.execute("ROLLBACK").await;
                "ROLLBACK"
            }
            _ => {
                self.commit(number).await;
                "COMMIT"
            }
        }
    }

    async fn commit(&mut self, number: usize) {
        self.listen(Duration::ZERO).await;
        let writer = &mut self.writers[number];
        let Some(ids) = writer.open.take() else {
            return;
        };
        writer.execute("COMMIT").await;
        self.committed += ids.len();
        if !ids.is_empty() {
            self.unread.push(Commit {
                backend: writer.backend,
                rung_before: self.rung.get(&writer.backend).copied().unwrap_or_default(),
                ids,
            });
        }
    }

    /// Takes the rings that come within `patience`; whether there were any.
    async fn listen(&mut self, patience: Duration) -> bool {
        let mut any = false;
        while let Ok(ring) = tokio::time::timeout(patience, self.listener.recv()).await {
            let backend = ring.expect("the server stays").process_id();
            *self.rung.entry(backend).or_default() += 1;
            any = true;
        }
        any
    }

    /// If the pipeline sleeps, somebody has rung for all that it has not read.
    async fn check(&mut self) -> Result<(), Broken> {
        let seen = &self.sleeper.seen;
        self.unread
            .retain(|commit| !commit.ids.iter().all(|id| seen.contains(id)));
        let deadline = Instant::now() + PATIENCE;
        while self.sleeper.sleeps() {
            let rung = &self.rung;
            let silent = |commit: &&Commit| {
                let times = rung.get(&commit.backend).copied().unwrap_or_default();
                times <= commit.rung_before
            };
            let Some(silent) = self.unread.iter().find(silent) else {
                break;
            };
            if Instant::now() > deadline {
                let count = silent.ids.len();
                return Err(format!(
                    "{count} events are committed and unread, the pipeline sleeps, and nobody rang"
                ));
            }
            // A ring is on its way, or the doorbell is no longer armed and about to say so.
            self.listen(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Nothing is held up any longer: everything that is committed is read.
    async fn rest(&mut self) -> Result<(), Broken> {
        for number in 0..WRITERS {
            self.commit(number).await;
        }
        self.gate.open(true);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.sleeper.follow(&mut self.armed).await;
            let seen = &self.sleeper.seen;
            self.unread
                .retain(|commit| !commit.ids.iter().all(|id| seen.contains(id)));
            if self.unread.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                let count = self.unread.len();
                return Err(format!(
                    "{count} transactions stay unread although all is quiet"
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.random.random() {
            // The next episode finds it asleep.
            while !self.sleeper.sleeps() && Instant::now() < deadline {
                self.sleeper.follow(&mut self.armed).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.gate.open(false);
        Ok(())
    }
}

impl Sleeper {
    /// Whether it waits for the bell and for nothing else.
    fn sleeps(&mut self) -> bool {
        match self.bell.waiting() {
            Waiting::Armed { since } => self.last_read.is_some_and(|last| last >= since),
            Waiting::Polling { .. } => false,
        }
    }

    /// Reads, unless it sleeps.
    async fn follow(&mut self, armed: &mut usize) {
        if self.sleeps() {
            return;
        }
        let before = self.last_read.replace(Instant::now());
        loop {
            let batch = self
                .reader
                .read(100, 1 << 20)
                .await
                .expect("the server stays");
            if !batch.events.is_empty() {
                self.bell.active();
            }
            self.seen.extend(batch.events.iter().map(|event| event.id));
            if !batch.more {
                break;
            }
        }
        if self.sleeps() && before != self.last_read {
            *armed += 1;
        }
    }
}

impl Writer {
    async fn execute(&mut self, sql: &'static str) {
        self.connection.execute(sql).await.expect(sql);
    }

    async fn insert(&mut self, id: Uuid) {
        let insert = format!(
            "INSERT INTO outbox (id, event_type, payload) VALUES ('{id}', 'Counted', '{{}}')"
        );
        let inserted = self.connection.execute(AssertSqlSafe(insert)).await;
        inserted.expect("insert an event");
    }
}

#[tokio::test]
async fn no_commit_is_unseen_by_a_sleeper() {
    let (steps, seed) = drawn("doorbell", 2_000);
    let machine = Machine::build(seed, "SELECT 1").await.run(steps).await;
    let machine = machine.unwrap_or_else(|broken| panic!("seed {seed}, {broken}"));
    let rings: usize = machine.rung.values().sum();
    report!(
        "doorbell: {} events committed, fell asleep {} times, rung {rings} times",
        machine.committed,
        machine.armed
    );
    assert!(
        machine.armed > 0 && rings > 0,
        "too few edges to show anything"
    );
}

#[tokio::test]
async fn a_writer_that_lets_go_before_its_commit_is_noticed() {
    let (_, seed) = drawn("a hasty doorbell", 0);
    let broken = Machine::build(seed, HASTY).await.run(20_000).await.err();
    let broken = broken.expect("a commit that nobody sees");
    report!("seed {seed}, {broken}");
    assert!(broken.contains("unread"), "{broken}");
}

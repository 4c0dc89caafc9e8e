//! Writers as a service has them, with a record outside of the database of what they committed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::database::{Database, connect};
use super::eventually::eventually;
use super::report::report;

/// What the writers write.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Connections that write at the same time.
    pub(crate) writers: u32,
    /// Ordering keys, each a row that writers lock before they insert an event about it.
    pub(crate) keys: u32,
    /// Pause between two transactions of a writer.
    pub(crate) pause: Duration,
    /// One transaction in so many inserts a thousand events.
    pub(crate) large_every: u32,
    /// How long a transaction in twenty is held open, at most.
    pub(crate) held: Duration,
    /// How they insert events: `$1` ids, `$2` the key, `$3` payloads.
    pub(crate) insert: &'static str,
    /// What the random choices follow from.
    pub(crate) seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            writers: 16,
            keys: 1_000,
            pause: Duration::from_millis(5),
            large_every: 300,
            held: Duration::from_secs(2),
            insert: "INSERT INTO outbox (id, event_type, aggregate_id, payload) \
                     SELECT id, 'Counted', $2, payload::json FROM unnest($1, $3) AS event (id, payload)",
            seed: rand::random(),
        }
    }
}

/// What is known of one event that was committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) key: u32,
    /// Its place among the events of its key.
    pub(crate) counter: i64,
    /// When the commit was known to the writer.
    pub(crate) committed_at: SystemTime,
}

/// What the writers know they did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) committed: HashMap<Uuid, Written>,
    pub(crate) rolled_back: HashSet<Uuid>,
    /// The connection broke during the commit: only the database knows.
    pub(crate) unknown: HashMap<Uuid, Written>,
    /// A fail-over to a replica that was behind took the commit back: it may have been delivered before.
    pub(crate) taken_back: HashSet<Uuid>,
    /// Events that may arrive behind their successors: dead letters that were retried.
    pub(crate) excused: HashSet<Uuid>,
    pub(crate) transactions: u64,
}

impl Record {
    /// The ids that must arrive.
    pub(crate) fn ids(&self) -> HashSet<Uuid> {
        self.committed.keys().copied().collect()
    }

    /// After a fail-over to a replica that was behind: what it doesn't have was taken back. It must have all rows that
    /// it ever had.
    #[allow(dead_code, reason = "for the torture test")]
    pub(crate) async fn take_back(&mut self, database: &Database) {
        let rows = rows(database).await;
        let known: Vec<Uuid> = self.committed.keys().copied().collect();
        let unknown: Vec<Uuid> = self.unknown.keys().copied().collect();
        for id in unknown
            .into_iter()
            .chain(known)
            .filter(|id| !rows.contains(id))
        {
            self.taken_back.insert(id);
        }
        self.committed.retain(|id, _| rows.contains(id));
        self.unknown.retain(|id, _| rows.contains(id));
    }

    /// Asks the database about what is unknown. It must still have all rows.
    pub(crate) async fn settle(&mut self, database: &Database) {
        let rows = rows(database).await;
        for (id, written) in self.unknown.drain() {
            if rows.contains(&id) {
                self.committed.insert(id, written);
            } else {
                self.rolled_back.insert(id);
            }
        }
    }
}

/// The ids of all events that are in the table.
async fn rows(database: &Database) -> HashSet<Uuid> {
    let mut connection = database.connect().await;
    let rows: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM outbox")
        .fetch_all(&mut connection)
        .await
        .expect("read the outbox");
    rows.into_iter().collect()
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    record: Arc<Mutex<Record>>,
}

impl Writers {
    /// Prepares the keys and starts to write.
    pub(crate) async fn start(database: &Database, load: Load) -> Self {
        report!("writers: seed {}", load.seed);
        database
            .execute("CREATE TABLE aggregate (key int PRIMARY KEY, counter bigint NOT NULL)")
            .await;
        let fill = format!(
            "INSERT INTO aggregate SELECT key, 0 FROM generate_series(0, {}) key",
            load.keys - 1
        );
        database.execute(&fill).await;
        let stop = CancellationToken::new();
        let record = Arc::default();
        let mut tasks = JoinSet::new();
        for number in 0..load.writers {
            let writer = Writer {
                url: database.url.clone(),
                random: StdRng::seed_from_u64(load.seed.wrapping_add(u64::from(number))),
                load: load.clone(),
                record: Arc::clone(&record),
                written: 0,
            };
            tasks.spawn(writer.run(stop.clone()));
        }
        Self {
            tasks,
            stop,
            record,
        }
    }

    /// Lets them write until this many events are committed.
    pub(crate) async fn until(&self, committed: usize) {
        let what = format!("{committed} events are committed");
        eventually(&what, Duration::from_secs(60), async || {
            let record = self.record.lock().expect("no writer panics");
            (record.committed.len() >= committed).then_some(())
        })
        .await;
    }

    /// How many events are known to be committed.
    pub(crate) fn committed(&self) -> u64 {
        let record = self.record.lock().expect("no writer panics");
        record.committed.len() as u64
    }

    /// Lets every writer end its transaction, and returns the record.
    pub(crate) async fn stop(mut self) -> Record {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no writer panics");
        }
        std::mem::take(&mut self.record.lock().expect("no writer panics"))
    }
}

/// Events of one transaction, before its end is known.
type Pending = Vec<(Uuid, Written)>;

#[derive(Debug)]
struct Writer {
    url: String,
    random: StdRng,
    load: Load,
    record: Arc<Mutex<Record>>,
    written: i64,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // The server may be down for a while: that is part of the test.
            let Ok(mut connection) = connect(&self.url).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !stop.is_cancelled() {
                if self.transaction(&mut connection).await.is_err() {
                    break;
                }
                tokio::time::sleep(self.load.pause).await;
            }
            drop(connection.close().await);
        }
    }

    /// One random transaction. Its events are in the record, whatever becomes of it.
    async fn transaction(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let mut pending = Pending::new();
        let mut undone = Pending::new();
        let outcome = self.fill(connection, &mut pending, &mut undone).await;
        let roll_back = self.random.random_ratio(1, 10);
        let ended = match outcome {
            Ok(()) if roll_back => connection.execute("ROLLBACK").await.map(|_| ()),
            Ok(()) => {
                let commit = connection.execute("COMMIT").await;
                let now = SystemTime::now();
                for (_, written) in &mut pending {
                    written.committed_at = now;
                }
                let mut record = self.record.lock().expect("no writer panics");
                let known = commit.is_ok();
                let events = std::mem::take(&mut pending);
                if known {
                    record.committed.extend(events);
                } else {
                    record.unknown.extend(events);
                }
                commit.map(|_| ())
            }
            // It never came to a commit.
            Err(error) => Err(error),
        };
        let mut record = self.record.lock().expect("no writer panics");
        record.transactions += 1;
        record
            .rolled_back
            .extend(pending.into_iter().chain(undone).map(|(id, _)| id));
        ended
    }

    async fn fill(
        &mut self,
        connection: &mut PgConnection,
        pending: &mut Pending,
        undone: &mut Pending,
    ) -> sqlx::Result<()> {
        connection.execute("BEGIN").await?;
        if self.random.random_ratio(1, self.load.large_every) {
            for key in self.choose_keys(10) {
                self.write(connection, key, 100, pending).await?;
            }
            return Ok(());
        }
        let count = self.random.random_range(1..=3);
        let keys = self.choose_keys(count);
        for &key in &keys {
            lock(connection, key).await?;
        }
        for _ in 0..self.random.random_range(1..=5) {
            let key = *keys.choose(&mut self.random).expect("at least one key");
            if self.random.random_ratio(1, 10) {
                connection.execute("SAVEPOINT attempt").await?;
                self.write(connection, key, 2, undone).await?;
                connection.execute("ROLLBACK TO attempt").await?;
            }
            self.write(connection, key, 1, pending).await?;
        }
        if self.random.random_ratio(1, 20) {
            let share = self.random.random_range(0.0..1.0);
            tokio::time::sleep(self.load.held.mul_f64(share)).await;
        }
        Ok(())
    }

    /// Up to `count` keys in ascending order, in which all writers lock them.
    fn choose_keys(&mut self, count: usize) -> Vec<u32> {
        let mut keys: Vec<u32> = (0..count)
            .map(|_| self.random.random_range(0..self.load.keys))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Inserts events of one key, each with the key's next counter.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        key: u32,
        count: i64,
        into: &mut Pending,
    ) -> sqlx::Result<()> {
        let first = lock(connection, key).await? + 1;
        let counters: Vec<i64> = (first..first + count).collect();
        let ids: Vec<Uuid> = counters
            .iter()
            .map(|_| uuid::Builder::from_random_bytes(self.random.random()).into_uuid())
            .collect();
        let payloads: Vec<String> = counters
            .iter()
            .map(|counter| {
                self.written += 1;
                // Spelled as no library would: it must arrive like this.
                format!(
                    "{{\"n\":{} , \"key\":{key},\"counter\":{counter},\"exact\":1.50}}",
                    self.written
                )
            })
            .collect();
        let unsure = SystemTime::now();
        into.extend(ids.iter().zip(&counters).map(|(&id, &counter)| {
            let written = Written {
                key,
                counter,
                committed_at: unsure,
            };
            (id, written)
        }));
        sqlx::query(self.load.insert)
            .bind(&ids)
            .bind(key.to_string())
            .bind(&payloads)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE aggregate SET counter = $2 WHERE key = $1")
            .bind(key.cast_signed())
            .bind(first + count - 1)
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Locks an aggregate and returns its counter: what every writer of ordered events does first.
async fn lock(connection: &mut PgConnection, key: u32) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT counter FROM aggregate WHERE key = $1 FOR UPDATE")
        .bind(key.cast_signed())
        .fetch_one(connection)
        .await
}

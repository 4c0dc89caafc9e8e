//! Writers at work, who remember when each of their events was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::check::Name;

/// Connections that write at the same time.
const WRITERS: u64 = 16;

/// Keys of each writer: nobody else writes about them, so that their commits come in order.
const KEYS: u64 = 64;

const SQL: &str = "INSERT INTO outbox (event_type, aggregate_id, payload) \
     SELECT 'OrderPlaced', key, payload::json FROM unnest($1::text[], $2::text[]) AS event (key, payload)";

/// How they write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Events per second, all writers together.
    pub(crate) rate: u64,
    /// Events in a transaction.
    pub(crate) batch: u64,
}

/// A committed event.
pub(crate) type Committed = (Name, SystemTime);

/// Writers until they are stopped.
pub(crate) struct Writers {
    tasks: JoinSet<Result<Vec<Committed>>>,
    stop: CancellationToken,
    committed: Arc<AtomicU64>,
}

impl Writers {
    pub(crate) async fn start(database: &str, pace: Pace, payload: usize) -> Result<Self> {
        let stop = CancellationToken::new();
        let committed = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let period = Duration::from_secs(WRITERS * pace.batch).div_f64(pace.rate as f64);
        for number in 0..WRITERS {
            let writer = Writer {
                connection: PgConnection::connect(database).await?,
                number,
                written: 0,
                batch: pace.batch,
                payload,
                committed: Arc::clone(&committed),
            };
            // Not all at once.
            let first = Instant::now() + period.mul_f64(number as f64 / WRITERS as f64);
            tasks.spawn(writer.run(first, period, stop.clone()));
        }
        Ok(Self {
            tasks,
            stop,
            committed,
        })
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Ends them, and returns what all have committed.
    pub(crate) async fn stop(mut self) -> Result<Vec<Committed>> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            all.extend(ended??);
        }
        Ok(all)
    }
}

struct Writer {
    connection: PgConnection,
    number: u64,
    written: u64,
    batch: u64,
    payload: usize,
    committed: Arc<AtomicU64>,
}

impl Writer {
    async fn run(
        mut self,
        first: Instant,
        period: Duration,
        stop: CancellationToken,
    ) -> Result<Vec<Committed>> {
        let mut ticks = interval_at(first, period);
        // Who is late catches up: the rate is to be kept.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut all = Vec::new();
        while !stop.is_cancelled() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            let names = self.names();
            let keys: Vec<String> = names
                .iter()
                .map(|name| format!("order-{}", name.key))
                .collect();
            let payloads: Vec<String> = names
                .iter()
                .map(|name| name.payload(self.payload))
                .collect();
            // A statement alone is a transaction: its answer comes after the commit.
            sqlx::query(SQL)
                .bind(keys)
                .bind(payloads)
                .execute(&mut self.connection)
                .await?;
            let at = SystemTime::now();
            self.committed.fetch_add(self.batch, Ordering::Relaxed);
            all.extend(names.into_iter().map(|name| (name, at)));
        }
        Ok(all)
    }

    /// The next events of this writer, key by key.
    fn names(&mut self) -> Vec<Name> {
        let name = |written: u64| Name {
            key: self.number * KEYS + written % KEYS,
            counter: written / KEYS,
        };
        let names = (self.written..self.written + self.batch)
            .map(name)
            .collect();
        self.written += self.batch;
        names
    }
}

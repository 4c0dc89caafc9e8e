//! The pump with a sink that keeps order itself: a broker that acknowledges, refuses and breaks down as scripted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tower::Service;

use super::*;
use crate::config::{Config, Environment};
use crate::error::PublishError;
use crate::fixture::keyed;
use crate::ledger::RangeSet;
use crate::pipeline::stack;
use crate::sink::{Connected, Message};
use crate::source::{Batch, Fetched, Flush, SourceError};
use crate::status::Status;

/// Answers within the script's time, or the pump hangs.
const DEADLINE: Duration = Duration::from_secs(600);

/// What the broker does with the oldest messages that it has.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Acknowledges so many.
    Acknowledge(usize),
    /// Refuses the first.
    Refuse,
    /// The client refuses the first, and asks no broker.
    Decline,
    /// Stores so many, but their acknowledgements get lost, and so does everything behind them.
    BreakDown(usize),
    /// Nothing, for so many seconds.
    Silence(u64),
}

/// A broker's end of an ordered connection. Clones share it.
#[derive(Debug, Clone, Default)]
struct Line(Arc<Mutex<Wire>>);

type Answer = Result<(), PublishError>;

#[derive(Debug, Default)]
struct Wire {
    waiting: VecDeque<(Arc<Event>, oneshot::Sender<Answer>)>,
    stored: Vec<Arc<Event>>,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().expect("nobody panics with it")
    }

    fn stored(&self) -> Vec<i64> {
        self.lock().stored.iter().map(|event| event.seq).collect()
    }

    fn answer(&self, count: usize) {
        let mut wire = self.lock();
        for _ in 0..count {
            let Some((event, answer)) = wire.waiting.pop_front() else {
                return;
            };
            wire.stored.push(event);
            answer.send(Ok(())).ok();
        }
    }

    /// Acknowledges everything but the first, as if that were for a partition without a leader.
    fn answer_others(&self) {
        let first = self.lock().waiting.pop_front();
        self.answer(usize::MAX);
        self.lock().waiting.extend(first);
    }

    /// Fails everything that waits, and nothing of it is stored.
    fn take_back(&self) {
        for (_, answer) in self.lock().waiting.drain(..) {
            let error = PublishError::unavailable("taken back");
            answer.send(Err(error)).ok();
        }
    }

    async fn step(&self, step: Step) {
        match step {
            Step::Acknowledge(count) => self.answer(count),
            Step::Refuse => {
                if let Some((_, answer)) = self.lock().waiting.pop_front() {
                    answer.send(Err(PublishError::rejected("no"))).ok();
                }
            }
            Step::Decline => {
                if let Some((_, answer)) = self.lock().waiting.pop_front() {
                    answer.send(Err(PublishError::invalid("no"))).ok();
                }
            }
            Step::BreakDown(stored) => {
                let mut wire = self.lock();
                let lost = wire.waiting.len().min(stored);
                let events: Vec<_> = wire.waiting.drain(..).collect();
                let first = events[..lost].iter().map(|(event, _)| Arc::clone(event));
                wire.stored.extend(first.collect::<Vec<_>>());
                // Who hears of it first is nobody's promise.
                for (_, answer) in events.into_iter().rev() {
                    answer.send(Err(PublishError::unavailable("gone"))).ok();
                }
            }
            Step::Silence(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        }
    }
}

impl Service<Message> for Line {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        self.lock().waiting.push_back((message.event, answer));
        Box::pin(async {
            answered
                .await
                .unwrap_or_else(|_| Err(PublishError::unavailable("dropped")))
        })
    }
}

/// Shows these batches, one per read. Clones share them.
#[derive(Clone)]
struct Script(Arc<Mutex<VecDeque<Vec<Arc<Event>>>>>);

#[async_trait]
impl Reader for Script {
    async fn read(&mut self, _: usize, _: usize) -> Result<Batch, SourceError> {
        let mut batches = self.0.lock().expect("nobody panics with it");
        Ok(Batch {
            events: batches.pop_front().unwrap_or_default(),
            more: !batches.is_empty(),
            ..Batch::default()
        })
    }

    async fn fetch(&mut self, _: &[i64], _: usize) -> Result<Fetched, SourceError> {
        unreachable!("nothing waits at an open gate")
    }

    async fn unread(&mut self) -> Result<u64, SourceError> {
        Ok(0)
    }

    fn idle_wait(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn holes(&self) -> usize {
        0
    }
}

/// What was stored last, and all dead letters. Clones share it.
#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<(String, BTreeSet<i64>)>>);

#[async_trait]
impl LedgerStore for Table {
    async fn flush(&mut self, flush: &Flush) -> Result<(), SourceError> {
        let mut table = self.0.lock().expect("nobody panics with it");
        table.0.clone_from(&flush.delivered);
        let letters = flush.dead_letters.iter();
        table.1.extend(letters.map(|letter| letter.event.seq));
        Ok(())
    }

    async fn still_ours(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Table {
    fn dead(&self) -> BTreeSet<i64> {
        self.0.lock().expect("nobody panics with it").1.clone()
    }

    fn delivered(&self) -> RangeSet {
        let text = self.0.lock().expect("nobody panics with it").0.clone();
        RangeSet::parse(if text.is_empty() { "{}" } else { &text }).expect("a multirange")
    }
}

struct Running {
    line: Line,
    script: Script,
    table: Table,
    status: Status,
    lease: Lease,
    stop: CancellationToken,
    pump: tokio::task::JoinHandle<Exit>,
}

impl Running {
    /// A pump that reads `batches`.
    fn start(batches: Vec<Vec<Arc<Event>>>) -> Self {
        let text = "[sources.a]\ntype = 'sqlite'\npath = 'x'\n\
                    [sinks.b]\ntype = 'mock'\nmax_in_flight = 8\ntimeout = '2s'\n\
                    [retry]\nmax_retries = 3\n";
        let config = Config::from_toml(text, &Environment::default())
            .expect("valid")
            .config;
        let (line, table, status) = (Line::default(), Table::default(), Status::default());
        let metrics = Arc::new(PipelineMetrics::new("a", "b"));
        let sink = Connected::in_order(line.clone(), {
            let line = line.clone();
            move || line.take_back()
        });
        let (order, recall) = (sink.order, sink.recall.clone());
        let lease = Lease::granted(Instant::now() + DEADLINE);
        let pipeline_status = status.start_pipeline("a", "b", Arc::default());
        pipeline_status.sink_is_connected();
        let script = Script(Arc::new(Mutex::new(batches.into())));
        let pump = Pump::new(PumpParts {
            stack: stack(sink, &config.sinks["b"], None, Arc::clone(&metrics)),
            order,
            recall,
            reader: Box::new(script.clone()),
            bell: None,
            store: Box::new(table.clone()),
            ledger: StoredLedger {
                sink: "b".to_owned(),
                delivered: RangeSet::new(),
                closed: RangeSet::new(),
            },
            lease: lease.clone(),
            limits: Limits::new(&config.sources["a"], &config.sinks["b"]),
            drain: watch::channel(config.relay.shutdown_timeout).1,
            metrics,
            status: pipeline_status,
        });
        let stop = CancellationToken::new();
        let pump = tokio::spawn(pump.run(stop.clone()));
        Self {
            line,
            script,
            table,
            status,
            lease,
            stop,
            pump,
        }
    }

    /// Until `condition` holds; the clock is paused, so this takes no time.
    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: never");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn waits(&self, count: usize) {
        let waiting = || self.line.lock().waiting.len() == count;
        self.until(&format!("{count} events wait at the broker"), waiting)
            .await;
    }

    /// From now on there is one batch more to read.
    fn shows(&self, batch: Vec<Arc<Event>>) {
        let mut batches = self.script.0.lock().expect("nobody panics with it");
        batches.push_back(batch);
    }

    async fn stop(self) -> Exit {
        self.stop.cancel();
        self.pump.await.expect("the pump doesn't panic")
    }
}

fn events(seqs: std::ops::Range<i64>, key: &str) -> Vec<Arc<Event>> {
    seqs.map(|seq| keyed(seq, key)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_key_fills_the_line() {
    let running = Running::start(vec![events(1..21, "a")]);
    running.waits(8).await;
    running.line.answer(3);
    running.waits(8).await;
    running
        .until("all", || {
            running.line.answer(8);
            running.line.stored().len() == 20
        })
        .await;
    assert_eq!(running.line.stored(), (1..21).collect::<Vec<_>>());
    assert_eq!(running.stop().await, Exit::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_dead_at_once_and_holds_nothing_back() {
    let running = Running::start(vec![events(1..5, "a")]);
    running.waits(4).await;
    running.line.step(Step::Refuse).await;
    running.line.answer(3);
    running
        .until("a dead letter", || running.table.dead() == [1].into())
        .await;
    assert_eq!(running.line.stored(), [2, 3, 4]);
    let table = running.table.clone();
    assert_eq!(running.stop().await, Exit::Stopped);
    assert_eq!(table.delivered(), RangeSet::from_iter([(1, 5)]));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_the_lease_the_line_is_emptied_and_filled_again_when_it_is_back() {
    let running = Running::start(vec![events(1..7, "a")]);
    running.waits(6).await;
    running.line.answer(2);
    running.lease.revoke();
    running.waits(0).await;
    running.line.step(Step::Silence(70)).await;
    assert_eq!(running.line.lock().waiting.len(), 0);
    assert!(
        running.status.obstacles().is_empty(),
        "the sink is not to blame"
    );
    running.lease.renewed(Instant::now() + DEADLINE);
    // All at once, for there was no outage to probe for.
    running.waits(4).await;
    running.line.answer(4);
    running
        .until("all", || running.line.stored().len() == 6)
        .await;
    assert_eq!(running.line.stored(), [1, 2, 3, 4, 5, 6]);
    running.stop().await;
}

mod away;
mod random;

//! The pump: moves events from a reader through the stack, and what came of them into the ledger.
//!
//! One task per pipeline. It owns the gate, the limits, the probing of an outage and the timing of flushes; it
//! never waits for one thing while another could go on. Its parts: [`publishing`](self) hands events to the
//! stack and acts on verdicts, [`reading`](self) keeps events coming, [`storing`](self) keeps the ledger,
//! [`stall`](self) tells when a sink that keeps order itself answers nothing, or not for all, [`busy`](self) which
//! events wait for a destination that takes nothing.

mod busy;
mod looking;
mod publishing;
mod reading;
mod stall;
mod storing;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::busy::Busy;
use self::publishing::{Attempt, Attempted, Outage};
use self::reading::{Read, Reading};
use self::stall::Stall;
use self::storing::{Flushed, Flushing};
use super::Stack;
use super::flush::Ledger;
use super::order::Gate;
use crate::backoff::Backoff;
use crate::config;
use crate::event::Event;
use crate::lease::Lease;
use crate::metrics::{Cause, PipelineMetrics};
use crate::sink::{KeyOrder, Recall};
use crate::source::bell::Bell;
use crate::source::{LedgerStore, Reader, StoredLedger};
use crate::status::{Activity, PipelineStatus};

/// How often gauges are set and the lease is looked at while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Why a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was told to stop, and has stored what was acknowledged.
    Stopped,
    /// Somebody else has written to the ledger: what is in memory is void.
    Fenced,
    /// The source is another one than before: what is in memory of it is void.
    Changed,
}

/// What a pump is made of.
#[allow(missing_debug_implementations)] // a reader is whatever a source makes it
pub struct PumpParts {
    /// What events pass through.
    pub stack: Stack,
    /// Who keeps events of one key in order.
    pub order: KeyOrder,
    /// How a sink that keeps order itself gives back what it holds.
    pub recall: Option<Recall>,
    /// Where they come from.
    pub reader: Box<dyn Reader>,
    /// What wakes it when it is idle; `None` if it polls.
    pub bell: Option<Bell>,
    /// Where the ledger is stored.
    pub store: Box<dyn LedgerStore>,
    /// The ledger as it was stored.
    pub ledger: StoredLedger,
    /// Until when publishing is allowed.
    pub lease: Lease,
    /// Limits.
    pub limits: Limits,
    /// How long a stop waits for acknowledgements, as the configuration says when it stops.
    pub drain: watch::Receiver<Duration>,
    /// Where it records what it does.
    pub metrics: Arc<PipelineMetrics>,
    /// Where others see how it is.
    pub status: Arc<PipelineStatus>,
}

/// The limits of one pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events per read.
    pub batch_size: usize,
    /// Events handed to the broker at a time.
    pub max_in_flight: usize,
    /// How long a sink that keeps order itself may answer nothing before that is an outage.
    pub patience: Duration,
    /// Weight of all events in memory.
    pub max_bytes: usize,
    /// Events waiting for a retry or behind one, before reading stops.
    pub max_parked: usize,
    /// The time between two flushes.
    pub flush_interval: Duration,
    /// The time between two looks into closed holes.
    pub look_interval: Duration,
}

impl Limits {
    /// The limits of the pipeline from `source` to `sink`.
    #[must_use]
    pub fn new(source: &config::Source, sink: &config::Sink) -> Self {
        Self {
            batch_size: usize::try_from(source.batch_size).unwrap_or(usize::MAX),
            max_in_flight: sink.max_in_flight,
            patience: sink.timeout,
            max_bytes: sink.max_in_flight_bytes,
            max_parked: sink.max_parked,
            flush_interval: sink.flush_interval,
            look_interval: source.settle_interval,
        }
    }
}

/// What can happen to a pump.
enum Happening {
    /// An attempt has ended.
    Attempted(Attempted),
    /// The reader is back; `None`: its task died.
    Read(Option<Read>),
    /// The store is back; `None`: its task died.
    Flushed(Option<Flushed>),
    /// The bell says how to wait from now on.
    Bell,
    /// Something is due.
    Due,
    /// Stop.
    Stop,
}

/// See the module.
#[allow(missing_debug_implementations)] // a reader is whatever a source makes it
pub struct Pump {
    stack: Stack,
    order: KeyOrder,
    recall: Option<Recall>,
    /// The lease ended, and what is in flight was taken back: none of it is published any more.
    is_recalled: bool,
    limits: Limits,
    drain: watch::Receiver<Duration>,
    lease: Lease,
    metrics: Arc<PipelineMetrics>,
    status: Arc<PipelineStatus>,
    ledger: Ledger,
    gate: Gate,
    /// Events that may go, lowest `seq` first.
    ready: BTreeMap<i64, Arc<Event>>,
    /// Rejected events by when their next attempt is due.
    delayed: BTreeMap<(Instant, i64), Arc<Event>>,
    in_flight: FuturesUnordered<Attempt>,
    /// When each event in memory was created: those ready, delayed, in flight, waiting whole at the gate, or
    /// refused and not yet stored.
    held: BTreeMap<i64, DateTime<Utc>>,
    held_bytes: usize,
    attempts: u64,
    outage: Option<Outage>,
    stall: Stall,
    busy: Busy,
    /// `None` while a read is on its way; likewise `store`.
    reader: Option<Box<dyn Reader>>,
    reading: Option<Reading>,
    bell: Option<Bell>,
    /// When to read, why, and when the last read began.
    read_at: Instant,
    read_cause: Cause,
    read_began: Instant,
    /// How many times the bell's pace passes between two reads.
    stride: u32,
    /// When to ask how much is left, if there is no room to read it.
    count_at: Instant,
    /// When to try again after a failed read.
    retry_read_at: Instant,
    read_backoff: Backoff,
    /// What the last read left, at most.
    unread: u64,
    holes: usize,
    /// When closed holes are looked at once more.
    look_at: Instant,
    store: Option<Box<dyn LedgerStore>>,
    flushing: Option<Flushing>,
    flush_at: Instant,
    /// When to look whether the ledger is still ours, unless it is stored meanwhile.
    look_at_ledger_at: Instant,
    flush_backoff: Backoff,
    tick_at: Instant,
    /// Set by a stop: when waiting for acknowledgements ends.
    drain_until: Option<Instant>,
}

impl Pump {
    /// A pump that has done nothing yet.
    #[must_use]
    pub fn new(parts: PumpParts) -> Self {
        let now = Instant::now();
        Self {
            stack: parts.stack,
            order: parts.order,
            recall: parts.recall,
            is_recalled: false,
            limits: parts.limits,
            drain: parts.drain,
            lease: parts.lease,
            metrics: parts.metrics,
            status: parts.status,
            ledger: Ledger::new(parts.ledger),
            gate: Gate::new(parts.order),
            ready: BTreeMap::new(),
            delayed: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            attempts: 0,
            outage: None,
            stall: Stall::default(),
            busy: Busy::new(now),
            reader: Some(parts.reader),
            reading: None,
            bell: parts.bell,
            read_at: now,
            read_cause: Cause::Poll,
            read_began: now,
            stride: 1,
            count_at: now,
            retry_read_at: now,
            read_backoff: Backoff::source(),
            unread: 0,
            holes: 0,
            look_at: now,
            store: Some(parts.store),
            flushing: None,
            flush_at: now,
            look_at_ledger_at: now,
            flush_backoff: Backoff::source(),
            tick_at: now,
            drain_until: None,
        }
    }

    /// Runs until `stop`, or until the ledger or the source turns out to be another's. A dropped run forgets
    /// what was acknowledged since the last flush: duplicates, never losses.
    pub async fn run(mut self, stop: CancellationToken) -> Exit {
        loop {
            let now = Instant::now();
            self.tick(now);
            self.dispatch(now);
            self.start_looking(now);
            self.start_reading(now);
            self.start_flush(now);
            if self.is_drained(now) {
                return self.finish().await;
            }
            let happening = self.next_happening(&stop).await;
            if let Err(exit) = self.handle(happening) {
                return exit;
            }
        }
    }

    async fn next_happening(&mut self, stop: &CancellationToken) -> Happening {
        let due = self.next_due();
        tokio::select! {
            // Acknowledgements first: they make room for everything else.
            biased;
            Some(attempted) = self.in_flight.next() => Happening::Attempted(attempted),
            read = joined(&mut self.reading) => Happening::Read(read),
            flushed = joined(&mut self.flushing) => Happening::Flushed(flushed),
            () = rung(&mut self.bell) => Happening::Bell,
            () = stop.cancelled(), if self.drain_until.is_none() => Happening::Stop,
            () = tokio::time::sleep_until(due) => Happening::Due,
        }
    }

    fn handle(&mut self, happening: Happening) -> Result<(), Exit> {
        match happening {
            Happening::Attempted(attempted) => self.have_attempted(attempted),
            Happening::Read(read) => return self.has_read(read),
            Happening::Flushed(flushed) => return self.has_flushed(flushed),
            Happening::Bell => self.bell_changed(),
            Happening::Due => {}
            Happening::Stop => self.drain_until = Some(Instant::now() + *self.drain.borrow()),
        }
        Ok(())
    }

    /// The earliest time at which something is to be done that nothing else wakes the pump for.
    fn next_due(&self) -> Instant {
        let now = Instant::now();
        if self.can_dispatch(now) {
            // A burst has ended: others had their turn.
            return now;
        }
        let mut due = self.tick_at;
        let mut consider = |at: Instant| due = due.min(at);
        if let Some((&(at, _), _)) = self.delayed.first_key_value() {
            consider(at);
        }
        if let Some(outage) = &self.outage {
            consider(outage.probe_at);
            if let Some(at) = outage.follow_at {
                consider(at);
            }
        }
        if self.reading.is_none() {
            consider(self.read_at.max(self.retry_read_at));
            if self.ledger.has_closed() {
                consider(self.look_at.max(self.retry_read_at));
            }
        }
        if self.flushing.is_none() && self.ledger.is_dirty() {
            consider(self.flush_at);
        }
        // The look at the ledger of an idle pipeline needs no waking of its own: the tick is often enough.
        // What is due and can't be done now (no room to read into, a lease that ended) waits for the next
        // acknowledgement or tick.
        if due <= now { self.tick_at } else { due }
    }

    fn is_drained(&self, now: Instant) -> bool {
        let Some(until) = self.drain_until else {
            return false;
        };
        self.in_flight.is_empty() || now >= until
    }

    /// Sets what others see, every now and then.
    fn tick(&mut self, now: Instant) {
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + TICK;
        self.look_at_lease();
        self.look_for_stall(now);
        self.look_for_overdue(now);
        self.look_at_busy(now);
        let oldest = self.held.first_key_value();
        let activity = Activity {
            in_flight: self.in_flight.len(),
            parked: self.gate.unloaded() + self.delayed.len(),
            pending: (self.held.len() + self.gate.unloaded()) as u64 + self.unread,
            oldest_pending: oldest.map(|(_, created_at)| *created_at),
            holes: self.holes,
            overdue_since: self.stall.overdue_since(),
            busy: self.busy.shown(),
        };
        let is_available = self.outage.is_none() && !self.stall.is_on();
        self.metrics.set_activity(&activity, is_available);
        self.status.works(activity);
    }

    fn hold(&mut self, event: &Event) {
        self.held.insert(event.seq, event.created_at);
        self.held_bytes += event.weight();
    }

    fn let_go(&mut self, event: &Event) {
        if self.held.remove(&event.seq).is_some() {
            self.held_bytes = self.held_bytes.saturating_sub(event.weight());
        }
    }
}

/// Awaits a task if there is one; `None` if it panicked. For ever if there is none.
async fn joined<T>(task: &mut Option<AbortOnDropHandle<T>>) -> Option<T> {
    match task {
        Some(handle) => {
            let result = handle.await;
            *task = None;
            result.ok()
        }
        None => std::future::pending().await,
    }
}

/// Until the bell changes; for ever if there is none.
async fn rung(bell: &mut Option<Bell>) {
    match bell {
        Some(bell) => bell.changed().await,
        None => std::future::pending().await,
    }
}

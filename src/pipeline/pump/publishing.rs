//! Handing events to the stack, and acting on its verdicts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tower::{Service as _, ServiceExt as _};

use super::Pump;
use crate::error::PublishError;
use crate::event::Event;
use crate::pipeline::Verdict;
use crate::sabotage::{self, Sabotage};
use crate::sink::KeyOrder;
use crate::source::DeadLetter;

/// Events handed to the stack between two looks at everything else.
const BURST: usize = 256;

/// How long a probe of a sink that keeps order itself goes alone. It has no timeout, and its own destination may be all
/// that is away: others follow it then.
const ALONE: Duration = Duration::from_millis(300);

/// An attempt on its way.
pub(super) struct Attempt {
    event: Arc<Event>,
    number: u64,
    answer: BoxFuture<'static, Answer>,
}

/// What the stack answers.
type Answer = Result<Verdict, std::convert::Infallible>;

/// An attempt that has ended.
pub(super) struct Attempted {
    event: Arc<Event>,
    /// Counts attempts: tells whether it began before or after an outage was noticed.
    number: u64,
    verdict: Verdict,
}

impl Future for Attempt {
    type Output = Attempted;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Attempted> {
        let Ok(verdict) = ready!(self.answer.as_mut().poll(cx));
        Poll::Ready(Attempted {
            event: Arc::clone(&self.event),
            number: self.number,
            verdict,
        })
    }
}

/// The broker is away: one event at a time probes whether it is back.
pub(super) struct Outage {
    since: Instant,
    pub(super) probe_at: Instant,
    /// Attempts from this one on are probes.
    first_probe: u64,
    /// From when on others follow the probe that is out, in order: where it fails, they do.
    pub(super) follow_at: Option<Instant>,
}

impl Pump {
    /// Hands events to the stack as far as the limits allow. The lease is looked at before each one.
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.make_due_ready(now);
        for _ in 0..BURST {
            if !self.can_dispatch(now) {
                return;
            }
            let Some((_, event)) = self.ready.pop_first() else {
                return;
            };
            self.attempt(event);
        }
    }

    fn make_due_ready(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let event = entry.remove();
            self.gate.resume(&event);
            self.ready.insert(event.seq, event);
        }
    }

    /// Whether the limits allow to hand the next event to the stack.
    pub(super) fn can_dispatch(&self, now: Instant) -> bool {
        !self.ready.is_empty()
            && self.drain_until.is_none()
            && self.has_slot(now)
            && self.lease.holds()
    }

    fn has_slot(&self, now: Instant) -> bool {
        if self.is_recalled && !self.in_flight.is_empty() {
            // As after an outage: on from the first that was not acknowledged, once all have ended.
            return false;
        }
        match &self.outage {
            // The oldest event probes, alone.
            Some(outage) if self.in_flight.is_empty() => now >= outage.probe_at,
            Some(outage) if outage.follow_at.is_none_or(|at| now < at) => false,
            _ => self.in_flight.len() < self.limits.max_in_flight,
        }
    }

    fn attempt(&mut self, event: Arc<Event>) {
        let number = self.attempts;
        self.attempts += 1;
        self.is_recalled = false;
        if let Some(outage) = &mut self.outage
            && self.in_flight.is_empty()
        {
            let follows = self.order == KeyOrder::Kept;
            outage.follow_at = follows.then(|| Instant::now() + ALONE);
        }
        if sabotage::is_on(Sabotage::EarlyLedger) {
            self.ledger.gone(event.seq);
        }
        if self.order == KeyOrder::Kept {
            self.stall.begins(number, event.seq);
        }
        let answer = self.handed_over(Arc::clone(&event));
        self.in_flight.push(Attempt {
            event,
            number,
            answer,
        });
    }

    /// Looks, at each tick, whether the lease has ended while a client that keeps order itself holds events: it would
    /// go on publishing them whenever its broker lets it, in between what another relay publishes. In flight with
    /// a sink that doesn't is one event per key at most, and for no longer than its timeout.
    pub(super) fn look_at_lease(&mut self) {
        let Some(recall) = &self.recall else {
            return;
        };
        if self.is_recalled || self.in_flight.is_empty() || self.lease.holds() {
            return;
        }
        tracing::warn!(
            events = self.in_flight.len(),
            "the lease has ended, what the sink's client still holds is taken back"
        );
        self.is_recalled = true;
        recall.recall();
    }

    /// Hands an event over here and now: the order of the calls is the order of the events, and nobody says in
    /// which order futures are first polled. A program's own sink that is not ready yet has its turn later, for which a
    /// sink that keeps order may never ask.
    fn handed_over(&mut self, event: Arc<Event>) -> BoxFuture<'static, Answer> {
        if self.stack.ready().now_or_never().is_some() {
            return self.stack.call(event);
        }
        debug_assert!(
            self.order == KeyOrder::Gated,
            "a sink that keeps order is always ready"
        );
        // What was asked may be remembered, and is what must be asked again.
        let next = self.stack.clone();
        Box::pin(std::mem::replace(&mut self.stack, next).oneshot(event))
    }

    /// Acts on an attempt that has ended, and on those that have ended meanwhile: answers come in crowds, and looking at
    /// everything else between any two of them would cost more than they do.
    pub(super) fn have_attempted(&mut self, attempted: Attempted) {
        self.attempted(attempted);
        for _ in 1..BURST {
            // Whoever wakes the pump is told by the next wait, which looks at what is in flight first.
            let Some(Some(attempted)) = self.in_flight.next().now_or_never() else {
                return;
            };
            self.attempted(attempted);
        }
    }

    /// Acts on the verdict about an attempt.
    fn attempted(&mut self, attempted: Attempted) {
        let Attempted {
            event,
            number,
            verdict,
        } = attempted;
        self.stall.ends(number);
        self.busy.ends(&event);
        let is_answer = match &verdict {
            Verdict::Published => true,
            Verdict::Skipped | Verdict::Outage { .. } => false,
            Verdict::Retry { error, .. }
            | Verdict::Busy { error, .. }
            | Verdict::Dead { error, .. } => error.is_answer(),
        };
        if is_answer {
            self.answered(number);
        }
        match verdict {
            Verdict::Published => {
                self.busy.taken();
                self.done(&event);
            }
            Verdict::Skipped => self.done(&event),
            Verdict::Retry { after, error } => {
                self.metrics.retried();
                tracing::debug!(
                    seq = event.seq,
                    error = error.chain(),
                    delay = ?after,
                    "the broker refused an event, which is tried again"
                );
                self.park(event, after);
            }
            Verdict::Busy { after, error } => {
                self.metrics.retried();
                self.busy.refused(&event, &error);
                self.park(event, after);
            }
            Verdict::Dead { attempts, error } => self.refuse(event, attempts, &error),
            Verdict::Outage { probe_after, error } => {
                self.metrics.retried();
                if !self.is_recalled {
                    self.suspend(number, Instant::now() + probe_after, &error);
                }
                // Its key still waits for it: it goes first when the broker is back.
                self.ready.insert(event.seq, event);
            }
        }
    }

    /// `event` waits for its next attempt, and its key with it.
    fn park(&mut self, event: Arc<Event>, delay: Duration) {
        for waiting in self.gate.park(&event) {
            self.let_go(&waiting);
        }
        let due = Instant::now() + delay;
        self.delayed.insert((due, event.seq), event);
    }

    /// Nothing more is needed for `event`: the next of its key may go.
    pub(super) fn done(&mut self, event: &Event) {
        self.ledger.delivered(event.seq);
        self.release(event);
    }

    pub(super) fn release(&mut self, event: &Event) {
        self.let_go(event);
        if let Some(next) = self.gate.release(event) {
            self.ready.insert(next.seq, next);
        }
    }

    /// `event` becomes a dead letter. Its key waits until that is stored, or a crash could bring the event
    /// back behind its successors.
    fn refuse(&mut self, event: Arc<Event>, attempts: u32, error: &PublishError) {
        tracing::error!(
            seq = event.seq,
            event_id = %event.id,
            event_type = event.event_type,
            attempts,
            error = error.chain(),
            "an event becomes a dead letter"
        );
        self.ledger.refused(DeadLetter {
            event,
            reason: error.chain(),
            attempts,
        });
        if !self.flush_backoff.has_failed() {
            self.flush_at = Instant::now();
        }
    }

    /// The broker has answered: an outage is over unless the attempt began before it.
    fn answered(&mut self, number: u64) {
        self.stall_is_over();
        let over = |outage: &Outage| number >= outage.first_probe;
        if let Some(outage) = self.outage.take_if(|outage| over(outage)) {
            self.status.sink_is_back();
            tracing::info!(after = ?outage.since.elapsed(), "the sink is back");
        }
    }

    /// The broker is away.
    fn suspend(&mut self, number: u64, probe_at: Instant, error: &PublishError) {
        self.stall.gives_way();
        match &mut self.outage {
            Some(outage) => {
                if number >= outage.first_probe {
                    outage.probe_at = probe_at;
                    outage.first_probe = self.attempts;
                    outage.follow_at = None;
                }
                self.status.sink_is_away(&error.chain());
            }
            None => {
                tracing::warn!(
                    error = error.chain(),
                    "the sink is away, one event probes until it is back"
                );
                self.status.sink_is_away(&error.chain());
                self.outage = Some(Outage {
                    since: Instant::now(),
                    probe_at,
                    first_probe: self.attempts,
                    follow_at: None,
                });
            }
        }
    }
}

//! Noticing that a sink that keeps order itself answers nothing.
//!
//! A client that keeps order tries again by itself for as long as it takes, and no attempt has a timeout. So a
//! broker that is away fails nothing: it only leaves what is in flight without an answer. That is told to operators
//! as the outage that it is. The events stay where they are: the client still holds them, and to send them once
//! more would put them behind their successors.
//!
//! Nor does a partition without a leader fail anything: its events wait in the client while others are acknowledged,
//! until there is room for nothing else in flight. That is told before it comes to that.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Pump;
use crate::sink::KeyOrder;

/// An event is overdue after so many times the patience, if others are answered.
const OVERDUE: u32 = 3;

/// How often the log says that there still are such events.
const REMINDER: Duration = Duration::from_secs(60);

/// Since when nothing is answered.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// When each attempt in flight began, and the `seq` of its event, by its number. One that ends without the broker
    /// (a route skips its event) leaves no trace, and hides no silence about the others.
    began: BTreeMap<u64, (Instant, i64)>,
    /// When the broker last answered.
    answered_at: Option<Instant>,
    /// Since when it has been silent for too long.
    on_since: Option<Instant>,
    /// When such a silence ended last: what had waited by then is answered in its turn.
    over_at: Option<Instant>,
    /// Since when the oldest attempt waits, if that is overdue.
    overdue_since: Option<Instant>,
    remind_at: Option<Instant>,
}

impl Stall {
    /// Whether the broker counts as away.
    pub(super) fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// An attempt is handed over.
    pub(super) fn begins(&mut self, number: u64, seq: i64) {
        self.began.insert(number, (Instant::now(), seq));
    }

    /// An attempt has ended, however it did.
    pub(super) fn ends(&mut self, number: u64) {
        self.began.remove(&number);
    }

    /// It is told in other words that the broker is away.
    pub(super) fn gives_way(&mut self) {
        self.on_since = None;
    }

    /// Since when there has been something in flight and no answer.
    fn quiet_since(&self) -> Option<Instant> {
        let (_, (oldest, _)) = self.began.first_key_value()?;
        Some(self.answered_at.map_or(*oldest, |at| at.max(*oldest)))
    }

    /// Since when an event waits that is overdue although others are answered.
    pub(super) fn overdue_since(&self) -> Option<Instant> {
        self.overdue_since
    }

    /// The event that waits longest, and since when.
    fn oldest(&self) -> Option<(i64, Instant)> {
        let (_, (began, seq)) = self.began.first_key_value()?;
        Some((*seq, self.over_at.map_or(*began, |at| at.max(*began))))
    }
}

impl Pump {
    /// Looks, at each tick, whether the sink has been silent for too long.
    pub(super) fn look_for_stall(&mut self, now: Instant) {
        if self.order == KeyOrder::Gated || self.outage.is_some() {
            // Timeouts and probes tell.
            return;
        }
        let Some(since) = self.stall.quiet_since() else {
            // What it was silent about has ended without it.
            self.end_stall();
            return;
        };
        if self.stall.is_on() || now - since < self.limits.patience {
            return;
        }
        self.stall.on_since = Some(since);
        let events = self.in_flight.len();
        tracing::warn!(
            events,
            patience = ?self.limits.patience,
            "the sink answers nothing; its client holds the events and goes on trying"
        );
        self.status.sink_is_away(&format!(
            "no acknowledgement within {:?}; its client goes on trying",
            self.limits.patience
        ));
    }

    /// Looks, at each tick, whether an event waits for too long while others are answered.
    pub(super) fn look_for_overdue(&mut self, now: Instant) {
        let limit = self.limits.patience.saturating_mul(OVERDUE);
        let told = self.outage.is_some() || self.stall.is_on();
        let oldest = self.stall.oldest().filter(|_| !told);
        let Some((seq, since)) = oldest.filter(|(_, since)| now - *since >= limit) else {
            if self.stall.overdue_since.take().is_some() {
                tracing::info!("no event is overdue any more");
            }
            return;
        };
        self.stall.overdue_since = Some(since);
        if self.stall.remind_at.is_none_or(|at| now >= at) {
            self.stall.remind_at = Some(now + REMINDER);
            tracing::warn!(
                seq,
                since = ?(now - since),
                events = self.in_flight.len(),
                max_in_flight = self.limits.max_in_flight,
                "an event isn't acknowledged while others are: its partition may have no leader; once such events \
                 are all that is in flight, the sink stands still"
            );
        }
    }

    /// The broker has answered.
    pub(super) fn stall_is_over(&mut self) {
        self.stall.answered_at = Some(Instant::now());
        self.end_stall();
    }

    fn end_stall(&mut self) {
        if let Some(since) = self.stall.on_since.take() {
            self.stall.over_at = Some(Instant::now());
            tracing::info!(after = ?since.elapsed(), "the sink is back");
            self.status.sink_is_back();
        }
    }
}

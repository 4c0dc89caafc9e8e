//! Noticing that a sink that keeps order itself answers nothing.
//!
//! A client that keeps order tries again by itself for as long as it takes, and no attempt has a timeout. So a
//! broker that is away fails nothing: it only leaves what is in flight without an answer. That is told to operators
//! as the outage that it is. The events stay where they are: the client still holds them, and to send them once
//! more would put them behind their successors.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Pump;
use crate::sink::KeyOrder;

/// Since when nothing is answered.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// When each attempt in flight began, by its number. One that ends without the broker (a route skips its event)
    /// leaves no trace, and hides no silence about the others.
    began: BTreeMap<u64, Instant>,
    /// When the broker last answered.
    answered_at: Option<Instant>,
    /// Since when it has been silent for too long.
    on_since: Option<Instant>,
}

impl Stall {
    /// Whether the broker counts as away.
    pub(super) fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// An attempt is handed over.
    pub(super) fn begins(&mut self, number: u64) {
        self.began.insert(number, Instant::now());
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
        let (_, oldest) = self.began.first_key_value()?;
        Some(self.answered_at.map_or(*oldest, |at| at.max(*oldest)))
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

    /// The broker has answered.
    pub(super) fn stall_is_over(&mut self) {
        self.stall.answered_at = Some(Instant::now());
        self.end_stall();
    }

    fn end_stall(&mut self) {
        if let Some(since) = self.stall.on_since.take() {
            tracing::info!(after = ?since.elapsed(), "the sink is back");
            self.status.sink_is_back();
        }
    }
}

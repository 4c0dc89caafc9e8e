//! Noticing that a sink that keeps order itself answers nothing.
//!
//! A client that keeps order tries again by itself for as long as it takes, and no attempt has a timeout. So a
//! broker that is away fails nothing: it only leaves what is in flight without an answer. That is told to operators
//! as the outage that it is. The events stay where they are: the client still holds them, and to send them once
//! more would put them behind their successors.

use tokio::time::Instant;

use super::Pump;
use crate::sink::KeyOrder;

/// Since when nothing is answered.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Since when there are events in flight and no answers; `None`: it isn't so, or nobody has looked yet.
    quiet_since: Option<Instant>,
    /// Whether that has been too long already.
    is_on: bool,
}

impl Stall {
    /// Whether the broker counts as away.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }
}

impl Pump {
    /// Looks, at each tick, whether the sink has been silent for too long.
    pub(super) fn look_for_stall(&mut self, now: Instant) {
        if self.order == KeyOrder::Gated || self.outage.is_some() || self.in_flight.is_empty() {
            // Timeouts and probes tell.
            return;
        }
        let since = *self.stall.quiet_since.get_or_insert(now);
        if self.stall.is_on || now - since < self.limits.patience {
            return;
        }
        self.stall.is_on = true;
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
        let stall = std::mem::take(&mut self.stall);
        if stall.is_on {
            let after = stall.quiet_since.map(|since| since.elapsed());
            tracing::info!(?after, "the sink is back");
            self.status.sink_is_back();
        }
    }
}

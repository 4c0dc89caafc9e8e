//! Looking once more into holes that were closed: the alarm that should never ring.
//!
//! The pipeline does it and not whoever settles: it alone writes its ledger, so that nothing that is looked at, and
//! nothing that is found, can get lost between two writers. Settling counts a closed hole only when it is no longer
//! among the stored ledger's `closed`, that is, after this look.

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Pump;
use super::reading::{Answer, Read};
use crate::ledger::RangeSet;
use crate::metrics::Cause;

impl Pump {
    /// Starts a look if it is time, and the reader is free.
    pub(super) fn start_looking(&mut self, now: Instant) {
        if self.drain_until.is_some()
            || now < self.look_at.max(self.retry_read_at)
            || !self.ledger.has_closed()
        {
            return;
        }
        if self.ledger.aged().is_empty() {
            // They were closed since the last look: one interval more.
            self.look_at = now + self.limits.look_interval;
            self.ledger.age();
            return;
        }
        if !self.lease.holds() {
            return;
        }
        let Some(mut reader) = self.reader.take() else {
            return;
        };
        self.look_at = now + self.limits.look_interval;
        let closed = self.ledger.aged().clone();
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let late = reader.look_again(&closed).await;
            let answer = Answer::Looked(closed, late);
            Read { reader, answer }
        })));
    }

    /// Takes in what a look has found. Late rows are holes of the reader again: the next read shows them.
    pub(super) fn has_looked(&mut self, looked: &RangeSet, late: &RangeSet, now: Instant) {
        self.ledger.looked_at(looked, late);
        if late.is_empty() {
            return;
        }
        let count = late.iter().map(|(first, end)| end.abs_diff(first)).sum();
        self.metrics.late.increment(count);
        tracing::error!(
            count,
            seqs = %late,
            "rows were found in holes that had been proven dead; they are delivered now. Something writes seq \
             past its sequence, or the proof is wrong: please report it"
        );
        (self.read_at, self.read_cause) = (now, Cause::Hole);
    }
}

//! Keeping events coming: reading ahead while others are published, and fetching again what waited as its `seq`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Exit, Pump};
use crate::error::chain;
use crate::ledger::RangeSet;
use crate::metrics::Cause;
use crate::pipeline::order::Admission;
use crate::source::bell::{Bell, Waiting};
use crate::source::{Batch, Fetched, Reader, SourceError};

/// A read that brings this many events came late enough to be worth its price; the next may come later still.
const WORTHWHILE_READ: usize = 16;

/// How many times the bell's pace an idle pipeline waits at most between two reads. A read costs the database the
/// same whether it brings one event or fifty: where events come fast, fewer reads leave the processors to the
/// writers, and delay an event by 12 ms at most.
const LONGEST_STRIDE: u32 = 3;

/// A read on its way. It runs as a task of its own: rows are decoded while others are published.
pub(super) type Reading = AbortOnDropHandle<Read>;

/// The reader with its answer.
pub(super) struct Read {
    pub(super) reader: Box<dyn Reader>,
    pub(super) answer: Answer,
}

pub(super) enum Answer {
    Next(Result<Batch, SourceError>),
    Again(Result<Fetched, SourceError>),
    Looked(RangeSet, Result<RangeSet, SourceError>),
    Unread(Result<u64, SourceError>),
}

/// How often a pipeline that has no room for more asks how much there is: what is pending goes on growing while the
/// broker is away.
const COUNT_INTERVAL: Duration = Duration::from_secs(3);

impl Pump {
    /// Starts a read if there is room for what it brings.
    pub(super) fn start_reading(&mut self, now: Instant) {
        if self.drain_until.is_some() || now < self.retry_read_at || !self.lease.holds() {
            return;
        }
        // What waits as its `seq` needs no wake-up.
        let wanted = self.gate.wanted(self.limits.batch_size);
        if wanted.is_empty() && !self.has_room() {
            self.start_counting(now);
            return;
        }
        if wanted.is_empty() && now < self.read_at {
            return;
        }
        let Some(mut reader) = self.reader.take() else {
            return;
        };
        // What was let go to make room must come back even when there is little: one row at least.
        let bytes = self.limits.max_bytes.saturating_sub(self.held_bytes).max(1);
        let limit = self.limits.batch_size;
        let task = if wanted.is_empty() {
            self.read_began = now;
            self.metrics.woken(self.read_cause);
            tokio::spawn(async move {
                let answer = Answer::Next(reader.read(limit, bytes).await);
                Read { reader, answer }
            })
        } else {
            self.metrics.woken(Cause::Again);
            tokio::spawn(async move {
                let answer = Answer::Again(reader.fetch(&wanted, bytes).await);
                Read { reader, answer }
            })
        };
        self.reading = Some(AbortOnDropHandle::new(task));
    }

    /// Asks how much is left, if reading has stood still for a while.
    fn start_counting(&mut self, now: Instant) {
        if now < self.count_at.max(self.read_began + COUNT_INTERVAL) {
            return;
        }
        let Some(mut reader) = self.reader.take() else {
            return;
        };
        self.count_at = now + COUNT_INTERVAL;
        self.reading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = Answer::Unread(reader.unread().await);
            Read { reader, answer }
        })));
    }

    /// Whether new events may be read: those in memory that wait for a slot are fewer than there are slots, and
    /// the limits of weight and of parked events are kept. In an outage none is needed, as long as there is one that
    /// probes: those that are put off may have to wait for an answer to another.
    fn has_room(&self) -> bool {
        let elsewhere = self.in_flight.len() + self.delayed.len();
        let can_probe = !self.ready.is_empty() || !self.in_flight.is_empty();
        (self.outage.is_none() || !can_probe)
            && self.held.len().saturating_sub(elsewhere) < self.limits.max_in_flight
            && self.held_bytes < self.limits.max_bytes
            && self.gate.unloaded() + self.delayed.len() < self.limits.max_parked
    }

    /// Whether reading stops for what waits for a retry, and for nothing else.
    pub(super) fn is_full_of_parked(&self) -> bool {
        let parked = self.gate.unloaded() + self.delayed.len();
        // Weight that is on its way to the broker makes room by itself.
        let only_parked = self.ready.is_empty() && self.in_flight.is_empty();
        parked >= self.limits.max_parked
            || (only_parked && self.held_bytes >= self.limits.max_bytes)
    }

    /// The reader is back.
    pub(super) fn has_read(&mut self, read: Option<Read>) -> Result<(), Exit> {
        let Some(Read { reader, answer }) = read else {
            tracing::error!("the reader's task died of a bug, the ledger is read anew");
            return Err(Exit::Fenced);
        };
        self.holes = reader.holes();
        self.reader = Some(reader);
        let now = Instant::now();
        let error = match answer {
            Answer::Next(Ok(batch)) => {
                if let Some(bell) = self.bell.as_ref().filter(|_| !batch.events.is_empty()) {
                    bell.active();
                }
                self.stride = next_stride(self.stride, batch.events.len());
                if batch.more {
                    (self.read_at, self.read_cause) = (now, Cause::More);
                } else {
                    self.wait(now);
                }
                self.take_batch(batch);
                None
            }
            Answer::Again(Ok(fetched)) => {
                self.take_fetched(fetched);
                None
            }
            Answer::Looked(looked, Ok(late)) => {
                self.has_looked(&looked, &late, now);
                None
            }
            Answer::Unread(Ok(unread)) => {
                self.unread = unread;
                None
            }
            Answer::Next(Err(error))
            | Answer::Unread(Err(error))
            | Answer::Again(Err(error))
            | Answer::Looked(_, Err(error)) => Some(error),
        };
        match error {
            None => {
                if self.read_backoff.succeeded() {
                    tracing::info!("the source is back");
                    self.status.source_is_back();
                }
                Ok(())
            }
            Some(SourceError::Changed) => Err(Exit::Changed),
            Some(SourceError::Fenced) => Err(Exit::Fenced),
            Some(error) => {
                let delay = self.read_backoff.failed();
                tracing::warn!(
                    error = chain(&error),
                    ?delay,
                    "reading failed and is tried again"
                );
                self.status.source_is_away(&chain(&error));
                self.retry_read_at = now + delay;
                Ok(())
            }
        }
    }

    /// The read before found everything there is: decides when the next one is due.
    fn wait(&mut self, now: Instant) {
        let Some(reader) = &self.reader else {
            return;
        };
        let longest = reader.idle_wait();
        let waiting = self.bell.as_mut().map(Bell::waiting);
        let (wait, cause) = match waiting {
            None => (longest, Cause::Poll),
            Some(Waiting::Polling { every }) => ((every * self.stride).min(longest), Cause::Poll),
            Some(Waiting::Armed { since }) if self.read_began < since => {
                (Duration::ZERO, Cause::Arming)
            }
            Some(Waiting::Armed { .. }) if self.holes > 0 => (longest, Cause::Hole),
            Some(Waiting::Armed { .. }) => (longest, Cause::Fallback),
        };
        (self.read_at, self.read_cause) = (now + wait, cause);
    }

    /// The bell says how to wait from now on: an idle pipeline reads at once, whether it was rung or the bell
    /// was armed. One that has more to read, or waits after a failure, does so anyway.
    pub(super) fn bell_changed(&mut self) {
        let waiting = self.bell.as_mut().map(Bell::waiting);
        if self.read_cause == Cause::More {
            return;
        }
        let now = Instant::now();
        match waiting {
            // From polling to polling: the pace has changed.
            Some(Waiting::Polling { every }) if self.read_cause == Cause::Poll => {
                self.read_at = self.read_at.min(now + every);
            }
            // From armed to polling: a writer rang.
            Some(Waiting::Polling { .. }) => (self.read_at, self.read_cause) = (now, Cause::Ring),
            Some(Waiting::Armed { .. }) => (self.read_at, self.read_cause) = (now, Cause::Arming),
            None => {}
        }
    }

    fn take_batch(&mut self, batch: Batch) {
        self.ledger.closed(&batch.closed);
        self.unread = batch.unread;
        for event in batch.events {
            self.hold(&event);
            match self.gate.admit(Arc::clone(&event)) {
                Admission::Go(event) => {
                    self.ready.insert(event.seq, event);
                }
                Admission::Waits => {}
                Admission::WaitsUnloaded => self.let_go(&event),
            }
        }
    }

    fn take_fetched(&mut self, fetched: Fetched) {
        for event in fetched.events {
            // An error: its key was parked again meanwhile.
            if let Ok(next) = self.gate.fetched(Arc::clone(&event)) {
                self.hold(&event);
                self.ready.extend(next.map(|event| (event.seq, event)));
            }
        }
        for seq in fetched.gone {
            tracing::error!(
                seq,
                "a row was deleted before it was delivered, by somebody else than the relay"
            );
            self.ledger.gone(seq);
            let next = self.gate.gone(seq);
            self.ready.extend(next.map(|event| (event.seq, event)));
        }
    }
}

/// The stride after a read that found so many events.
fn next_stride(stride: u32, found: usize) -> u32 {
    if found < WORTHWHILE_READ {
        return 1;
    }
    (stride * 2).min(LONGEST_STRIDE)
}

#[cfg(test)]
mod tests {
    use super::next_stride;

    #[test]
    fn the_stride_grows_with_what_reads_bring_and_shrinks_at_once() {
        let strides = [40, 80, 160, 16, 15, 16].iter().scan(1, |stride, found| {
            *stride = next_stride(*stride, *found);
            Some(*stride)
        });
        assert_eq!(strides.collect::<Vec<_>>(), [2, 3, 3, 3, 1, 2]);
    }
}

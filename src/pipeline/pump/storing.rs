//! Storing the ledger every now and then, at once for dead letters, and at the end.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Exit, Pump};
use crate::error::chain;
use crate::pipeline::flush::Pending;
use crate::source::{LedgerStore, SourceError};

/// How long the last flush of a stop may take.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// How often an idle pipeline looks whether its ledger is still the one that it read: a command may have changed it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A flush on its way, as a task of its own.
pub(super) type Flushing = AbortOnDropHandle<Flushed>;

/// The store with its answer.
pub(super) struct Flushed {
    store: Box<dyn LedgerStore>,
    /// `None`: there was nothing to store, and only a look at the ledger.
    pending: Option<Pending>,
    took: Duration,
    result: Result<(), SourceError>,
}

impl Pump {
    /// Starts a flush if one is due; where there is nothing to store, a look at the ledger every now and then.
    pub(super) fn start_flush(&mut self, now: Instant) {
        let dirty = self.ledger.is_dirty();
        let idle = !dirty && self.drain_until.is_none() && now >= self.look_at_ledger_at;
        if now < self.flush_at || !(dirty || idle) {
            return;
        }
        let Some(mut store) = self.store.take() else {
            return;
        };
        self.look_at_ledger_at = now + LOOK_INTERVAL;
        let pending = dirty.then(|| self.ledger.begin_flush());
        self.flushing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let began = Instant::now();
            let result = match &pending {
                Some(pending) => store.flush(&pending.flush).await,
                None => store.still_ours().await,
            };
            Flushed {
                store,
                pending,
                took: began.elapsed(),
                result,
            }
        })));
    }

    /// The store is back.
    pub(super) fn has_flushed(&mut self, flushed: Option<Flushed>) -> Result<(), Exit> {
        let Some(flushed) = flushed else {
            tracing::error!("the task that stores the ledger died, the ledger is read anew");
            return Err(Exit::Fenced);
        };
        self.store = Some(flushed.store);
        let now = Instant::now();
        match flushed.result {
            Ok(()) => {
                if self.flush_backoff.succeeded() {
                    tracing::info!("the ledger is stored again");
                }
                let Some(pending) = flushed.pending else {
                    return Ok(());
                };
                self.metrics.flush_duration.record(flushed.took);
                self.stored(&pending);
                // Dead letters that came meanwhile hold back their keys.
                let wait = if self.ledger.has_refused() {
                    Duration::ZERO
                } else {
                    self.limits.flush_interval
                };
                self.flush_at = now + wait;
                Ok(())
            }
            Err(SourceError::Fenced) => Err(Exit::Fenced),
            Err(SourceError::Changed) => Err(Exit::Changed),
            Err(error) => {
                if let Some(pending) = flushed.pending {
                    self.ledger.flush_failed(pending);
                }
                let delay = self.flush_backoff.failed();
                tracing::warn!(
                    error = chain(&error),
                    ?delay,
                    "storing the ledger failed and is tried again"
                );
                self.flush_at = now + delay;
                Ok(())
            }
        }
    }

    fn stored(&mut self, pending: &Pending) {
        #[allow(clippy::cast_precision_loss)] // exact up to 2^53
        self.metrics.unstored.set(pending.left_out as f64);
        self.ledger.flushed(pending);
        self.status
            .ledger_is_stored(pending.flush.dead_letters.len());
        for letter in &pending.flush.dead_letters {
            self.release(&letter.event);
        }
    }

    /// The last flush of a stop: what was acknowledged is stored, if the database can be reached.
    pub(super) async fn finish(mut self) -> Exit {
        if !self.in_flight.is_empty() {
            tracing::warn!(
                events = self.in_flight.len(),
                "stopping without their acknowledgements, they will be published again"
            );
        }
        let deadline = Instant::now() + LAST_FLUSH;
        while self.flushing.is_some() || self.ledger.is_dirty() {
            self.flush_at = self.flush_at.min(Instant::now());
            self.start_flush(Instant::now());
            let flushed = tokio::time::timeout_at(deadline, super::joined(&mut self.flushing));
            let Ok(flushed) = flushed.await else {
                tracing::warn!(
                    "the last ledger could not be stored in time, its events will be published again"
                );
                return Exit::Stopped;
            };
            let failed = flushed
                .as_ref()
                .is_some_and(|flushed| flushed.result.is_err());
            if let Err(exit) = self.has_flushed(flushed) {
                return exit;
            }
            if failed {
                let pause = self.flush_backoff.failed();
                if Instant::now() + pause >= deadline {
                    return Exit::Stopped;
                }
                tokio::time::sleep(pause).await;
            }
        }
        Exit::Stopped
    }
}

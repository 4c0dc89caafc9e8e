//! Settles what every ledger has, every `settle_interval`, for as long as the lease holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::SettleMetrics;
use crate::source::{LeaseId, Settler, Source, SourceError};

/// Whether there is something to settle for: a sink with a real broker whose ledger is stored. Before that, what
/// only mocks have could be settled away from under a sink that is about to join.
#[derive(Debug, Clone, Default)]
pub(super) struct Purpose(Arc<AtomicBool>);

impl Purpose {
    /// A real sink has its ledger.
    pub(super) fn is_there(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The last real sink is gone.
    pub(super) fn is_gone(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn exists(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The janitor of one session.
#[derive(Debug)]
pub(super) struct Janitor {
    pub(super) source: Arc<dyn Source>,
    pub(super) id: LeaseId,
    pub(super) lease: Lease,
    pub(super) interval: Duration,
    pub(super) purpose: Purpose,
    pub(super) metrics: SettleMetrics,
}

impl Janitor {
    /// Settles for ever, or for as long as the future is polled.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::source();
        let mut settler: Option<Box<dyn Settler>> = None;
        loop {
            let began = Instant::now();
            let wait = match self.settle(&mut settler, began).await {
                Ok(()) => {
                    if backoff.succeeded() {
                        tracing::info!("delivered events are settled again");
                    }
                    self.interval.saturating_sub(began.elapsed())
                }
                // Whoever reads or renews the lease notices too, and ends the session.
                Err(SourceError::Changed) => self.interval,
                Err(error) => {
                    let delay = backoff.failed();
                    tracing::warn!(
                        error = chain(&error),
                        ?delay,
                        "delivered events could not be settled, it is tried again"
                    );
                    delay.max(self.interval)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Step by step while there is more, for one interval at most: then the others get their turn.
    async fn settle(
        &self,
        settler: &mut Option<Box<dyn Settler>>,
        began: Instant,
    ) -> Result<(), SourceError> {
        if !self.purpose.exists() {
            return Ok(());
        }
        if settler.is_none() {
            *settler = self.source.settler(&self.id).await?;
        }
        let Some(settler) = settler else {
            return Ok(());
        };
        while self.lease.holds() {
            let settled = settler.settle().await?;
            self.metrics.marked.increment(settled.marked);
            self.metrics.deleted.increment(settled.deleted);
            self.metrics.expired.increment(settled.expired);
            if !settled.more || began.elapsed() >= self.interval {
                break;
            }
        }
        Ok(())
    }
}

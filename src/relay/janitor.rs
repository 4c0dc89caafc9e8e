//! Settles what every ledger has, every `settle_interval`, for as long as the lease holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::chain;
use crate::lease::Lease;
use crate::metrics::SettleMetrics;
use crate::source::{LeaseId, Settler, Source, SourceError};

/// The janitor of one session.
#[derive(Debug)]
pub(super) struct Janitor {
    pub(super) source: Arc<dyn Source>,
    pub(super) id: LeaseId,
    pub(super) lease: Lease,
    pub(super) interval: Duration,
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

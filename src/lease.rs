//! The lease as this process sees it: an end that each renewal pushes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::source::{LEASE_MARGIN, LEASE_TTL};

/// Until when this process may publish, shared between the task that renews the lease and the pipelines.
///
/// It is reckoned from when the renewal was *sent*, so that it ends before the lease does by the database's
/// clock, however long the answer took.
#[derive(Debug, Clone)]
pub struct Lease {
    base: Instant,
    /// Milliseconds after `base`; 0: revoked.
    end: Arc<AtomicU64>,
}

impl Lease {
    /// A lease that was asked for at `asked_at` and granted.
    #[must_use]
    pub fn granted(asked_at: Instant) -> Self {
        let lease = Self {
            base: asked_at,
            end: Arc::default(),
        };
        lease.renewed(asked_at);
        lease
    }

    /// The renewal that was sent at `asked_at` succeeded.
    pub fn renewed(&self, asked_at: Instant) {
        let end = asked_at + (LEASE_TTL - LEASE_MARGIN) - self.base;
        let millis = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
        self.end.store(millis, Ordering::Release);
    }

    /// The lease is another's.
    pub fn revoke(&self) {
        self.end.store(0, Ordering::Release);
    }

    /// Whether an event may be published now.
    #[must_use]
    pub fn holds(&self) -> bool {
        let end = u128::from(self.end.load(Ordering::Acquire));
        self.base.elapsed().as_millis() < end
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_before_the_database_gives_it_away() {
        let lease = Lease::granted(Instant::now());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(lease.holds());
        lease.renewed(Instant::now() - Duration::from_secs(2));
        tokio::time::advance(Duration::from_millis(5_900)).await;
        assert!(lease.holds());
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!lease.holds());
        lease.renewed(Instant::now());
        assert!(lease.holds());
        lease.revoke();
        assert!(!lease.holds());
    }
}

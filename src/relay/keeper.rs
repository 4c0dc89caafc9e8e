//! Keeps a lease: renews it until it is another's.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::time::Instant;

use crate::error::chain;
use crate::lease::Lease;
use crate::source::{LEASE_RENEWAL, LeaseId, Source};

/// The pause before a failed renewal is tried again.
const RENEWAL_PAUSE: Duration = Duration::from_millis(500);

/// How often the gauge is set.
const TICK: Duration = Duration::from_millis(200);

/// Keeps `lease` as [`renew`] does, and shows meanwhile whether it is held: also while nothing can be asked.
pub(super) async fn keep(source: Arc<dyn Source>, id: LeaseId, lease: Lease, held: Gauge) {
    let shown = async {
        loop {
            held.set(if lease.holds() { 1.0 } else { 0.0 });
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        () = renew(source, id, lease.clone()) => {}
        () = shown => {}
    }
}

/// Renews `lease` for ever; returns when it is another's, after revoking it.
///
/// While the database can't be reached the lease runs out by itself and the pipelines stand still; if nobody has
/// taken it by then, the next renewal lets them go on.
async fn renew(source: Arc<dyn Source>, id: LeaseId, lease: Lease) {
    let mut pause = LEASE_RENEWAL;
    loop {
        tokio::time::sleep(pause).await;
        let asked_at = Instant::now();
        // An answer that takes longer is worth no more than none: the lease would run out over it.
        let renewal = tokio::time::timeout(LEASE_RENEWAL, source.renew(&id));
        let Ok(renewal) = renewal.await else {
            tracing::warn!("the lease could not be renewed: no answer within {LEASE_RENEWAL:?}");
            continue;
        };
        match renewal {
            Ok(true) => {
                lease.renewed(asked_at);
                pause = LEASE_RENEWAL;
            }
            Ok(false) => {
                lease.revoke();
                return;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the lease could not be renewed");
                pause = RENEWAL_PAUSE;
            }
        }
    }
}

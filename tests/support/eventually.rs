//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

/// How much longer than on a quiet machine a wait may take: the machine is shared, and a wait that ends well ends as
/// soon as it can.
pub(crate) const SLOWNESS: u32 = 5;

/// Asks again and again until `condition` yields a value, and panics, saying what was awaited, long after `within`, in
/// which a quiet machine does it.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    at_most(what, within * SLOWNESS, condition).await
}

/// The same where the time itself is the point: what is wrong takes longer.
pub(crate) async fn at_most<T>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    /// Often enough that no test gets slower by it, rarely enough to leave the processor to the servers.
    const INTERVAL: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Watches for the whole of `during` that `condition` stays true, and panics when it doesn't.
pub(crate) async fn throughout(
    what: &str,
    during: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let end = Instant::now() + during;
    while Instant::now() < end {
        assert!(condition().await, "no longer so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

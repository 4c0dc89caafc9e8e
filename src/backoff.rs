//! Delays between attempts: doubled each time, with a longest, and with jitter.

use std::time::Duration;

/// The delay after `failures` further failures: doubled each time up to `max`, and between half of it and all
/// of it, so that what failed together is not tried again together.
pub(crate) fn delay(initial: Duration, max: Duration, failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.min(31));
    initial
        .saturating_mul(factor)
        .min(max)
        .mul_f64(rand::random_range(0.5..=1.0))
}

/// Counts the failures of something that is tried until it succeeds.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// For statements: a database that restarts is back within a second.
    pub(crate) fn source() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(5),
            failures: 0,
        }
    }

    /// For a broker's connection that was lost: often it was closed by a broker that is still there.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn broker() -> Self {
        Self {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(5),
            failures: 0,
        }
    }

    /// For a sink's connection, with the delays of its configuration.
    pub(crate) fn sink(retry: crate::config::Retry) -> Self {
        Self {
            initial: retry.initial_delay,
            max: retry.max_delay,
            failures: 0,
        }
    }

    /// The delay after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        delay(self.initial, self.max, self.failures - 1)
    }

    /// Whether the last attempt failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// It succeeded. Returns whether it had failed before.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_secs(8));
        for (failures, longest) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (u32::MAX, 8)] {
            let longest = Duration::from_secs(longest);
            let delay = delay(initial, max, failures);
            assert!(
                delay <= longest && delay >= longest / 2,
                "{failures}: {delay:?}"
            );
        }
    }
}

//! Retry with backoff: decides what a failed attempt means for its event.
//!
//! The layer counts and chooses delays; it never waits. An event that waits for a retry must give back its slot
//! and hold back its key, and that is the pump's business: the layer answers with a [`Verdict`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::routing::Routed;
use crate::backoff::delay;
use crate::config;
use crate::error::{Meaning, PublishError};
use crate::event::Event;

/// The first probe of an outage comes sooner than a rejected event's second attempt: most outages are a lost
/// connection, and one event is all that a probe costs.
const FIRST_PROBE: Duration = Duration::from_millis(100);

/// What becomes of an event after an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// The broker acknowledged it.
    Published,
    /// A route says that this sink doesn't take it.
    Skipped,
    /// The broker refused it; another attempt is due after this delay.
    Retry {
        /// How long to wait.
        after: Duration,
        /// What the broker said.
        error: PublishError,
    },
    /// It was refused for good.
    Dead {
        /// How many attempts were made.
        attempts: u32,
        /// What the broker, or the relay itself, said last.
        error: PublishError,
    },
    /// Its destination takes nothing now; it counts as no attempt. Another one is due after this delay.
    Busy {
        /// How long to wait.
        after: Duration,
        /// What the broker said.
        error: PublishError,
    },
    /// The broker is away; it counts as no attempt.
    Outage {
        /// How long to wait before one event probes whether it is back.
        probe_after: Duration,
        /// What happened.
        error: PublishError,
    },
}

/// Turns errors of the inner service into verdicts.
#[derive(Debug, Clone)]
pub struct RetryLayer {
    state: Arc<State>,
}

/// The service of [`RetryLayer`]. Clones share their counts.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    policy: config::Retry,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Rejections of events that are to be tried again.
    rejections: HashMap<i64, u32>,
    /// How often in a row the destination of an event took nothing. They wait in the pump, which limits them.
    pushbacks: HashMap<i64, u32>,
    /// Failed probes in a row.
    outages: u32,
    /// Moves on when an outage is counted: a thousand events in flight that fail together are one outage.
    epoch: u64,
}

impl RetryLayer {
    /// A layer with counts of its own.
    #[must_use]
    pub fn new(policy: config::Retry) -> Self {
        Self {
            state: Arc::new(State {
                policy,
                counts: Mutex::default(),
            }),
        }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry {
            inner,
            state: Arc::clone(&self.state),
        }
    }
}

impl<S> Service<Arc<Event>> for Retry<S>
where
    S: Service<Arc<Event>, Response = Routed, Error = PublishError>,
{
    type Response = Verdict;
    type Error = Infallible;
    type Future = RetryFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // By the contract of a sink readiness never fails; if one breaks it, its call will say so.
        self.inner.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, event: Arc<Event>) -> Self::Future {
        RetryFuture {
            seq: event.seq,
            epoch: self.state.counts().epoch,
            inner: self.inner.call(event),
            state: Arc::clone(&self.state),
        }
    }
}

pin_project! {
    /// The future of [`Retry`].
    #[derive(Debug)]
    pub struct RetryFuture<F> {
        #[pin]
        inner: F,
        seq: i64,
        epoch: u64,
        state: Arc<State>,
    }
}

impl<F> Future for RetryFuture<F>
where
    F: Future<Output = Result<Routed, PublishError>>,
{
    type Output = Result<Verdict, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        Poll::Ready(Ok(this.state.judge(*this.seq, *this.epoch, result)))
    }
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after every statement, so a panic elsewhere has not broken them.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, seq: i64, epoch: u64, result: Result<Routed, PublishError>) -> Verdict {
        let mut counts = self.counts();
        let error = match result {
            Ok(routed) => {
                counts.rejections.remove(&seq);
                counts.pushbacks.remove(&seq);
                counts.answered(epoch);
                return match routed {
                    Routed::Published => Verdict::Published,
                    Routed::Skipped => Verdict::Skipped,
                };
            }
            Err(error) => error,
        };
        if error.is_answer() {
            counts.answered(epoch);
        }
        match error.meaning() {
            Meaning::Unavailable => {
                if counts.epoch == epoch {
                    counts.epoch += 1;
                    counts.outages = counts.outages.saturating_add(1);
                }
                let first = FIRST_PROBE.min(self.policy.initial_delay);
                let probe_after = delay(
                    first,
                    self.policy.max_delay,
                    counts.outages.saturating_sub(1),
                );
                Verdict::Outage { probe_after, error }
            }
            Meaning::Busy => {
                let pushbacks = counts.pushbacks.entry(seq).or_insert(0);
                *pushbacks = pushbacks.saturating_add(1);
                let failures = *pushbacks - 1;
                let after = delay(self.policy.initial_delay, self.policy.max_delay, failures);
                Verdict::Busy { after, error }
            }
            Meaning::Rejected => {
                counts.pushbacks.remove(&seq);
                let rejections = counts.rejections.entry(seq).or_insert(0);
                *rejections += 1;
                let attempts = *rejections;
                if attempts > self.policy.max_retries {
                    counts.rejections.remove(&seq);
                    return Verdict::Dead { attempts, error };
                }
                let after = delay(
                    self.policy.initial_delay,
                    self.policy.max_delay,
                    attempts - 1,
                );
                Verdict::Retry { after, error }
            }
            Meaning::Invalid => {
                counts.pushbacks.remove(&seq);
                // This one was none: the broker was not asked.
                let attempts = counts.rejections.remove(&seq).unwrap_or(0);
                Verdict::Dead { attempts, error }
            }
        }
    }
}

impl Counts {
    /// The broker answered an attempt that began after the last outage was counted: it is back.
    fn answered(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.outages = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tower_test::mock;

    use super::*;
    use crate::fixture::numbered;

    const POLICY: config::Retry = config::Retry {
        max_retries: 2,
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(8),
    };

    type Mock = mock::Mock<Arc<Event>, Routed>;

    /// A service whose inner one answers `results` in turn.
    async fn verdicts(results: Vec<Result<Routed, PublishError>>) -> Vec<Verdict> {
        let (inner, mut handle) = mock::pair::<Arc<Event>, Routed>();
        let mut service = RetryLayer::new(POLICY).layer(Unboxed(inner));
        let mut verdicts = Vec::new();
        for result in results {
            std::future::poll_fn(|cx| service.poll_ready(cx))
                .await
                .expect("infallible");
            let attempt = service.call(numbered(7));
            let (_, answer) = handle.next_request().await.expect("a call");
            match result {
                Ok(routed) => answer.send_response(routed),
                Err(error) => answer.send_error(error),
            }
            verdicts.push(attempt.await.expect("infallible"));
        }
        verdicts
    }

    /// The mock's errors are boxed.
    struct Unboxed(Mock);

    impl Service<Arc<Event>> for Unboxed {
        type Response = Routed;
        type Error = PublishError;
        type Future = futures::future::BoxFuture<'static, Result<Routed, PublishError>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
            self.0
                .poll_ready(cx)
                .map_err(|_| PublishError::unavailable("mock"))
        }

        fn call(&mut self, event: Arc<Event>) -> Self::Future {
            let call = self.0.call(event);
            Box::pin(async {
                call.await
                    .map_err(|error| match error.downcast::<PublishError>() {
                        Ok(error) => *error,
                        Err(other) => PublishError::unavailable("mock").caused_by(other),
                    })
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rejections_use_up_attempts_and_outages_do_not() {
        let rejected = || Err(PublishError::rejected("no"));
        let away = || Err(PublishError::unavailable("away"));
        let seen = verdicts(vec![
            rejected(),
            away(),
            away(),
            away(),
            rejected(),
            rejected(),
        ])
        .await;
        assert!(matches!(seen[0], Verdict::Retry { after, .. } if after <= Duration::from_secs(1)));
        assert!(
            seen[1..4]
                .iter()
                .all(|verdict| matches!(verdict, Verdict::Outage { .. }))
        );
        assert!(matches!(seen[4], Verdict::Retry { after, .. } if after >= Duration::from_secs(1)));
        assert!(matches!(seen[5], Verdict::Dead { attempts: 3, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_destination_uses_up_no_attempts_and_is_asked_less_and_less() {
        let busy = || Err(PublishError::busy("full"));
        let rejected = || Err(PublishError::rejected("no"));
        let mut script = vec![rejected()];
        script.extend((0..10).map(|_| busy()));
        script.extend([rejected(), busy(), rejected()]);
        let seen = verdicts(script).await;
        let after = |verdict: &Verdict| match verdict {
            Verdict::Busy { after, .. } => *after,
            other => panic!("{other:?}"),
        };
        let (first, last) = (after(&seen[1]), after(&seen[10]));
        assert!(first <= Duration::from_secs(1), "{first:?}");
        assert!(last >= Duration::from_secs(4) && last <= Duration::from_secs(8));
        assert!(matches!(seen[11], Verdict::Retry { .. }));
        assert!(after(&seen[12]) <= Duration::from_secs(1), "it begins anew");
        assert!(matches!(seen[13], Verdict::Dead { attempts: 3, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_nothing_can_be_made_of_is_dead_at_once() {
        let seen = verdicts(vec![Err(PublishError::invalid("a space in the subject"))]).await;
        assert!(matches!(seen[0], Verdict::Dead { attempts: 0, .. }));
    }

    #[test]
    fn a_thousand_failures_of_one_moment_are_one_outage() {
        let state = State {
            policy: POLICY,
            counts: Mutex::default(),
        };
        for seq in 0..1_000 {
            state.judge(seq, 0, Err(PublishError::unavailable("away")));
        }
        assert_eq!(state.counts().outages, 1);
        state.judge(1, 1, Err(PublishError::unavailable("away")));
        assert_eq!(state.counts().outages, 2);
        // An acknowledgement of an attempt from before the outage doesn't end it.
        state.judge(2, 0, Ok(Routed::Published));
        assert_eq!(state.counts().outages, 2);
        // Nor does one that nobody answered, although its event is put off.
        for error in [PublishError::busy("alone"), PublishError::rejected("alone")] {
            state.judge(3, 2, Err(error.unanswered()));
            assert_eq!(state.counts().outages, 2);
        }
        state.judge(2, 2, Ok(Routed::Published));
        assert_eq!(state.counts().outages, 0);
    }
}

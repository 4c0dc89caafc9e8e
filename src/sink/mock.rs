//! The mock sink: a broker that does as it is told, for trying things out and for tests.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tower::Service;
use uuid::Uuid;

use super::Message;
use crate::config::Mock;
use crate::error::PublishError;

/// Acknowledges messages by counting them. Nothing leaves the process, so `Ok` is worth nothing.
///
/// `fail` draws anew for each attempt and comes first, as a broker that is down can't refuse anything;
/// `reject` draws once per event. Draws are hashes of the event's id and the attempt's number, so that the same
/// events fare the same in every run of one build, in whatever order they come.
///
/// Clones share their counts.
#[derive(Debug, Clone)]
pub struct MockSink {
    behaviour: Mock,
    handle: MockHandle,
}

/// What a [`MockSink`] and its clones have done so far.
#[derive(Clone)]
pub struct MockHandle {
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    attempts: u64,
    published: u64,
    /// Kept on request only: a mock may run for days.
    messages: Option<Vec<Message>>,
    /// Attempts so far of events whose last attempt failed. Such an event comes again until it is through, so
    /// that this holds no more than are in flight or parked, but for those that another relay took over.
    failures: HashMap<Uuid, u32>,
}

/// Many times the events that one pipeline may have in flight and parked. Beyond it, attempts are counted from
/// the first again.
const MAX_FAILURES: usize = 65_536;

/// Keeps the two draws of an event apart.
#[derive(Hash)]
enum Draw {
    Fail { attempt: u32 },
    Reject,
}

impl MockSink {
    /// A sink that counts.
    #[must_use]
    pub fn new(behaviour: Mock) -> Self {
        Self::with_record(behaviour, Record::default())
    }

    /// A sink that also keeps every published message, for tests: its memory is not bounded.
    #[must_use]
    pub fn recording(behaviour: Mock) -> Self {
        let messages = Some(Vec::new());
        Self::with_record(
            behaviour,
            Record {
                messages,
                ..Record::default()
            },
        )
    }

    /// Looks on from outside, also after the sink is gone.
    #[must_use]
    pub fn handle(&self) -> MockHandle {
        self.handle.clone()
    }

    fn with_record(behaviour: Mock, record: Record) -> Self {
        let record = Arc::new(Mutex::new(record));
        Self {
            behaviour,
            handle: MockHandle { record },
        }
    }
}

impl MockHandle {
    /// Messages acknowledged so far.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.lock().published
    }

    /// Attempts answered so far, whatever the answer.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.lock().attempts
    }

    /// Messages acknowledged so far in the order of their acknowledgement; none unless the sink is
    /// [`MockSink::recording`].
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.lock().messages.clone().unwrap_or_default()
    }

    fn answer(&self, behaviour: &Mock, message: Message) -> Result<(), PublishError> {
        let id = message.id();
        let mut record = self.lock();
        record.attempts += 1;
        let attempt = record.failures.remove(&id).unwrap_or(0);
        if drawn(behaviour.fail, id, &Draw::Fail { attempt }) {
            if record.failures.len() >= MAX_FAILURES {
                record.failures.clear();
            }
            record.failures.insert(id, attempt.saturating_add(1));
            return Err(PublishError::unavailable("mock: told to fail this attempt"));
        }
        if drawn(behaviour.reject, id, &Draw::Reject) {
            return Err(PublishError::rejected("mock: told to reject this event"));
        }
        record.published += 1;
        if let Some(messages) = &mut record.messages {
            messages.push(message);
        }
        Ok(())
    }

    /// Every change of the record is complete before anything can panic, so a poisoned lock is as good.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the draw falls into `share` (0.0 never, 1.0 always).
fn drawn(share: f64, id: Uuid, draw: &Draw) -> bool {
    // Not `RandomState`: its keys differ from run to run.
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    draw.hash(&mut hasher);
    // 32 bits are exact in an `f64`, and below the number that they are divided by.
    let bits = (hasher.finish() >> 32) as u32;
    f64::from(bits) / (f64::from(u32::MAX) + 1.0) < share
}

impl Service<Message> for MockSink {
    type Response = ();
    type Error = PublishError;
    type Future = BoxFuture<'static, Result<(), PublishError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, message: Message) -> Self::Future {
        let sink = self.clone();
        Box::pin(async move {
            if !sink.behaviour.delay.is_zero() {
                tokio::time::sleep(sink.behaviour.delay).await;
            }
            sink.handle.answer(&sink.behaviour, message)
        })
    }
}

impl fmt::Debug for MockHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.lock();
        f.debug_struct("MockHandle")
            .field("attempts", &record.attempts)
            .field("published", &record.published)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::ServiceExt;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;
    use crate::sink::BoxSink;

    const OBEDIENT: Mock = Mock {
        delay: Duration::ZERO,
        fail: 0.0,
        reject: 0.0,
    };

    async fn publish(sink: &MockSink, id: u128) -> Result<(), Meaning> {
        let message = fixture::message(Uuid::from_u128(id), "{}");
        let answer = sink.clone().oneshot(message).await;
        answer.map_err(|error| error.meaning())
    }

    async fn answers(sink: &MockSink, events: u128) -> Vec<Result<(), Meaning>> {
        let mut answers = Vec::new();
        for id in 0..events {
            answers.push(publish(sink, id).await);
        }
        answers
    }

    fn share_of(answers: &[Result<(), Meaning>], meaning: Meaning) -> usize {
        answers
            .iter()
            .filter(|answer| **answer == Err(meaning))
            .count()
    }

    #[tokio::test]
    async fn counts_and_records_through_every_clone() {
        let sink = MockSink::recording(OBEDIENT);
        let handle = sink.handle();
        assert_eq!(answers(&sink, 3).await, vec![Ok(()); 3]);
        assert_eq!((handle.published(), handle.attempts()), (3, 3));
        let ids: Vec<u128> = handle.messages().iter().map(|m| m.id().as_u128()).collect();
        assert_eq!(ids, [0, 1, 2]);

        let sink = MockSink::new(OBEDIENT);
        let handle = sink.handle();
        let boxed = BoxSink::new(sink);
        let message = fixture::message(Uuid::nil(), "{}");
        boxed.oneshot(message).await.expect("acknowledged");
        assert_eq!(handle.published(), 1);
        assert!(handle.messages().is_empty());
    }

    #[tokio::test]
    async fn rejects_the_same_share_of_events_every_time() {
        let behaviour = Mock {
            reject: 0.2,
            ..OBEDIENT
        };
        let sink = MockSink::new(behaviour.clone());
        let first = answers(&sink, 1_000).await;
        let rejected = share_of(&first, Meaning::Rejected);
        assert!((150..250).contains(&rejected), "{rejected} of 1,000");
        assert_eq!(sink.handle().published(), 1_000 - rejected as u64);
        assert_eq!(answers(&sink, 1_000).await, first);
        assert_eq!(answers(&MockSink::new(behaviour), 1_000).await, first);
    }

    #[tokio::test]
    async fn fails_a_share_of_attempts_until_each_event_is_through() {
        let sink = MockSink::new(Mock {
            fail: 0.5,
            ..OBEDIENT
        });
        let first = answers(&sink, 1_000).await;
        let failed = share_of(&first, Meaning::Unavailable);
        assert!((400..600).contains(&failed), "{failed} of 1,000");
        let mut attempts = 1_000;
        for (id, answer) in first.iter().enumerate() {
            let mut answer = *answer;
            while answer.is_err() {
                answer = publish(&sink, id as u128).await;
                attempts += 1;
                assert!(attempts < 3_000, "a second attempt is drawn anew");
            }
        }
        assert_eq!(sink.handle().published(), 1_000);
        assert_eq!(sink.handle().attempts(), attempts);
        assert!(
            sink.handle().lock().failures.is_empty(),
            "nothing is left behind"
        );
    }

    #[tokio::test]
    async fn the_ends_of_the_scale() {
        let sink = MockSink::new(Mock {
            fail: 1.0,
            reject: 1.0,
            ..OBEDIENT
        });
        let down = answers(&sink, 200).await;
        assert_eq!(
            share_of(&down, Meaning::Unavailable),
            200,
            "an outage comes first"
        );
        let sink = MockSink::new(Mock {
            reject: 1.0,
            ..OBEDIENT
        });
        let refused = answers(&sink, 200).await;
        assert_eq!(share_of(&refused, Meaning::Rejected), 200);
        assert_eq!(sink.handle().published(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledges_after_the_delay() {
        let delay = Duration::from_secs(3);
        let sink = MockSink::new(Mock { delay, ..OBEDIENT });
        let start = tokio::time::Instant::now();
        let early = tokio::time::timeout(Duration::from_secs(2), publish(&sink, 1)).await;
        assert!(early.is_err());
        assert_eq!(
            sink.handle().published(),
            0,
            "a dropped attempt is not counted"
        );
        assert_eq!(publish(&sink, 1).await, Ok(()));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let handle = MockSink::new(OBEDIENT).handle();
        let down = Mock {
            fail: 1.0,
            ..OBEDIENT
        };
        for id in 0..=MAX_FAILURES {
            let message = fixture::message(Uuid::from_u128(id as u128), "{}");
            handle.answer(&down, message).expect_err("told to fail");
        }
        assert!(handle.lock().failures.len() <= MAX_FAILURES);
    }
}

//! What earlier producers have learnt, so that the next one need not fail at the same.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a topic counts as forbidden before a broker is asked again: each answer costs a producer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(30);

/// Topics that are remembered at most, of each kind; beyond it all are forgotten and learnt anew.
const MAX_TOPICS: usize = 10_000;

/// By how much batches shrink when a broker refuses one as a whole.
const SHRINK: usize = 4;

/// Shared by the producers of one sink, one after the other.
#[derive(Debug)]
pub(super) struct Doubts(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    batch_size: usize,
    forbidden: HashMap<String, Instant>,
    /// Topics that have taken events since the present producer began.
    known: HashSet<String>,
}

impl Doubts {
    /// `batch_size` is what the configuration says, in bytes.
    pub(super) fn new(batch_size: usize) -> Self {
        Self(Mutex::new(Inner {
            batch_size,
            forbidden: HashMap::new(),
            known: HashSet::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every statement leaves it whole, so a panic elsewhere has not broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new producer begins. Returns how large its batches may be.
    pub(super) fn begin(&self) -> usize {
        let mut inner = self.inner();
        inner.known.clear();
        inner.batch_size
    }

    /// Whether a message of this size shares its batch with no other.
    pub(super) fn is_alone(&self, size: usize) -> bool {
        size >= self.inner().batch_size
    }

    /// A broker has refused a batch for one of its messages, and doesn't say which: the next producer's are
    /// smaller, until the message is alone in its own.
    pub(super) fn shrink_batches(&self) {
        let mut inner = self.inner();
        inner.batch_size = (inner.batch_size / SHRINK).max(1);
    }

    /// The topic took an event.
    pub(super) fn took(&self, topic: &str) {
        let mut inner = self.inner();
        if !inner.known.contains(topic) {
            if inner.known.len() >= MAX_TOPICS {
                inner.known.clear();
            }
            inner.known.insert(topic.to_owned());
        }
    }

    /// Whether the topic has taken an event of this producer.
    pub(super) fn has_taken(&self, topic: &str) -> bool {
        self.inner().known.contains(topic)
    }

    /// The brokers don't let us write to the topic.
    pub(super) fn forbid(&self, topic: &str) {
        let mut inner = self.inner();
        if inner.forbidden.len() >= MAX_TOPICS {
            inner.forbidden.clear();
        }
        let until = Instant::now() + FORBIDDEN_FOR;
        inner.forbidden.insert(topic.to_owned(), until);
    }

    /// Whether the brokers said a moment ago that they don't let us write to the topic.
    pub(super) fn is_forbidden(&self, topic: &str) -> bool {
        let mut inner = self.inner();
        if inner.forbidden.is_empty() {
            return false;
        }
        let now = Instant::now();
        inner.forbidden.retain(|_, until| now < *until);
        inner.forbidden.contains_key(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_until_every_message_is_alone() {
        let doubts = Doubts::new(1_000_000);
        assert!(!doubts.is_alone(300_000));
        doubts.shrink_batches();
        assert!(doubts.is_alone(300_000) && !doubts.is_alone(100));
        for _ in 0..20 {
            doubts.shrink_batches();
        }
        assert_eq!(doubts.begin(), 1);
        assert!(doubts.is_alone(1));
    }

    #[test]
    fn a_new_producer_knows_no_topics_but_what_is_forbidden() {
        let doubts = Doubts::new(1);
        doubts.took("a");
        doubts.forbid("b");
        assert!(doubts.has_taken("a") && !doubts.has_taken("b"));
        doubts.begin();
        assert!(!doubts.has_taken("a"));
        assert!(doubts.is_forbidden("b") && !doubts.is_forbidden("a"));
    }
}

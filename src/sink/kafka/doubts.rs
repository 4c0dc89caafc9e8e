//! What earlier producers have learnt, so that the next one need not fail at the same.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a topic counts as forbidden before a broker is asked again: each answer costs a producer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(30);

/// Topics that are remembered at most, of each kind; beyond it all are forgotten and learnt anew.
const MAX_TOPICS: usize = 10_000;

/// So many messages must have been taken alone, one after the other, before batches are trusted again: each time that
/// one is refused costs a producer.
const GOOD_MESSAGES: usize = 500;

/// Shared by the producers of one sink, one after the other.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// A batch was refused for one of its messages, and so many were taken alone since then.
    taken_alone: Option<usize>,
    forbidden: HashMap<String, Instant>,
    /// Topics that have taken events since the present producer began.
    known: HashSet<String>,
}

impl Doubts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every statement leaves it whole, so a panic elsewhere has not broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new producer begins. Returns whether it must send each message alone.
    pub(super) fn begin(&self) -> bool {
        let mut inner = self.inner();
        inner.known.clear();
        if inner.trusts_batches() {
            inner.taken_alone = None;
            tracing::info!("messages are sent in batches again");
        }
        inner.taken_alone.is_some()
    }

    /// Whether messages are sent alone, and the next producer may send batches again.
    pub(super) fn trusts_batches_again(&self) -> bool {
        self.inner().trusts_batches()
    }

    /// Whether messages are sent alone.
    #[cfg(test)]
    pub(super) fn are_there(&self) -> bool {
        self.inner().taken_alone.is_some()
    }

    /// A broker has refused a batch for one of its messages, and doesn't say which: the next producer sends each one
    /// alone. Not in smaller batches, step by step: of a producer that it has nothing of in the partition yet a broker
    /// takes what comes behind a batch that it refused, and so events before those that were refused with another.
    pub(super) fn distrust_batches(&self) {
        if self.inner().taken_alone.replace(0).is_none() {
            tracing::warn!(
                "a broker refused a batch for one of its messages: each goes alone now, one per round trip, until \
                 {GOOD_MESSAGES} in a row were taken; where more are refused than about one in {GOOD_MESSAGES}, it \
                 stays so"
            );
        }
    }

    /// The topic took an event.
    pub(super) fn took(&self, topic: &str) {
        let mut inner = self.inner();
        if let Some(taken) = &mut inner.taken_alone {
            *taken = taken.saturating_add(1);
        }
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

impl Inner {
    fn trusts_batches(&self) -> bool {
        self.taken_alone.is_some_and(|taken| taken >= GOOD_MESSAGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_trusted_again_after_enough_good_messages_in_a_row() {
        let doubts = Doubts::default();
        let took = |count: usize| (0..count).for_each(|_| doubts.took("a"));
        took(2 * GOOD_MESSAGES);
        assert!(!doubts.begin() && !doubts.trusts_batches_again());
        doubts.distrust_batches();
        took(GOOD_MESSAGES - 1);
        assert!(doubts.begin(), "another producer changes nothing");
        doubts.distrust_batches();
        took(GOOD_MESSAGES - 1);
        assert!(!doubts.trusts_batches_again());
        took(1);
        assert!(doubts.trusts_batches_again());
        assert!(!doubts.begin() && !doubts.trusts_batches_again());
    }

    #[test]
    fn a_new_producer_knows_no_topics_but_what_is_forbidden() {
        let doubts = Doubts::default();
        doubts.took("a");
        doubts.forbid("b");
        assert!(doubts.has_taken("a") && !doubts.has_taken("b"));
        doubts.begin();
        assert!(!doubts.has_taken("a"));
        assert!(doubts.is_forbidden("b") && !doubts.is_forbidden("a"));
    }
}

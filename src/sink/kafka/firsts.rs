//! Which keys a producer may send without waiting, and which only one message of until that was taken.
//!
//! A broker that has nothing of a producer in a partition takes whatever comes first. The client has a request ready
//! behind the very first one, and sends it even if that was refused: what shares the first batch with a refused
//! message is sent again, by the next producer, and would come behind its successors. So a key has one message on its
//! way until one was taken: then the broker has the partition's place, and refuses what comes behind a gap.
//!
//! By key, for that is what order holds for: the first message of each goes at once, whatever others do, and which
//! partition a key is in need not be known.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// Keys that are remembered as taken at most; beyond it all are forgotten. Each then waits for one round trip.
const MAX_KEYS: usize = 100_000;

/// How long they are remembered: a broker forgets a producer that was silent in a partition for a day
/// (`producer.id.expiration.ms`).
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// A topic and a key, as far as anybody must tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

/// Whether a message may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Goes,
    /// It goes, and is to be told of by [`Firsts::goes`].
    GoesFirst,
    /// One of its key is on its way, none was taken: it is to be [held](Firsts::hold).
    Waits,
}

/// Of one producer. `T` is a message that waits.
#[derive(Debug)]
pub(super) struct Firsts<T> {
    hasher: RandomState,
    taken: HashSet<Key>,
    since: Instant,
    /// Keys with a message on its way of which none was taken, and what waits behind it.
    out: HashMap<Key, VecDeque<T>>,
}

impl<T> Default for Firsts<T> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            taken: HashSet::new(),
            since: Instant::now(),
            out: HashMap::new(),
        }
    }
}

impl<T> Firsts<T> {
    pub(super) fn key(&self, topic: &str, key: &str) -> Key {
        Key(self.hasher.hash_one((topic, key)))
    }

    pub(super) fn turn(&mut self, key: Key) -> Turn {
        if self.since.elapsed() >= REMEMBERED_FOR {
            self.forget();
        }
        // Not the other way round: what waits is in front, also where a key was forgotten meanwhile.
        if self.out.contains_key(&key) {
            Turn::Waits
        } else if self.taken.contains(&key) {
            Turn::Goes
        } else {
            Turn::GoesFirst
        }
    }

    /// The first message of the key is on its way, and these wait behind it.
    pub(super) fn goes(&mut self, key: Key, behind: VecDeque<T>) {
        self.out.insert(key, behind);
    }

    pub(super) fn hold(&mut self, key: Key, message: T) {
        self.out.entry(key).or_default().push_back(message);
    }

    /// The first message of the key was answered. Returns what waits: all of it may go if it was taken, else the
    /// next one as the first.
    pub(super) fn ended(&mut self, key: Key, was_taken: bool) -> VecDeque<T> {
        if was_taken {
            if self.taken.len() >= MAX_KEYS {
                self.forget();
            }
            self.taken.insert(key);
        }
        self.out.remove(&key).unwrap_or_default()
    }

    /// All that waits, in no order across keys.
    pub(super) fn give_up(&mut self) -> Vec<T> {
        let out = std::mem::take(&mut self.out);
        out.into_values().flatten().collect()
    }

    fn forget(&mut self) {
        self.taken.clear();
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_message_on_its_way_until_one_was_taken() {
        let mut firsts = Firsts::default();
        let key = firsts.key("a", "k");
        assert_eq!(firsts.turn(key), Turn::GoesFirst);
        firsts.goes(key, VecDeque::new());
        for seq in [2, 3] {
            assert_eq!(firsts.turn(key), Turn::Waits);
            firsts.hold(key, seq);
        }
        // Another key, and the same of another topic, wait for nobody.
        for other in [firsts.key("a", "l"), firsts.key("b", "k")] {
            assert_eq!(firsts.turn(other), Turn::GoesFirst);
        }
        // Refused: the next one is the first.
        let mut behind = firsts.ended(key, false);
        assert_eq!(behind.pop_front(), Some(2));
        firsts.goes(key, behind);
        assert_eq!(firsts.turn(key), Turn::Waits);
        assert_eq!(firsts.ended(key, true), [3]);
        assert_eq!(firsts.turn(key), Turn::Goes);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_waits_is_not_forgotten_with_it() {
        let mut firsts = Firsts::default();
        let waiting = firsts.key("a", "waiting");
        firsts.goes(waiting, VecDeque::from([1]));
        for key in 0..=MAX_KEYS {
            let key = firsts.key("a", &key.to_string());
            firsts.ended(key, true);
        }
        assert_eq!(firsts.taken.len(), 1);
        assert_eq!(firsts.turn(waiting), Turn::Waits);
        assert_eq!(firsts.give_up(), [1]);
        assert_eq!(firsts.turn(waiting), Turn::GoesFirst);
    }
}

//! The gate: one event in flight per key, any number of keys in parallel.
//!
//! For a sink that keeps order itself the gate is open: every event goes at once.
//!
//! Owns who waits behind whom. Knows nothing of time, brokers or databases. Keys are kept as hashes: should two
//! ever collide, they are ordered with each other, which is allowed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use crate::event::Event;
use crate::sink::KeyOrder;

/// Events of one key that wait whole. Those behind them wait as their `seq` and are fetched again, so that a
/// busy key doesn't fill the memory that the others need.
const LOADED_PER_KEY: usize = 256;

/// How many waiting `seq` of one key are fetched at once.
const FETCHED_PER_KEY: usize = 128;

/// Orders the events of one pipeline.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Open: no event waits for another.
    order: KeyOrder,
    hasher: RandomState,
    lanes: HashMap<u64, Lane>,
    /// `seq` to fetch, and whose they are.
    wanted: BTreeSet<i64>,
    lane_of: HashMap<i64, u64>,
    /// How many events wait as their `seq`.
    unloaded: usize,
}

/// A key with an event that is on its way.
#[derive(Debug, Default)]
struct Lane {
    state: State,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its first event is in flight or about to be.
    #[default]
    Running,
    /// Its first event waits for a retry.
    Parked,
    /// Its next event is being fetched.
    Fetching,
}

#[derive(Debug)]
enum Waiting {
    Loaded(Arc<Event>),
    Seq(i64),
}

/// What becomes of an event at the gate.
#[derive(Debug)]
pub(super) enum Admission {
    /// It may go.
    Go(Arc<Event>),
    /// It waits behind one of its key.
    Waits,
    /// It waits as its `seq`: the event itself was let go.
    WaitsUnloaded,
}

impl Waiting {
    fn seq(&self) -> i64 {
        match self {
            Self::Loaded(event) => event.seq,
            Self::Seq(seq) => *seq,
        }
    }
}

impl Lane {
    /// Where `seq` waits. Not sorted: events of one key wait in the order in which they became visible, which
    /// is not that of `seq` if their writers took no lock.
    fn position(&self, seq: i64) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.seq() == seq)
    }
}

impl Gate {
    /// A gate that keeps what the sink doesn't.
    pub(super) fn new(order: KeyOrder) -> Self {
        Self {
            order,
            ..Self::default()
        }
    }

    /// How many events wait as their `seq`.
    pub(super) fn unloaded(&self) -> usize {
        self.unloaded
    }

    /// Up to `limit` of the `seq` that must be fetched before their keys can go on, lowest first.
    pub(super) fn wanted(&self, limit: usize) -> Vec<i64> {
        self.wanted.iter().copied().take(limit).collect()
    }

    /// An event that was read. Events of one key go in the order in which they come here.
    pub(super) fn admit(&mut self, event: Arc<Event>) -> Admission {
        let Some(key) = self.key(&event) else {
            return Admission::Go(event);
        };
        match self.lanes.entry(key) {
            Entry::Vacant(lane) => {
                lane.insert(Lane::default());
                Admission::Go(event)
            }
            Entry::Occupied(lane) => {
                let lane = lane.into_mut();
                let unload = lane.state != State::Running
                    || lane.waiting.len() >= LOADED_PER_KEY
                    || matches!(lane.waiting.back(), Some(Waiting::Seq(_)));
                if unload {
                    lane.waiting.push_back(Waiting::Seq(event.seq));
                    self.unloaded += 1;
                    return Admission::WaitsUnloaded;
                }
                lane.waiting.push_back(Waiting::Loaded(event));
                Admission::Waits
            }
        }
    }

    /// `event` waits for a retry: those behind it are kept as their `seq` only. Returns the events let go.
    pub(super) fn park(&mut self, event: &Event) -> Vec<Arc<Event>> {
        let Some(lane) = self.key(event).and_then(|key| self.lanes.get_mut(&key)) else {
            return Vec::new();
        };
        lane.state = State::Parked;
        let mut let_go = Vec::new();
        for waiting in &mut lane.waiting {
            let seq = waiting.seq();
            if let Waiting::Loaded(event) = std::mem::replace(waiting, Waiting::Seq(seq)) {
                let_go.push(event);
                self.unloaded += 1;
            }
            // What is being fetched for this key will be fetched again.
            if self.lane_of.remove(&seq).is_some() {
                self.wanted.remove(&seq);
            }
        }
        let_go
    }

    /// The retry of `event` is due: its key is running again.
    pub(super) fn resume(&mut self, event: &Event) {
        if let Some(lane) = self.key(event).and_then(|key| self.lanes.get_mut(&key)) {
            lane.state = State::Running;
        }
    }

    /// `event` needs nothing more. Returns the next of its key if that can go at once.
    pub(super) fn release(&mut self, event: &Event) -> Option<Arc<Event>> {
        let key = self.key(event)?;
        self.advance(key)
    }

    /// A fetched event. Returns it if it can go at once; `Err` if nobody waits for it whole any more.
    pub(super) fn fetched(&mut self, event: Arc<Event>) -> Result<Option<Arc<Event>>, Arc<Event>> {
        let Some(key) = self.lane_of.remove(&event.seq) else {
            return Err(event);
        };
        self.wanted.remove(&event.seq);
        let Some(lane) = self.lanes.get_mut(&key) else {
            return Err(event);
        };
        let Some(index) = lane.position(event.seq) else {
            return Err(event);
        };
        self.unloaded -= 1;
        if index == 0 && lane.state == State::Fetching {
            lane.waiting.pop_front();
            lane.state = State::Running;
            return Ok(Some(event));
        }
        lane.waiting[index] = Waiting::Loaded(event);
        Ok(None)
    }

    /// A row that was to be fetched is gone. Returns the next of its key if that can go at once.
    pub(super) fn gone(&mut self, seq: i64) -> Option<Arc<Event>> {
        self.wanted.remove(&seq);
        let key = self.lane_of.remove(&seq)?;
        let lane = self.lanes.get_mut(&key)?;
        let index = lane.position(seq)?;
        lane.waiting.remove(index);
        self.unloaded -= 1;
        if index == 0 && lane.state == State::Fetching {
            return self.advance(key);
        }
        None
    }

    /// Moves a lane on whose first event is done.
    fn advance(&mut self, key: u64) -> Option<Arc<Event>> {
        let lane = self.lanes.get_mut(&key)?;
        match lane.waiting.pop_front() {
            None => {
                self.lanes.remove(&key);
                None
            }
            Some(Waiting::Loaded(event)) => {
                lane.state = State::Running;
                Some(event)
            }
            Some(Waiting::Seq(seq)) => {
                lane.waiting.push_front(Waiting::Seq(seq));
                lane.state = State::Fetching;
                for waiting in lane.waiting.iter().take(FETCHED_PER_KEY) {
                    if let Waiting::Seq(seq) = waiting {
                        self.wanted.insert(*seq);
                        self.lane_of.insert(*seq, key);
                    }
                }
                None
            }
        }
    }

    /// Events without one, and all events at an open gate, are in nobody's way.
    fn key(&self, event: &Event) -> Option<u64> {
        let key = event.aggregate_id.as_ref()?;
        (self.order == KeyOrder::Gated).then(|| self.hasher.hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::keyed;

    #[test]
    fn a_parked_key_keeps_its_successors_as_numbers() {
        let mut gate = Gate::default();
        let Admission::Go(first) = gate.admit(keyed(1, "a")) else {
            panic!("the key is free")
        };
        assert!(matches!(gate.admit(keyed(2, "a")), Admission::Waits));
        assert!(matches!(gate.admit(keyed(3, "b")), Admission::Go(_)));
        assert_eq!(gate.park(&first), [keyed(2, "a")]);
        assert!(matches!(
            gate.admit(keyed(4, "a")),
            Admission::WaitsUnloaded
        ));
        assert_eq!(gate.unloaded(), 2);
        gate.resume(&first);
        assert!(gate.release(&first).is_none());
        assert_eq!(gate.wanted(10), [2, 4]);
        assert!(matches!(gate.fetched(keyed(4, "a")), Ok(None)));
        let Ok(Some(second)) = gate.fetched(keyed(2, "a")) else {
            panic!("it is next")
        };
        assert_eq!(gate.release(&second).map(|event| event.seq), Some(4));
        assert_eq!(gate.unloaded(), 0);
    }

    #[test]
    fn a_row_that_is_gone_holds_nobody_back() {
        let mut gate = Gate::default();
        let Admission::Go(first) = gate.admit(keyed(1, "a")) else {
            panic!("the key is free")
        };
        gate.park(&first);
        gate.admit(keyed(2, "a"));
        gate.admit(keyed(3, "a"));
        assert!(gate.release(&first).is_none());
        assert!(gate.gone(2).is_none());
        let Ok(Some(third)) = gate.fetched(keyed(3, "a")) else {
            panic!("it is next")
        };
        assert!(gate.release(&third).is_none());
        assert!(matches!(gate.admit(keyed(5, "a")), Admission::Go(_)));
    }

    proptest! {
        /// Whatever is retried, parked and fetched, and even if events show out of the order of their `seq`: every
        /// event goes once, in the order in which its key's came, and never two of one key at a time.
        #[test]
        fn order_is_kept(
            keys in prop::collection::vec(0u8..4, 1..200),
            swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
            choices in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let mut gate = Gate::default();
            let mut unread: VecDeque<_> = (1..).zip(&keys).map(|(seq, key)| keyed(seq, &key.to_string())).collect();
            for (one, other) in swaps {
                let (one, other) = (one.index(unread.len()), other.index(unread.len()));
                unread.swap(one, other);
            }
            let all: Vec<_> = unread.iter().cloned().collect();
            let mut running: Vec<Arc<Event>> = Vec::new();
            let mut parked: Vec<Arc<Event>> = Vec::new();
            let mut done: Vec<Arc<Event>> = Vec::new();
            for choice in choices.into_iter().chain(std::iter::repeat(0)) {
                let pick = usize::from(choice / 8);
                match choice % 8 {
                    4 | 5 if !unread.is_empty() => {
                        if let Some(Admission::Go(event)) = unread.pop_front().map(|event| gate.admit(event)) {
                            running.push(event);
                        }
                    }
                    6 if !running.is_empty() => {
                        let event = running.swap_remove(pick % running.len());
                        gate.park(&event);
                        parked.push(event);
                    }
                    7 if !parked.is_empty() => {
                        let event = parked.swap_remove(pick % parked.len());
                        gate.resume(&event);
                        running.push(event);
                    }
                    _ => {
                        for seq in gate.wanted(usize::from(choice % 3) + 1) {
                            let event = all.iter().find(|event| event.seq == seq).cloned();
                            if let Ok(Some(event)) = gate.fetched(event.expect("it was read")) {
                                running.push(event);
                            }
                        }
                        if let Some(event) = running.pop() {
                            running.extend(gate.release(&event));
                            done.push(event);
                        } else if let Some(event) = parked.pop() {
                            gate.resume(&event);
                            running.push(event);
                        } else if let Some(event) = unread.pop_front() {
                            if let Admission::Go(event) = gate.admit(event) {
                                running.push(event);
                            }
                        } else if gate.wanted(1).is_empty() {
                            break;
                        }
                    }
                }
                let mut on_their_way: Vec<_> = running.iter().chain(&parked).map(|e| &e.aggregate_id).collect();
                on_their_way.sort();
                prop_assert!(on_their_way.windows(2).all(|pair| pair[0] != pair[1]));
            }
            prop_assert_eq!(done.len(), all.len());
            for key in 0u8..4 {
                let of_key = |events: &[Arc<Event>]| -> Vec<i64> {
                    let own = events.iter().filter(|e| e.aggregate_id.as_deref() == Some(&key.to_string()));
                    own.map(|event| event.seq).collect()
                };
                prop_assert_eq!(of_key(&done), of_key(&all));
            }
            prop_assert_eq!(gate.unloaded(), 0);
        }
    }
}

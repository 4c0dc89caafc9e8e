//! Which of the messages in flight on a channel the broker took, and which it returned as unroutable.
//!
//! The client keeps returned messages in a queue, and attaches the oldest to whichever confirm comes next: its own,
//! an earlier one or a later one. A confirm by itself therefore says nothing about its message. What can be relied on:
//!
//! - The broker handles the publishes of a channel in order: it returns messages in the order in which they were
//!   published, and each of them before it confirms it.
//! - The client handles what comes in order, each confirm takes at most one returned message from the queue, and
//!   only one that finds the queue empty comes without.
//!
//! So a confirmed message was not returned if its return would have been handed out by now, which is certain if
//!
//! 1. its own confirm came without a returned message: the queue was empty, or
//! 2. a message that was published later has been handed out, for the queue is in order, or
//! 3. everything published before it is confirmed: each of those confirms took one from the queue, and there were
//!    never more in it than returned messages whose confirm was still to come, or
//! 4. the confirm of a message that was published after this one's confirm was seen came without: empty again.
//!
//! In all other cases it waits for one of these. That takes no longer than the confirms of unroutable messages do,
//! and the broker makes those itself: no queue that is slow to confirm holds anything up.
//!
//! **All confirms that have come must be handed in before [`Judge::verdicts`] is asked**, for any of them may carry
//! any returned message.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The broker has taken responsibility for it.
    Taken,
    /// A queue refused it, or something in the broker failed.
    Nacked,
    /// There is no queue for it.
    Returned(Return),
}

/// What the broker says of a message that it returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Return {
    /// The message's id; `None` if it carries none, so that it is none of ours.
    pub(super) id: Option<Uuid>,
    /// The broker's reason, such as `NO_ROUTE`.
    pub(super) reason: String,
}

/// A returned message that nothing in flight can have been: nothing that is in flight can be judged any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stray;

/// Everything in flight on one channel. `W` is who waits for the verdict.
#[derive(Debug)]
pub(super) struct Judge<W> {
    /// Published and not judged, by their place among all that was published.
    pending: BTreeMap<u64, Pending<W>>,
    /// The places of each id: one that is delivered again may be in flight twice.
    places: HashMap<Uuid, Vec<u64>>,
    /// Confirmed and not judged, in no order.
    confirmed: Vec<u64>,
    /// The place of the next message.
    next: u64,
    /// The latest place that is known to be among those handed out.
    newest_return: Option<u64>,
    /// The latest place whose confirm came without a returned message.
    newest_empty: Option<u64>,
}

#[derive(Debug)]
struct Pending<W> {
    id: Uuid,
    waiter: W,
    confirm: Option<Confirm>,
    returned: Option<Return>,
}

#[derive(Debug, Clone, Copy)]
struct Confirm {
    nacked: bool,
    /// It came without a returned message.
    empty: bool,
    /// What was published next when it was seen.
    seen_before: u64,
}

impl<W> Judge<W> {
    pub(super) fn new() -> Self {
        Self {
            pending: BTreeMap::new(),
            places: HashMap::new(),
            confirmed: Vec::new(),
            next: 0,
            newest_return: None,
            newest_empty: None,
        }
    }

    /// How many wait for a verdict.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes note of a message, in the order in which they are published. Returns its place.
    pub(super) fn published(&mut self, id: Uuid, waiter: W) -> u64 {
        let place = self.next;
        self.next += 1;
        let pending = Pending {
            id,
            waiter,
            confirm: None,
            returned: None,
        };
        self.pending.insert(place, pending);
        self.places.entry(id).or_default().push(place);
        place
    }

    /// Takes note of the confirm of the message at `place`, and of the returned message that came with it.
    pub(super) fn confirmed(
        &mut self,
        place: u64,
        nacked: bool,
        returned: Option<Return>,
    ) -> Result<(), Stray> {
        let empty = returned.is_none();
        if empty {
            self.newest_empty = self.newest_empty.max(Some(place));
        }
        if let Some(pending) = self.pending.get_mut(&place) {
            pending.confirm = Some(Confirm {
                nacked,
                empty,
                seen_before: self.next,
            });
            self.confirmed.push(place);
        }
        returned.map_or(Ok(()), |returned| self.handed_out(&returned))
    }

    fn handed_out(&mut self, returned: &Return) -> Result<(), Stray> {
        let places = returned.id.and_then(|id| self.places.get(&id));
        let Some(places) = places else {
            return Err(Stray);
        };
        // Which of several with one id it was can't be told. All of them count as returned, at worst once more
        // than need be; and only the first can be relied on to have been handed out.
        self.newest_return = self.newest_return.max(places.first().copied());
        for place in places {
            if let Some(pending) = self.pending.get_mut(place) {
                pending.returned = Some(returned.clone());
            }
        }
        Ok(())
    }

    /// What can be judged now, with who waits for it.
    pub(super) fn verdicts(&mut self) -> Vec<(W, Verdict)> {
        let oldest_open = self
            .pending
            .iter()
            .find(|(_, pending)| pending.confirm.is_none())
            .map_or(self.next, |(place, _)| *place);
        let mut verdicts = Vec::new();
        for place in std::mem::take(&mut self.confirmed) {
            if !self.is_certain(place, oldest_open) {
                self.confirmed.push(place);
                continue;
            }
            if let Some(pending) = self.forget(place) {
                let nacked = pending.confirm.is_some_and(|confirm| confirm.nacked);
                let verdict = match pending.returned {
                    Some(returned) => Verdict::Returned(returned),
                    None if nacked => Verdict::Nacked,
                    None => Verdict::Taken,
                };
                verdicts.push((pending.waiter, verdict));
            }
        }
        verdicts
    }

    fn is_certain(&self, place: u64, oldest_open: u64) -> bool {
        let Some(pending) = self.pending.get(&place) else {
            return true;
        };
        let confirmed = pending.confirm.is_some_and(|confirm| {
            confirm.empty
                || self
                    .newest_empty
                    .is_some_and(|newest| newest >= confirm.seen_before)
        });
        pending.returned.is_some()
            || confirmed
            || self.newest_return.is_some_and(|newest| newest > place)
            || place < oldest_open
    }

    fn forget(&mut self, place: u64) -> Option<Pending<W>> {
        let pending = self.pending.remove(&place)?;
        if let Some(places) = self.places.get_mut(&pending.id) {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.places.remove(&pending.id);
            }
        }
        Some(pending)
    }

    /// Everyone who still waits: the channel is gone, and nothing more will be known.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.places.clear();
        self.confirmed.clear();
        std::mem::take(&mut self.pending)
            .into_values()
            .map(|pending| pending.waiter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn id(place: u64) -> Uuid {
        Uuid::from_u128(place.into())
    }

    fn returned(place: u64) -> Return {
        Return {
            id: Some(id(place)),
            reason: "312 NO_ROUTE".to_owned(),
        }
    }

    fn judge(count: u64) -> Judge<u64> {
        let mut judge = Judge::new();
        for place in 0..count {
            assert_eq!(judge.published(id(place), place), place);
        }
        judge
    }

    fn taken(judge: &mut Judge<u64>) -> Vec<(u64, bool)> {
        let verdicts = judge.verdicts().into_iter();
        verdicts
            .map(|(place, verdict)| (place, verdict == Verdict::Taken))
            .collect()
    }

    #[test]
    fn one_alone_is_judged_at_once() {
        let mut judge = judge(3);
        judge.confirmed(0, false, None).expect("ours");
        assert_eq!(taken(&mut judge), [(0, true)]);
        judge.confirmed(1, true, None).expect("ours");
        assert_eq!(judge.verdicts(), [(1, Verdict::Nacked)]);
        judge.confirmed(2, false, Some(returned(2))).expect("ours");
        assert_eq!(judge.verdicts(), [(2, Verdict::Returned(returned(2)))]);
        assert_eq!(judge.len(), 0);
    }

    #[test]
    fn a_return_that_came_with_another_confirm_finds_its_message() {
        // 1 is returned; the confirm of 0 takes what came back, that of 1 comes without.
        let mut judge = judge(2);
        judge.confirmed(0, false, Some(returned(1))).expect("ours");
        assert_eq!(taken(&mut judge), [(0, true)]);
        judge.confirmed(1, false, None).expect("ours");
        assert_eq!(taken(&mut judge), [(1, false)]);
    }

    #[test]
    fn what_is_uncertain_waits_and_slow_queues_hold_nothing_up() {
        // 1 and 2 are returned, and 2 is confirmed first: its own return may still be in the queue.
        let mut judge = judge(3);
        judge.confirmed(2, false, Some(returned(1))).expect("ours");
        assert_eq!(taken(&mut judge), []);
        // The confirm of 1 brings the return of 2. That of 0 never comes.
        judge.confirmed(1, false, Some(returned(2))).expect("ours");
        let mut verdicts = taken(&mut judge);
        verdicts.sort_unstable();
        assert_eq!(verdicts, [(1, false), (2, false)]);
        assert_eq!(judge.give_up().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn an_empty_confirm_settles_what_was_seen_before_it_was_published() {
        let mut judge = judge(3);
        judge.confirmed(2, false, Some(returned(1))).expect("ours");
        assert_eq!(taken(&mut judge), []);
        let later = judge.published(id(3), 3);
        judge.confirmed(later, false, None).expect("ours");
        let mut verdicts = taken(&mut judge);
        verdicts.sort_unstable();
        assert_eq!(verdicts, [(2, true), (3, true)]);
    }

    #[test]
    fn of_two_with_one_id_both_count_as_returned() {
        let mut judge = Judge::new();
        judge.published(id(7), 'a');
        judge.published(id(7), 'b');
        judge.confirmed(0, false, Some(returned(7))).expect("ours");
        judge.confirmed(1, false, None).expect("ours");
        let verdicts = judge.verdicts();
        assert_eq!(verdicts.len(), 2);
        for (_, verdict) in verdicts {
            assert!(matches!(verdict, Verdict::Returned(_)), "{verdict:?}");
        }
        assert_eq!(judge.confirmed(9, false, Some(returned(7))), Err(Stray));
    }

    /// The broker and the client, as far as they matter here.
    #[derive(Default)]
    struct Model {
        unroutable: Vec<bool>,
        /// Published, and not handled by the broker yet.
        sent: VecDeque<u64>,
        /// Handled, and not confirmed yet.
        open: Vec<u64>,
        /// What the client has of returned messages.
        queue: VecDeque<u64>,
    }

    impl Model {
        fn publish(&mut self, unroutable: bool) -> u64 {
            let place = self.unroutable.len() as u64;
            self.unroutable.push(unroutable);
            self.sent.push_back(place);
            place
        }

        /// The broker handles one: it returns it, or routes it.
        fn handle(&mut self) {
            if let Some(place) = self.sent.pop_front() {
                if self.unroutable[usize::try_from(place).expect("small")] {
                    self.queue.push_back(place);
                }
                self.open.push(place);
            }
        }

        /// The broker confirms any of those that it has handled.
        fn confirm(&mut self, choice: usize) -> Option<(u64, Option<Return>)> {
            if self.open.is_empty() {
                return None;
            }
            let place = self.open.swap_remove(choice % self.open.len());
            Some((place, self.queue.pop_front().map(returned)))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever the order of confirms, and whoever takes the returned messages along: every verdict is right,
        /// and in the end there is one on each message.
        #[test]
        fn every_verdict_is_right(steps in prop::collection::vec((0_u8..8, any::<usize>()), 1..200)) {
            let mut model = Model::default();
            let mut judge = Judge::new();
            let mut judged = HashMap::new();
            let mut batch = Vec::new();
            let mut settle = |judge: &mut Judge<u64>, batch: &mut Vec<(u64, Option<Return>)>, model: &Model| {
                // The order within a batch is not the order of the confirms.
                for (place, returned) in batch.drain(..).rev() {
                    judge.confirmed(place, false, returned).expect("ours");
                }
                for (place, verdict) in judge.verdicts() {
                    let unroutable = model.unroutable[usize::try_from(place).expect("small")];
                    assert_eq!(verdict != Verdict::Taken, unroutable, "{place}: {verdict:?}");
                    assert!(judged.insert(place, ()).is_none(), "{place} twice");
                }
            };
            for (step, choice) in steps {
                match step {
                    0..=2 => {
                        let place = model.publish(choice.is_multiple_of(3));
                        judge.published(id(place), place);
                    }
                    3 | 4 => model.handle(),
                    5 | 6 => batch.extend(model.confirm(choice)),
                    _ => settle(&mut judge, &mut batch, &model),
                }
            }
            while !model.sent.is_empty() {
                model.handle();
            }
            while let Some(confirm) = model.confirm(0) {
                batch.push(confirm);
            }
            settle(&mut judge, &mut batch, &model);
            prop_assert_eq!(judge.len(), 0);
            prop_assert_eq!(judged.len(), model.unroutable.len());
        }
    }
}

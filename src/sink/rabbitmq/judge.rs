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

#[cfg(test)]
mod tests;

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

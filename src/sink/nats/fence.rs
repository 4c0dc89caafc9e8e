//! Fences: how the server confirms publishes that it never acknowledges.
//!
//! A server handles the commands of one connection in their order. So a small message to an inbox of our own, sent
//! behind a batch of messages on the same connection, comes back only when the server has taken the whole batch. One
//! fence is under way at a time; what is sent meanwhile is covered by the next. So batches grow with the load, and
//! the cost is one small message per round trip.
//!
//! Messages and fence must have gone over the *same* connection: what was written to a lost one is gone, while a fence
//! behind it that was still queued goes over the next one and comes back. Connections are numbered, and a fence
//! confirms only what began on the connection that brought it back.
//!
//! A publish that permissions forbid is answered by an error line before the fence. The client hands errors and
//! messages to different tasks, so the fence may be seen first; `line` knows when that is possible, and waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::refusal::Failure;
use crate::sink::nats_connection::stale::Stale;

/// Errors that the client queues at most before it drops some in silence.
const ERRORS_QUEUED: u32 = 128;

/// All publishes of a sink that wait to be confirmed. Holds an entry for as long as its waiter lives, no longer.
#[derive(Debug)]
pub(super) struct Fences {
    state: Mutex<State>,
    /// Wakes the line: something may have to be covered.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiter>,
    next_waiter: u64,
    /// Waiters whose messages are sent and not covered yet.
    sent: Vec<u64>,
    under_way: Option<Fence>,
    next_token: u64,
    /// Refusals since the last fence came back, and between the two fences before. What the client had queued when it
    /// dropped something was heard in these.
    refusals: [u32; 2],
    /// Numbered by the fences.
    stale: Stale,
}

#[derive(Debug)]
struct Waiter {
    subject: Box<str>,
    size: usize,
    /// The connection at the time when it began.
    connection: u64,
    sender: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Debug)]
struct Fence {
    token: u64,
    connection: u64,
    covers: Vec<u64>,
}

/// The right to one confirmation. Dropped, it forgets that it waited.
#[derive(Debug)]
pub(super) struct Ticket {
    fences: Arc<Fences>,
    id: u64,
    receiver: oneshot::Receiver<Result<(), Failure>>,
}

impl Fences {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Begins to wait for a message of `size` bytes to `subject`: before it is sent, so that no refusal can come too
    /// early.
    pub(super) fn expect(self: &Arc<Self>, subject: &str, size: usize, connection: u64) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let id = state.next_waiter;
        state.next_waiter += 1;
        let waiter = Waiter {
            subject: subject.into(),
            size,
            connection,
            sender,
        };
        state.waiting.insert(id, waiter);
        Ticket {
            fences: Arc::clone(self),
            id,
            receiver,
        }
    }

    /// Waits until [`Fences::begin`] may have something to do.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The token of the fence to send now, if there is something to cover and none is under way on `connection`.
    pub(super) fn begin(&self, connection: u64) -> Option<u64> {
        let mut state = self.lock();
        if let Some(fence) = state
            .under_way
            .take_if(|fence| fence.connection != connection)
        {
            state.end(fence.covers, || Err(Failure::Disconnected));
        }
        if state.under_way.is_some() || state.sent.is_empty() {
            return None;
        }
        let token = state.next_token;
        state.next_token += 1;
        let covers = std::mem::take(&mut state.sent);
        state.under_way = Some(Fence {
            token,
            connection,
            covers,
        });
        Some(token)
    }

    /// Confirms what the fence covers that has come back over `connection`. One that is not under way is stale.
    pub(super) fn confirm(&self, token: u64, connection: u64) {
        let mut state = self.lock();
        let Some(fence) = state.under_way.take_if(|fence| fence.token == token) else {
            return;
        };
        state.stale.answered(token);
        let [since, before] = state.refusals;
        state.refusals = [0, since];
        if since.saturating_add(before) >= ERRORS_QUEUED {
            state.end(fence.covers, || Err(Failure::Unclear));
        } else {
            for id in fence.covers {
                let Some(waiter) = state.waiting.remove(&id) else {
                    continue;
                };
                let is_same = waiter.connection == connection;
                waiter.end(if is_same {
                    Ok(())
                } else {
                    Err(Failure::Disconnected)
                });
            }
        }
    }

    /// Ends all waiting: the connection is lost.
    pub(super) fn fail_all(&self) {
        let mut state = self.lock();
        state.under_way = None;
        state.sent.clear();
        for waiter in std::mem::take(&mut state.waiting).into_values() {
            state.give_up(waiter.size);
            waiter.end(Err(Failure::Disconnected));
        }
    }

    /// Ends the waiting for messages to `subject`: the server doesn't allow them.
    pub(super) fn forbid(&self, subject: &str) {
        let mut state = self.lock();
        state.refusals[0] = state.refusals[0].saturating_add(1);
        let forbidden: Vec<Waiter> = state
            .waiting
            .extract_if(|_, waiter| &*waiter.subject == subject)
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in forbidden {
            waiter.end(Err(Failure::Forbidden));
        }
    }

    /// Ends the waiting for the largest message: the server has met one that is larger than it allows, and doesn't say
    /// which. The largest is too large in any case, unless it is one that nobody waits for.
    pub(super) fn refuse_largest(&self) {
        let mut state = self.lock();
        let largest = state.waiting.iter().max_by_key(|(_, waiter)| waiter.size);
        let largest = largest.map(|(id, waiter)| (*id, waiter.size));
        if state.stale.convicts(largest.map(|(_, size)| size))
            && let Some((id, size)) = largest
            && let Some(waiter) = state.waiting.remove(&id)
        {
            waiter.end(Err(Failure::TooLarge(size)));
        }
    }

    /// Ends the waiting for the fence under way: the server doesn't take fences.
    pub(super) fn refuse_fence(&self) {
        let mut state = self.lock();
        if let Some(fence) = state.under_way.take() {
            state.end(fence.covers, || Err(Failure::Unfenced));
        }
    }

    /// No code that may panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nobody waits any more for a message of this size.
    fn give_up(&mut self, size: usize) {
        self.stale.add(size, self.next_token);
    }

    /// Ends the waiting of those of `ids` that still wait.
    fn end(&mut self, ids: Vec<u64>, result: impl Fn() -> Result<(), Failure>) {
        for id in ids {
            if let Some(waiter) = self.waiting.remove(&id) {
                waiter.end(result());
            }
        }
    }
}

impl Waiter {
    /// A waiter that went away in the meantime needs nothing.
    fn end(self, result: Result<(), Failure>) {
        self.sender.send(result).ok();
    }
}

impl Ticket {
    /// The client has taken the message: the next fence covers it.
    pub(super) fn sent(&self) {
        let mut state = self.fences.lock();
        if state.waiting.contains_key(&self.id) {
            state.sent.push(self.id);
            drop(state);
            self.fences.wanted.notify_one();
        }
    }

    /// Waits for the end. May be dropped and called again until it has returned.
    pub(super) async fn outcome(&mut self) -> Result<(), Failure> {
        // The sender goes away unused only with the table itself.
        (&mut self.receiver)
            .await
            .unwrap_or(Err(Failure::Disconnected))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.fences.lock();
        if let Some(waiter) = state.waiting.remove(&self.id) {
            state.give_up(waiter.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that is sent over `connection`, and waits for a fence.
    fn sent(fences: &Arc<Fences>, subject: &str, connection: u64) -> Ticket {
        let ticket = fences.expect(subject, 1, connection);
        ticket.sent();
        ticket
    }

    fn ended(ticket: &mut Ticket) -> Option<Result<(), Failure>> {
        ticket.receiver.try_recv().ok()
    }

    #[test]
    fn a_fence_confirms_what_was_sent_before_it() {
        let fences = Arc::new(Fences::new());
        let mut early = sent(&fences, "a", 1);
        let mut unsent = fences.expect("a", 1, 1);
        let token = fences.begin(1).expect("something to cover");
        let mut late = sent(&fences, "a", 1);
        assert_eq!(fences.begin(1), None, "one at a time");
        fences.confirm(token + 1, 1);
        assert!(ended(&mut early).is_none(), "not its fence");
        fences.confirm(token, 1);
        assert!(matches!(ended(&mut early), Some(Ok(()))));
        let next = fences.begin(1).expect("the late one");
        fences.confirm(next, 1);
        assert!(matches!(ended(&mut late), Some(Ok(()))));
        assert!(ended(&mut unsent).is_none());
        assert_eq!(fences.begin(1), None, "nothing is sent");
    }

    #[test]
    fn another_connection_confirms_nothing() {
        let fences = Arc::new(Fences::new());
        // The fence was queued when the connection was lost, and goes over the next one.
        let mut lost = sent(&fences, "a", 1);
        let token = fences.begin(1).expect("something to cover");
        fences.confirm(token, 2);
        assert!(matches!(ended(&mut lost), Some(Err(Failure::Disconnected))));
        // One that never comes back gives way as soon as there is another connection.
        let mut covered = sent(&fences, "a", 1);
        let stale = fences.begin(1).expect("something to cover");
        let mut begun_before = sent(&fences, "a", 1);
        let mut fresh = sent(&fences, "a", 2);
        let token = fences.begin(2).expect("the stale one gives way");
        assert!(matches!(
            ended(&mut covered),
            Some(Err(Failure::Disconnected))
        ));
        fences.confirm(stale, 2);
        assert!(ended(&mut fresh).is_none());
        fences.confirm(token, 2);
        assert!(matches!(
            ended(&mut begun_before),
            Some(Err(Failure::Disconnected))
        ));
        assert!(matches!(ended(&mut fresh), Some(Ok(()))));
    }

    #[test]
    fn a_lost_connection_ends_everything() {
        let fences = Arc::new(Fences::new());
        let mut tickets = [sent(&fences, "a", 1), fences.expect("a", 1, 1)];
        let token = fences.begin(1).expect("something to cover");
        fences.fail_all();
        for ticket in &mut tickets {
            assert!(matches!(ended(ticket), Some(Err(Failure::Disconnected))));
        }
        tickets[1].sent();
        assert_eq!(fences.begin(1), None, "nobody waits");
        fences.confirm(token, 1);
    }

    #[test]
    fn a_refusal_is_for_its_subject() {
        let fences = Arc::new(Fences::new());
        let [mut a, mut b] = ["a", "b"].map(|subject| sent(&fences, subject, 1));
        let token = fences.begin(1).expect("something to cover");
        fences.forbid("a");
        fences.confirm(token, 1);
        assert!(matches!(ended(&mut a), Some(Err(Failure::Forbidden))));
        assert!(matches!(ended(&mut b), Some(Ok(()))));
        let mut c = sent(&fences, "c", 1);
        fences.begin(1).expect("something to cover");
        fences.refuse_fence();
        assert!(matches!(ended(&mut c), Some(Err(Failure::Unfenced))));
    }

    #[test]
    fn of_a_size_that_is_not_allowed_the_largest_is_certain() {
        let fences = Arc::new(Fences::new());
        let mut small = sent(&fences, "a", 1);
        let mut large = fences.expect("a", 30, 1);
        fences.refuse_largest();
        let refused = ended(&mut large);
        assert!(matches!(refused, Some(Err(Failure::TooLarge(30)))));
        // It may have been one that its caller gave up, and that goes out after the next reconnect.
        drop(fences.expect("a", 40, 1));
        let medium = fences.expect("a", 30, 1);
        fences.fail_all();
        assert!(matches!(
            ended(&mut small),
            Some(Err(Failure::Disconnected))
        ));
        drop(medium);
        let mut probe = sent(&fences, "a", 2);
        let token = fences.begin(2).expect("something to cover");
        fences.refuse_largest();
        fences.refuse_largest();
        assert!(ended(&mut probe).is_none(), "neither was the probe");
        fences.confirm(token, 2);
        assert!(matches!(ended(&mut probe), Some(Ok(()))));
        let mut next = fences.expect("a", 5, 2);
        fences.refuse_largest();
        assert!(matches!(ended(&mut next), Some(Err(Failure::TooLarge(5)))));
    }

    #[test]
    fn more_refusals_than_the_client_queues_confirm_nothing() {
        let fences = Arc::new(Fences::new());
        let batch = |refusals: u32| {
            let mut ticket = sent(&fences, "a", 1);
            let token = fences.begin(1).expect("something to cover");
            (0..refusals).for_each(|_| fences.forbid("b"));
            fences.confirm(token, 1);
            ended(&mut ticket).expect("it has ended")
        };
        batch(ERRORS_QUEUED / 2).expect("few");
        let unclear = batch(ERRORS_QUEUED / 2).expect_err("too many for two fences");
        assert!(matches!(unclear, Failure::Unclear), "{unclear:?}");
        batch(ERRORS_QUEUED / 2 - 1).expect("few again");
    }

    #[test]
    fn a_waiter_that_goes_away_leaves_nothing_behind() {
        let fences = Arc::new(Fences::new());
        drop(sent(&fences, "a", 1));
        assert!(fences.lock().waiting.is_empty());
        let token = fences.begin(1).expect("it was sent");
        fences.confirm(token, 1);
        assert!(fences.lock().sent.is_empty() && fences.lock().under_way.is_none());
    }
}

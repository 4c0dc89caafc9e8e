//! Publishes that wait for their acknowledgement.
//!
//! The client has a table of its own for replies. It is not used because it forgets nothing: an entry whose
//! reply never comes stays for ever, and a lost connection leaves every waiter to its timeout.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::sink::nats_connection::stale::Stale;

/// How waiting for an acknowledgement ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server replied.
    Reply(Box<async_nats::Message>),
    /// The connection was lost; nobody knows whether the message was stored.
    Disconnected,
    /// The server does not allow publishing to that subject.
    Forbidden,
    /// It takes so many bytes, and the server allows fewer.
    TooLarge(usize),
}

/// All publishes of a connection that wait. Holds an entry for as long as the waiter lives, no longer.
#[derive(Debug, Default)]
pub(super) struct Acks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiter>,
    next_token: u64,
    stale: Stale,
}

#[derive(Debug)]
struct Waiter {
    subject: Box<str>,
    size: usize,
    sender: oneshot::Sender<Outcome>,
}

/// The right to one acknowledgement. Dropped, it forgets that it waited.
#[derive(Debug)]
pub(super) struct Ack {
    acks: Arc<Acks>,
    token: u64,
    receiver: oneshot::Receiver<Outcome>,
}

impl Acks {
    /// Begins to wait for a message of `size` bytes to `subject`: before it is sent, so that no reply can come too early.
    pub(super) fn expect(self: &Arc<Self>, subject: &str, size: usize) -> Ack {
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter {
            subject: subject.into(),
            size,
            sender,
        };
        let mut state = self.lock();
        let token = state.next_token;
        state.next_token += 1;
        state.waiting.insert(token, waiter);
        Ack {
            acks: Arc::clone(self),
            token,
            receiver,
        }
    }

    /// Hands a reply to its waiter.
    pub(super) fn resolve(&self, reply: async_nats::Message) {
        let Some(token) = token_of(&reply.subject) else {
            return;
        };
        let mut state = self.lock();
        state.stale.answered(token);
        if let Some(waiter) = state.waiting.remove(&token) {
            waiter.end(Outcome::Reply(Box::new(reply)));
        }
    }

    /// Ends the waiting for a reply to this subject, by its last token. If its waiter has gone, nothing is to be done.
    pub(super) fn end(&self, reply_to: &str, outcome: Outcome) {
        let waiter = token_of(reply_to).and_then(|token| self.lock().waiting.remove(&token));
        if let Some(waiter) = waiter {
            waiter.end(outcome);
        }
    }

    /// Ends all waiting: the connection is lost.
    pub(super) fn fail_all(&self) {
        let mut state = self.lock();
        for waiter in std::mem::take(&mut state.waiting).into_values() {
            state.give_up(waiter.size);
            waiter.end(Outcome::Disconnected);
        }
    }

    /// Ends the waiting for messages to `subject`: the server doesn't allow them.
    pub(super) fn forbid(&self, subject: &str) {
        let forbidden: Vec<Waiter> = self
            .lock()
            .waiting
            .extract_if(|_, waiter| &*waiter.subject == subject)
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in forbidden {
            waiter.end(Outcome::Forbidden);
        }
    }

    /// Ends the waiting for the largest message: the server has met one that is larger than it allows, and doesn't say
    /// which. The largest is too large in any case, unless it is one that nobody waits for.
    pub(super) fn refuse_largest(&self) {
        let mut state = self.lock();
        let largest = state.waiting.iter().max_by_key(|(_, waiter)| waiter.size);
        let largest = largest.map(|(token, waiter)| (*token, waiter.size));
        if state.stale.convicts(largest.map(|(_, size)| size))
            && let Some((token, size)) = largest
            && let Some(waiter) = state.waiting.remove(&token)
        {
            waiter.end(Outcome::TooLarge(size));
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
}

/// The last token of a reply subject, if it is one of ours.
fn token_of(subject: &str) -> Option<u64> {
    subject.rsplit('.').next()?.parse().ok()
}

impl Waiter {
    /// A waiter that went away in the meantime needs nothing.
    fn end(self, outcome: Outcome) {
        self.sender.send(outcome).ok();
    }
}

impl Ack {
    /// The last token of the reply subject.
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// Waits for the end. May be dropped and called again until it has returned.
    pub(super) async fn outcome(&mut self) -> Outcome {
        // The sender goes away unused only with the table itself.
        (&mut self.receiver).await.unwrap_or(Outcome::Disconnected)
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        let mut state = self.acks.lock();
        if let Some(waiter) = state.waiting.remove(&self.token) {
            state.give_up(waiter.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(token: u64) -> async_nats::Message {
        async_nats::Message {
            subject: format!("_INBOX.abc.{token}").into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[tokio::test]
    async fn each_reply_finds_its_waiter() {
        let acks = Arc::new(Acks::default());
        let (mut first, mut second) = (acks.expect("a", 1), acks.expect("a", 1));
        acks.resolve(reply(second.token()));
        acks.resolve(reply(first.token()));
        for ack in [&mut first, &mut second] {
            let token = ack.token();
            let Outcome::Reply(reply) = ack.outcome().await else {
                panic!("no reply for {token}");
            };
            assert_eq!(reply.subject.as_str(), format!("_INBOX.abc.{token}"));
        }
        assert!(acks.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_leaves_nothing_behind() {
        let acks = Arc::new(Acks::default());
        let ack = acks.expect("a", 1);
        let token = ack.token();
        assert_eq!(acks.lock().waiting.len(), 1);
        drop(ack);
        assert!(acks.lock().waiting.is_empty());
        acks.resolve(reply(token));
        let mut other = reply(0);
        other.subject = "_INBOX.abc.not-a-number".into();
        acks.resolve(other);
    }

    #[tokio::test]
    async fn of_a_size_that_is_not_allowed_the_largest_is_certain() {
        let acks = Arc::new(Acks::default());
        let (_small, mut large) = (acks.expect("a", 10), acks.expect("a", 30));
        acks.refuse_largest();
        assert!(matches!(large.outcome().await, Outcome::TooLarge(30)));
        assert_eq!(acks.lock().waiting.len(), 1);
        // It may have been one that its caller gave up, and that goes out after the next reconnect.
        drop(acks.expect("a", 40));
        let mut medium = acks.expect("a", 30);
        acks.fail_all();
        assert!(matches!(medium.outcome().await, Outcome::Disconnected));
        let mut probe = acks.expect("a", 20);
        acks.refuse_largest();
        acks.refuse_largest();
        assert_eq!(acks.lock().waiting.len(), 1, "neither was the probe");
        acks.resolve(reply(probe.token()));
        assert!(matches!(probe.outcome().await, Outcome::Reply(_)));
        let mut next = acks.expect("a", 5);
        acks.refuse_largest();
        assert!(matches!(next.outcome().await, Outcome::TooLarge(5)));
    }

    #[tokio::test]
    async fn a_lost_connection_ends_all_and_a_forbidden_subject_its_own() {
        let acks = Arc::new(Acks::default());
        let (mut allowed, mut forbidden) = (acks.expect("a", 1), acks.expect("b", 1));
        acks.forbid("b");
        assert!(matches!(forbidden.outcome().await, Outcome::Forbidden));
        assert_eq!(acks.lock().waiting.len(), 1, "the other one still waits");
        acks.fail_all();
        assert!(matches!(allowed.outcome().await, Outcome::Disconnected));
        assert!(acks.lock().waiting.is_empty());
    }
}

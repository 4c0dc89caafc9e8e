//! Publishes that wait for their acknowledgement.
//!
//! The client has a table of its own for replies. It is not used because it forgets nothing: an entry whose
//! reply never comes stays for ever, and a lost connection leaves every waiter to its timeout.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How waiting for an acknowledgement ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server replied.
    Reply(Box<async_nats::Message>),
    /// The connection was lost; nobody knows whether the message was stored.
    Disconnected,
    /// The server does not allow publishing to that subject.
    Forbidden,
}

/// All publishes of a connection that wait. Holds an entry for as long as the waiter lives, no longer.
#[derive(Debug, Default)]
pub(super) struct Acks {
    waiting: Mutex<HashMap<u64, Waiter>>,
    next_token: AtomicU64,
}

#[derive(Debug)]
struct Waiter {
    subject: Box<str>,
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
    /// Begins to wait for a message to `subject`: before it is sent, so that no reply can come too early.
    pub(super) fn expect(self: &Arc<Self>, subject: &str) -> Ack {
        let (sender, receiver) = oneshot::channel();
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let subject = subject.into();
        self.lock().insert(token, Waiter { subject, sender });
        Ack {
            acks: Arc::clone(self),
            token,
            receiver,
        }
    }

    /// Hands a reply to its waiter, by the last token of the subject it came on. A reply whose waiter has gone
    /// is dropped.
    pub(super) fn resolve(&self, reply: async_nats::Message) {
        let token = reply.subject.rsplit('.').next().map(str::parse);
        let Some(Ok(token)) = token else {
            return;
        };
        if let Some(waiter) = self.lock().remove(&token) {
            waiter.end(Outcome::Reply(Box::new(reply)));
        }
    }

    /// Ends all waiting: the connection is lost.
    pub(super) fn fail_all(&self) {
        let waiters = std::mem::take(&mut *self.lock());
        for waiter in waiters.into_values() {
            waiter.end(Outcome::Disconnected);
        }
    }

    /// Ends the waiting for messages to `subject`: the server doesn't allow them.
    pub(super) fn forbid(&self, subject: &str) {
        let forbidden: Vec<Waiter> = self
            .lock()
            .extract_if(|_, waiter| &*waiter.subject == subject)
            .map(|(_, waiter)| waiter)
            .collect();
        for waiter in forbidden {
            waiter.end(Outcome::Forbidden);
        }
    }

    /// No code that may panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.acks.lock().remove(&self.token);
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
        let (mut first, mut second) = (acks.expect("a"), acks.expect("a"));
        acks.resolve(reply(second.token()));
        acks.resolve(reply(first.token()));
        for ack in [&mut first, &mut second] {
            let token = ack.token();
            let Outcome::Reply(reply) = ack.outcome().await else {
                panic!("no reply for {token}");
            };
            assert_eq!(reply.subject.as_str(), format!("_INBOX.abc.{token}"));
        }
        assert!(acks.lock().is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_leaves_nothing_behind() {
        let acks = Arc::new(Acks::default());
        let ack = acks.expect("a");
        let token = ack.token();
        assert_eq!(acks.lock().len(), 1);
        drop(ack);
        assert!(acks.lock().is_empty());
        acks.resolve(reply(token));
        let mut other = reply(0);
        other.subject = "_INBOX.abc.not-a-number".into();
        acks.resolve(other);
    }

    #[tokio::test]
    async fn a_lost_connection_ends_all_and_a_forbidden_subject_its_own() {
        let acks = Arc::new(Acks::default());
        let (mut allowed, mut forbidden) = (acks.expect("a"), acks.expect("b"));
        acks.forbid("b");
        assert!(matches!(forbidden.outcome().await, Outcome::Forbidden));
        assert_eq!(acks.lock().len(), 1, "the other one still waits");
        acks.fail_all();
        assert!(matches!(allowed.outcome().await, Outcome::Disconnected));
        assert!(acks.lock().is_empty());
    }
}

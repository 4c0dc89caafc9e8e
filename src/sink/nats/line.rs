//! The line on which fences go out and come back, and whether that alone is what the server said.
//!
//! The client hands errors and messages to different tasks. So when a fence is seen, an error that the server wrote
//! before it may be on its way still. But bytes are counted as they are read, before anything is handed over: as long
//! as more bytes have come than fences and the errors heard explain, something is missing, and the fence waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Message, ServerError, Statistics, Subscriber};
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::fence::Fences;

/// How long an error may take from the socket to us once the client has read it. It is handed over at once; what this
/// allows for is a processor that is busy with other things. Bytes that nothing explains by then were a ping or the
/// like.
const HAND_OVER: Duration = Duration::from_millis(100);

/// The client's number for its first subscription, which the fences' is.
const SUBSCRIPTION: u64 = 1;

/// The errors that the server has sent, as far as they were heard.
#[derive(Debug, Default)]
pub(super) struct Errors {
    /// Bytes that they took on the wire.
    bytes: AtomicU64,
    more: Notify,
}

impl Errors {
    /// Counts one, after everything that it means was done.
    pub(super) fn heard(&self, error: &ServerError) {
        if let ServerError::Other(text) = error {
            let length = "-ERR ''\r\n".len() + text.len();
            self.bytes.fetch_add(length as u64, Ordering::Release);
            self.more.notify_one();
        }
    }
}

/// Sends fences and sees them come back.
#[derive(Debug)]
pub(super) struct Line {
    client: Client,
    statistics: Arc<Statistics>,
    inbox: String,
    returns: Subscriber,
    fences: Arc<Fences>,
    errors: Arc<Errors>,
    /// Bytes from the server that are explained: by fences and by nothing.
    explained: u64,
}

impl Line {
    /// The line whose fences go to `inbox` and come back on `returns`.
    pub(super) fn new(
        client: Client,
        inbox: String,
        returns: Subscriber,
        fences: Arc<Fences>,
        errors: Arc<Errors>,
    ) -> Self {
        Self {
            statistics: client.statistics(),
            client,
            inbox,
            returns,
            fences,
            errors,
            explained: 0,
        }
    }

    /// Runs until the connection is closed for good.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                returned = self.returns.next() => match returned {
                    Some(fence) => self.returned(&fence).await,
                    None => break,
                },
                () = self.fences.wanted() => (),
            }
            if let Some(token) = self.fences.begin(self.connection()) {
                let token = token.to_string().into();
                if self
                    .client
                    .publish(self.inbox.clone(), token)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        self.fences.fail_all();
    }

    async fn returned(&mut self, fence: &Message) {
        let token = std::str::from_utf8(&fence.payload).ok();
        let Some(token) = token.and_then(|token| token.parse().ok()) else {
            return;
        };
        let connection = self.connection();
        self.hear_everything_before(fence).await;
        self.fences.confirm(token, connection);
    }

    /// Waits until every error that was read before `fence` has been heard.
    async fn hear_everything_before(&mut self, fence: &Message) {
        self.explained += length_on_the_wire(fence);
        let received = self.statistics.in_bytes.load(Ordering::Acquire);
        let everything = async {
            // Errors are heard in the order in which they were read, so enough bytes of them are all of them.
            while self.explained + self.errors.bytes.load(Ordering::Acquire) < received {
                self.errors.more.notified().await;
            }
        };
        if timeout(HAND_OVER, everything).await.is_err() {
            self.explained = received.saturating_sub(self.errors.bytes.load(Ordering::Acquire));
        }
    }

    fn connection(&self) -> u64 {
        connection(&self.statistics)
    }
}

/// How many bytes a fence takes that comes back.
fn length_on_the_wire(fence: &Message) -> u64 {
    let (subject, payload) = (&fence.subject, &fence.payload);
    let line = format!("MSG {subject} {SUBSCRIPTION} {}\r\n", payload.len());
    (line.len() + payload.len() + "\r\n".len()) as u64
}

/// The number of the connection: it changes after one is lost and before anything is written to the next.
pub(super) fn connection(statistics: &Statistics) -> u64 {
    statistics.connects.load(Ordering::Acquire)
}

//! One connection for as long as it lasts: what is published over it, and how that is judged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::{Connection, Error, Event};
use tokio_util::sync::CancellationToken;

use super::alone::Alone;
use super::judge::Verdict;
use super::lane::{Lane, Outcome};
use super::parcel::Parcel;
use super::refusal::Failure;
use super::trust::Trust;
use crate::sabotage::{self, Sabotage};

/// How often a message is published anew because another one closed the channel that it was on.
const MAX_REPEATS: usize = 3;

/// A connection that works, or did a moment ago.
#[derive(Debug)]
pub(super) struct Session {
    connection: Arc<Connection>,
    lane: Lane,
    alone: Alone,
    trust: Trust,
    /// Why the broker blocks publishers, if it does.
    blocked: Mutex<Option<String>>,
    /// Cancelled when the connection is found dead.
    dead: CancellationToken,
}

impl Session {
    pub(super) async fn open(connection: Connection) -> Result<Self, Error> {
        let connection = Arc::new(connection);
        let dead = CancellationToken::new();
        Ok(Self {
            lane: Lane::open(Arc::clone(&connection), dead.clone()).await?,
            alone: Alone::new(Arc::clone(&connection)),
            trust: Trust::default(),
            blocked: Mutex::new(None),
            connection,
            dead,
        })
    }

    /// The longest frame that was agreed on, in bytes.
    pub(super) fn frame_max(&self) -> usize {
        self.connection.configuration().frame_max() as usize
    }

    /// Publishes and awaits the verdict. A message that is in flight on a channel when another one closes it is
    /// published again.
    pub(super) async fn publish(&self, parcel: Parcel) -> Outcome {
        if sabotage::is_on(Sabotage::NoConfirms) {
            let sent = self.lane.publish(parcel);
            drop(tokio::time::timeout(Duration::from_millis(1), sent).await);
            return Ok(Verdict::Taken);
        }
        // What was published into a blocked connection would go out when the alarm is over, long after its caller
        // has gone.
        if let Some(reason) = self.blocked() {
            return Err(Failure::Blocked(reason));
        }
        let mut outcome = Err(Failure::Disconnected);
        // Once it may have closed a channel it goes alone until its own verdict is known.
        let mut must_go_alone = false;
        for _ in 0..=MAX_REPEATS {
            if must_go_alone || self.trust.is_suspect(&parcel) {
                let alone = self.alone.publish(&parcel, &self.trust, must_go_alone);
                if let Some(outcome) = alone.await {
                    return outcome;
                }
            }
            outcome = self.lane.publish(parcel.clone()).await;
            match &outcome {
                Err(Failure::Channel(error)) if error.is_amqp_soft_error() => {
                    must_go_alone = self.trust.doubt(&parcel, error);
                }
                _ => return outcome,
            }
        }
        outcome
    }

    /// Takes note of an event of the connection.
    pub(super) fn react(&self, event: Event) {
        let blocked = match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(reason, "RabbitMQ blocks publishers");
                Some(reason)
            }
            Event::ConnectionUnblocked => {
                tracing::info!("RabbitMQ no longer blocks publishers");
                None
            }
            _ => return,
        };
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = blocked;
    }

    fn blocked(&self) -> Option<String> {
        let blocked = self.blocked.lock();
        blocked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Ends when a channel can't be opened any more.
    pub(super) async fn failed(&self) {
        self.dead.cancelled().await;
    }
}

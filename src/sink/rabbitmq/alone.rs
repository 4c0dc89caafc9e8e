//! A channel with one message in flight at a time, for messages that may close it (see [`super::trust`]).

use std::sync::Arc;

use lapin::{Channel, Confirmation, Connection};
use tokio::sync::Mutex;

use super::judge::Verdict;
use super::lane::{Outcome, confirming, publish, returned_of};
use super::parcel::Parcel;
use super::refusal::Failure;
use super::trust::Trust;

/// The channel, opened when it is needed. Callers take turns.
#[derive(Debug)]
pub(super) struct Alone {
    connection: Arc<Connection>,
    /// Not there while a message is in flight: if its caller goes away, so does the channel, with the confirm that
    /// nobody waits for any more.
    channel: Mutex<Option<Channel>>,
}

impl Alone {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            channel: Mutex::new(None),
        }
    }

    /// Publishes with nothing else in flight. `None`: while this waited for its turn it turned out that the message
    /// need not go alone.
    pub(super) async fn publish(
        &self,
        parcel: &Parcel,
        trust: &Trust,
        must: bool,
    ) -> Option<Outcome> {
        let before = trust.refusals();
        let mut slot = self.channel.lock().await;
        if !must && !trust.is_suspect(parcel) {
            return None;
        }
        // To ask for each that waits would hold up those to other exchanges behind them, and tell nothing new.
        if let Some(text) = trust.refusal_since(before, parcel) {
            return Some(Err(Failure::Told(text)));
        }
        let channel = match slot.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => match confirming(&self.connection).await {
                Ok(channel) => channel,
                Err(_) => return Some(Err(Failure::Disconnected)),
            },
        };
        let verdict = match publish(&channel, parcel.clone()).await {
            Ok(Confirmation::Ack(None)) => Verdict::Taken,
            Ok(Confirmation::Nack(_)) => Verdict::Nacked,
            // Nothing else is in flight, so it is this one.
            Ok(Confirmation::Ack(Some(returned))) => Verdict::Returned(returned_of(&returned)),
            Ok(Confirmation::NotRequested) => {
                return Some(Err(Failure::Confused(
                    "RabbitMQ confirms nothing although it was asked to",
                )));
            }
            Err(error) => {
                trust.failed(parcel, &error);
                return Some(Err(Failure::Alone(error)));
            }
        };
        *slot = Some(channel);
        trust.passed(parcel);
        Some(Ok(verdict))
    }
}

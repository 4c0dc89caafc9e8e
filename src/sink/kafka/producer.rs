//! Producers, one after the other: what is handed to the present one, and what becomes of that when it is given up.
//!
//! A producer that can't go on in order is given up at once: nothing more is handed to it, and what it holds is
//! purged. Only when each of its messages was answered, and its connections are closed, is the next one made. So
//! no message succeeds behind one that failed, and whoever sends the failed ones once more sends all of them.
//!
//! Nor is anything taken by the next one before everybody who waits has heard that it must begin again: what was
//! handed over in between would go before what failed.
//!
//! A purged message may still be with a broker. If it is stored, that is what a lost acknowledgement looks like: the
//! new producer sends it again, and everything behind it. Both do so in the same order, from the first that was
//! not acknowledged, so that first deliveries stay in order.

mod succession;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::oneshot;

use super::complaints::Complaints;
use super::doubts::Doubts;
use super::firsts::{Firsts, Key, Turn};
use super::record;
use super::refusal::{self, Failure};
use super::reports::{Answer, Luggage, Reports};
use crate::error::{Meaning, PublishError};
use crate::sink::Message;
use crate::sink::connect::ConnectError;

pub(super) use self::succession::begin;

type Producer = BaseProducer<Reports>;

/// A message that is on its way.
pub(super) type Sent = oneshot::Receiver<Result<(), PublishError>>;

/// Held by everybody who has handed over a message and has not heard what became of it.
pub(super) type Waiting = Arc<()>;

/// The present producer of a sink, if there is one.
#[derive(Debug)]
pub(super) struct Line {
    slot: Mutex<Slot>,
    /// Told when the line is closed.
    closed: Condvar,
    doubts: Doubts,
    waiting: Waiting,
}

#[derive(Default)]
struct Slot {
    /// A producer was given up, and not everybody who waited has heard of it: they don't know yet that they must
    /// begin again from the first that failed.
    is_broken: bool,
    producer: Option<Arc<Producer>>,
    /// Which producer this is; reports of an earlier one come late.
    number: u64,
    firsts: Firsts<Parcel>,
    /// The producer takes nothing more, and is made anew when it has answered for what it holds.
    is_retiring: bool,
    is_closed: bool,
    complaints: Complaints,
}

/// A message as the client takes it, and who waits for its answer.
#[derive(Debug)]
struct Parcel {
    topic: String,
    message: Message,
    headers: OwnedHeaders,
    answer: Answer,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("is_open", &self.producer.is_some())
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

impl Line {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Every statement leaves it whole, so a panic elsewhere has not broken it.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubts(&self) -> &Doubts {
        &self.doubts
    }

    /// To be held from before a message is sent until its future ends, even if it fails at once.
    pub(super) fn waiting(&self) -> Waiting {
        Arc::clone(&self.waiting)
    }

    /// Hands a message to the client, which never waits, or holds it behind the first of its key. Messages of a key
    /// are published in the order of these calls, which are made one at a time.
    pub(super) fn send(&self, topic: &str, message: &Message) -> Result<Sent, PublishError> {
        let headers = record::headers(message)?;
        if self.doubts.is_forbidden(topic) {
            return Err(PublishError::invalid(
                "the broker said a moment ago that it doesn't allow this user to write to the topic",
            ));
        }
        let (answer, sent) = oneshot::channel();
        // Held while the client takes it, so that nothing is handed to a producer that was given up.
        let mut slot = self.slot();
        // Our own, and that of this message.
        slot.is_broken &= Arc::strong_count(&self.waiting) > 2;
        let takes_none = slot.is_broken || slot.is_retiring;
        let Some(producer) = slot.producer.clone().filter(|_| !takes_none) else {
            slot.is_broken = true;
            return Err(made_anew());
        };
        let key = message.key().map(|key| slot.firsts.key(topic, key));
        let turn = key.map_or(Turn::Goes, |key| slot.firsts.turn(key));
        if let (Some(key), Turn::Waits) = (key, &turn) {
            let parcel = Parcel {
                topic: topic.to_owned(),
                message: message.clone(),
                headers,
                answer,
            };
            slot.firsts.hold(key, parcel);
            return Ok(sent);
        }
        let first_of = key.filter(|_| turn == Turn::GoesFirst);
        let luggage = Luggage { answer, first_of };
        match hand_over(&producer, topic, message, headers, luggage) {
            Ok(()) => {
                if let Some(key) = first_of {
                    slot.firsts.goes(key, VecDeque::new());
                }
                Ok(sent)
            }
            Err((error, _)) => {
                // While the slot is ours, for the last one to let go of a producer waits for it.
                drop(producer);
                drop(slot);
                let error = self.refused_by_client(error, topic);
                if error.meaning() == Meaning::Unavailable {
                    self.give_up(&error.chain());
                }
                Err(error)
            }
        }
    }

    /// What waits behind the first message of a key goes: all of it if that was taken, the next one if it was not.
    pub(super) fn first_ended(&self, number: u64, key: Key, was_taken: bool) {
        let mut slot = self.slot();
        let producer = slot.producer.clone();
        let Some(producer) = producer.filter(|_| slot.number == number) else {
            // It was given up, and so was what waited.
            return;
        };
        let mut behind = slot.firsts.ended(key, was_taken);
        let first_of = (!was_taken).then_some(key);
        let mut failed = Vec::new();
        while let Some(parcel) = behind.pop_front() {
            let Parcel {
                topic,
                message,
                headers,
                answer,
            } = parcel;
            let luggage = Luggage { answer, first_of };
            match hand_over(&producer, &topic, &message, headers, luggage) {
                Ok(()) if was_taken => {}
                Ok(()) => {
                    slot.firsts.goes(key, behind);
                    break;
                }
                Err((error, answer)) => {
                    let error = self.refused_by_client(error, &topic);
                    let is_outage = error.meaning() == Meaning::Unavailable;
                    failed.push((answer, error));
                    if is_outage {
                        // To be given up with the producer.
                        slot.firsts.goes(key, behind);
                        break;
                    }
                }
            }
        }
        drop(slot);
        for (answer, error) in failed {
            if error.meaning() == Meaning::Unavailable {
                self.give_up(&error.chain());
            }
            answer.send(Err(error)).ok();
        }
    }

    fn refused_by_client(&self, error: KafkaError, topic: &str) -> PublishError {
        refusal::by_client(Failure {
            error,
            is_alone: true,
            topic_was_there: self.doubts.has_taken(topic),
        })
    }

    /// Hands nothing more to the present producer, if there is one, and purges what it holds.
    pub(super) fn give_up(&self, reason: &str) {
        let (producer, held) = {
            let mut slot = self.slot();
            slot.is_broken = true;
            slot.is_retiring = false;
            (slot.producer.take(), slot.firsts.give_up())
        };
        if let Some(producer) = producer {
            tracing::warn!(reason, "the Kafka producer is given up and made anew");
            purge(&producer);
        }
        for parcel in held {
            parcel.answer.send(Err(made_anew())).ok();
        }
    }

    /// Ends everything without waiting for it.
    pub(super) fn close(&self) {
        let producer = {
            let mut slot = self.slot();
            slot.is_closed = true;
            slot.firsts = Firsts::default();
            slot.producer.take()
        };
        self.closed.notify_all();
        if let Some(producer) = producer {
            purge(&producer);
        }
    }

    /// The client says so of its connections.
    pub(super) fn complain(&self, code: RDKafkaErrorCode, reason: &str) {
        self.slot().complaints.hear(code, reason);
    }

    /// Why no broker will answer, as far as that is known.
    pub(super) fn obstacle(&self) -> Option<ConnectError> {
        self.slot().complaints.obstacle()
    }

    /// The cluster's id, once a broker has answered. Waits up to `limit`.
    pub(super) fn cluster(&self, limit: Duration) -> Option<String> {
        let producer = self.slot().producer.clone()?;
        producer.client().fetch_cluster_id(limit)
    }
}

fn made_anew() -> PublishError {
    PublishError::unavailable("the Kafka producer is made anew")
}

/// Has the client take a message; if it doesn't, the answer comes back.
fn hand_over(
    producer: &Producer,
    topic: &str,
    message: &Message,
    headers: OwnedHeaders,
    luggage: Luggage,
) -> Result<(), (KafkaError, Answer)> {
    let mut record = BaseRecord::with_opaque_to(topic, Box::new(luggage))
        .payload(message.body.as_ref())
        .headers(headers);
    if let Some(key) = message.key() {
        record = record.key(key);
    }
    let refused = producer.send(record);
    refused.map_err(|(error, record)| (error, record.delivery_opaque.answer))
}

/// Has the client report on everything that it holds. Broker threads do their part in their own time: one that
/// looks a name up can take seconds.
fn purge(producer: &Producer) {
    producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
}

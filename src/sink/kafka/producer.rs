//! Producers, one after the other, on a thread of their own.
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
//!
//! The thread also ends producers, for that waits: the runtime's threads never do.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::oneshot;

use super::doubts::Doubts;
use super::firsts::{Firsts, Key, Turn};
use super::record;
use super::refusal::{self, Failure};
use super::reports::{Answer, Luggage, Reports};
use super::settings::{Settings, refused_setting};
use crate::backoff::Backoff;
use crate::error::{Meaning, PublishError};
use crate::sink::Message;
use crate::sink::connect::ConnectError;

type Producer = BaseProducer<Reports>;

/// How often the thread looks whether it is to go on; reports are handed on as they come.
const POLL: Duration = Duration::from_millis(100);

/// How long a producer that retires may take to answer for what it holds. What is for a partition without a leader it
/// holds for ever, and nothing at all is published meanwhile.
const RETIRING: Duration = Duration::from_secs(1);

/// How long a closed producer may take to answer for what it holds. Nobody waits for that any more.
const CLOSING: Duration = Duration::from_secs(5);

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
    complaint: Option<Complaint>,
}

/// A message as the client takes it, and who waits for its answer.
#[derive(Debug)]
struct Parcel {
    topic: String,
    message: Message,
    headers: OwnedHeaders,
    answer: Answer,
}

/// The worst that the client has said of its connections.
#[derive(Debug)]
struct Complaint {
    code: RDKafkaErrorCode,
    reason: String,
    all_down: bool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("is_open", &self.producer.is_some())
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

/// Makes the first producer, and starts the thread that polls it and makes its successors.
///
/// # Errors
///
/// `Config` if the client refuses its settings.
pub(super) fn begin(settings: Settings) -> Result<Arc<Line>, ConnectError> {
    let line = Arc::new(Line {
        slot: Mutex::default(),
        closed: Condvar::new(),
        doubts: Doubts::default(),
        waiting: Waiting::default(),
    });
    let first = line.make(&settings).map_err(refused_setting)?;
    let thread = std::thread::Builder::new().name("kafka".to_owned());
    let span = tracing::Span::current();
    let running = Arc::clone(&line);
    thread
        .spawn(move || span.in_scope(|| running.run(first, &settings)))
        .map_err(|error| {
            ConnectError::unavailable("no thread for the Kafka client").caused_by(error)
        })?;
    Ok(line)
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

    /// Hands nothing more to the present producer, and lets it go if it has answered for what it holds: nothing of
    /// that fails, and what is handed over meanwhile does.
    fn retire(&self, producer: &Arc<Producer>) {
        let mut slot = self.slot();
        let present = slot.producer.as_ref();
        if !present.is_some_and(|present| Arc::ptr_eq(present, producer)) {
            return;
        }
        // Nothing is handed over between this look and the end.
        slot.is_retiring = producer.in_flight_count() > 0;
        if !slot.is_retiring {
            slot.producer = None;
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

    /// Remembers the worst that the client says of its connections: it says it before it says that all are down.
    pub(super) fn complain(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut slot = self.slot();
        let all_down = code == RDKafkaErrorCode::AllBrokersDown;
        match &mut slot.complaint {
            Some(complaint) if all_down => complaint.all_down = true,
            _ => {
                slot.complaint = Some(Complaint {
                    code,
                    reason: reason.to_owned(),
                    all_down,
                });
            }
        }
    }

    /// The cluster's id, once a broker has answered. Waits up to `limit`.
    pub(super) fn cluster(&self, limit: Duration) -> Option<String> {
        let producer = self.slot().producer.clone()?;
        producer.client().fetch_cluster_id(limit)
    }

    /// Why no broker will answer, as far as that is known.
    pub(super) fn obstacle(&self) -> Option<ConnectError> {
        let slot = self.slot();
        let complaint = slot.complaint.as_ref()?;
        let reason = complaint.reason.clone();
        match complaint.code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                Some(ConnectError::config("auth", reason))
            }
            RDKafkaErrorCode::SSL => Some(ConnectError::config("tls", reason)),
            _ => complaint
                .all_down
                .then(|| ConnectError::unavailable(format!("no broker can be reached: {reason}"))),
        }
    }

    fn make(self: &Arc<Self>, settings: &Settings) -> Result<Arc<Producer>, KafkaError> {
        let alone = self.doubts.begin();
        let client = settings.client(alone);
        let number = self.slot().number + 1;
        let reports = Reports::new(Arc::clone(self), alone, number);
        let producer = Arc::new(Producer::from_config_and_context(&client, reports)?);
        let mut slot = self.slot();
        if !slot.is_closed {
            slot.number = number;
            slot.firsts = Firsts::default();
            slot.producer = Some(Arc::clone(&producer));
        }
        Ok(producer)
    }

    /// Serves one producer after the other until the line is closed.
    fn run(self: &Arc<Self>, first: Arc<Producer>, settings: &Settings) {
        let mut next = Some(first);
        let mut backoff = Backoff::source();
        while let Some(producer) = next.take() {
            self.serve(&producer);
            // Here and nowhere else: this waits until its connections are closed.
            drop(producer);
            while next.is_none() && !self.slot().is_closed {
                match self.make(settings) {
                    Ok(producer) => {
                        backoff.succeeded();
                        next = Some(producer);
                    }
                    Err(error) => {
                        let delay = backoff.failed();
                        let error = crate::error::chain(&refused_setting(error));
                        tracing::error!(error, ?delay, "no Kafka producer can be made");
                        self.wait(delay);
                    }
                }
            }
        }
    }

    /// Hands on what the producer tells, until it was given up and has answered for every message.
    fn serve(&self, producer: &Arc<Producer>) {
        let is_present = || {
            let slot = self.slot();
            let present = slot.producer.as_ref();
            present.is_some_and(|present| Arc::ptr_eq(present, producer))
        };
        let mut retires_since = None;
        while is_present() {
            producer.poll(POLL);
            if let Some((_, reason)) = producer.client().fatal_error() {
                // What it holds would wait for ever.
                self.give_up(&reason);
            } else if retires_since.is_some() || self.doubts.trusts_batches_again() {
                // To the end, whatever is refused meanwhile: it takes nothing more.
                let since = *retires_since.get_or_insert_with(Instant::now);
                if since.elapsed() < RETIRING {
                    self.retire(producer);
                } else {
                    self.give_up("what it still holds is for partitions that take nothing now");
                }
            }
        }
        let since = Instant::now();
        let is_left = || self.slot().is_closed && since.elapsed() >= CLOSING;
        let mut purge_at = since + POLL;
        while producer.in_flight_count() > 0 && !is_left() {
            producer.poll(Duration::from_millis(1));
            if Instant::now() >= purge_at {
                // What the client moved from one queue to another while they were purged is still there.
                purge(producer);
                purge_at = Instant::now() + POLL;
            }
        }
    }

    /// Until the delay is over or the line is closed.
    fn wait(&self, delay: Duration) {
        let slot = self.slot();
        let waited = self
            .closed
            .wait_timeout_while(slot, delay, |slot| !slot.is_closed);
        drop(waited);
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

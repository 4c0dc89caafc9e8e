//! The thread on which one producer follows the other: it polls the present one, and makes the next.
//!
//! It also ends producers, for that waits: the runtime's threads never do.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::{Doubts, Firsts, Line, Producer, Reports, Waiting, purge};
use crate::backoff::Backoff;
use crate::sink::connect::ConnectError;
use crate::sink::kafka::settings::{Settings, refused_setting};

/// How often the thread looks whether it is to go on; reports are handed on as they come.
const POLL: Duration = Duration::from_millis(100);

/// How long a producer that retires may take to answer for what it holds. What is for a partition without a leader it
/// holds for ever, and nothing at all is published meanwhile.
const RETIRING: Duration = Duration::from_secs(1);

/// How long a closed producer may take to answer for what it holds. Nobody waits for that any more.
const CLOSING: Duration = Duration::from_secs(5);

/// Makes the first producer, and starts the thread that polls it and makes its successors.
///
/// # Errors
///
/// `Config` if the client refuses its settings.
pub(in crate::sink::kafka) fn begin(settings: Settings) -> Result<Arc<Line>, ConnectError> {
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

    /// Until the delay is over or the line is closed.
    fn wait(&self, delay: Duration) {
        let slot = self.slot();
        let waited = self
            .closed
            .wait_timeout_while(slot, delay, |slot| !slot.is_closed);
        drop(waited);
    }
}

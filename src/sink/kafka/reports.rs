//! What the client tells: delivery reports, errors, and its log.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

use super::firsts::Key;
use super::producer::Line;
use super::refusal::{self, Failure};
use crate::error::{Meaning, PublishError};

/// Where the answer about a message goes.
pub(super) type Answer = oneshot::Sender<Result<(), PublishError>>;

/// What travels with a message through the client.
#[derive(Debug)]
pub(super) struct Luggage {
    pub(super) answer: Answer,
    /// Others of this key wait for what becomes of it.
    pub(super) first_of: Option<Key>,
}

/// Receives what one producer tells, on the thread that polls it.
#[derive(Debug)]
pub(super) struct Reports {
    line: Arc<Line>,
    /// Whether each message is a batch of its own. This producer's, for what the next one does must not change how
    /// the rest of a refused batch is judged.
    sends_alone: bool,
    /// Which of the line's producers it is, by number.
    number: u64,
}

impl Reports {
    pub(super) fn new(line: Arc<Line>, sends_alone: bool, number: u64) -> Self {
        Self {
            line,
            sends_alone,
            number,
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Luggage>;

    fn delivery(&self, result: &DeliveryResult<'_>, luggage: Box<Luggage>) {
        let doubts = self.line.doubts();
        let answer = match result {
            Ok(message) => {
                doubts.took(message.topic());
                Ok(())
            }
            Err((error, message)) => {
                let topic = message.topic();
                let failure = Failure {
                    error: error.clone(),
                    is_alone: self.sends_alone,
                    topic_was_there: doubts.has_taken(topic),
                };
                if failure.is_forbidden() {
                    doubts.forbid(topic);
                }
                if failure.is_of_batch() {
                    doubts.distrust_batches();
                }
                let error = refusal::classify(failure);
                if error.meaning() == Meaning::Unavailable {
                    self.line.give_up(&error.chain());
                }
                Err(error)
            }
        };
        if let Some(key) = luggage.first_of {
            self.line.first_ended(self.number, key, answer.is_ok());
        }
        // Nobody waits any more if the pipeline has ended.
        luggage.answer.send(answer).ok();
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Settings that it thinks odd, at each producer: the relay's own are meant so.
            _ if facility == "CONFWARN" => tracing::debug!(message, "the Kafka client says"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(facility, message, "the Kafka client warns");
            }
            _ => tracing::debug!(facility, message, "the Kafka client says"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {
        // Only if `options."statistics.interval.ms"` asks for them; the relay's own metrics say what counts.
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        if code == RDKafkaErrorCode::Fatal {
            self.line.give_up(reason);
        } else {
            // It is in the log too.
            self.line.complain(code, reason);
        }
    }
}

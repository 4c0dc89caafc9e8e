//! What the client tells: delivery reports, errors, and its log.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

use super::producer::Line;
use super::refusal::{self, Failure};
use crate::error::{Meaning, PublishError};

/// Where the answer about a message goes.
pub(super) type Answer = oneshot::Sender<Result<(), PublishError>>;

/// What travels with a message through the client.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) answer: Answer,
    /// What the message weighs in a batch, at least.
    pub(super) size: usize,
}

/// Receives what one producer tells, on the thread that polls it.
#[derive(Debug)]
pub(super) struct Reports {
    line: Arc<Line>,
}

impl Reports {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Self { line }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
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
                    is_alone: doubts.is_alone(receipt.size),
                    topic_was_there: doubts.has_taken(topic),
                };
                if failure.is_forbidden() {
                    doubts.forbid(topic);
                }
                let blames_batch = failure.blames_batch();
                let error = refusal::classify(failure);
                if error.meaning() == Meaning::Unavailable
                    && self.line.give_up(&error.chain())
                    && blames_batch
                {
                    // Once per producer: all of a batch are reported, and other batches may follow.
                    doubts.shrink_batches();
                }
                Err(error)
            }
        };
        // Nobody waits any more if the pipeline has ended.
        receipt.answer.send(answer).ok();
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

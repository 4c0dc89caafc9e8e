//! What a message that was not acknowledged means for its event.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::PublishError;

/// Why a message was not acknowledged.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the client says.
    pub(super) error: KafkaError,
    /// Whether the message shares its batch with no other, or never was in one.
    pub(super) is_alone: bool,
    /// Whether its topic has taken messages of this producer before.
    pub(super) topic_was_there: bool,
}

/// What the error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// This very message.
    Message(&'static str),
    /// A message of the batch, and perhaps not this one.
    Batch(&'static str),
    /// Its topic isn't there.
    Topic,
    /// Nothing that a message could help.
    Outage(&'static str),
}

impl Failure {
    /// Whether a broker has refused a batch as a whole, for one of its messages.
    pub(super) fn is_of_batch(&self) -> bool {
        matches!(verdict(self.code()), Verdict::Batch(_))
    }

    /// Whether the brokers don't let us write to the topic.
    pub(super) fn is_forbidden(&self) -> bool {
        self.code() == Some(Code::TopicAuthorizationFailed)
    }

    fn code(&self) -> Option<Code> {
        self.error.rdkafka_error_code()
    }
}

/// What a broker's answer means, or the lack of one: the one place that decides between an outage and a rejection.
pub(super) fn classify(failure: Failure) -> PublishError {
    judge(failure, PublishError::rejected)
}

/// The same for what the client doesn't take: no broker was asked, so that a refusal says nothing of whether one
/// is there.
pub(super) fn by_client(failure: Failure) -> PublishError {
    judge(failure, PublishError::invalid)
}

fn judge(failure: Failure, refused: fn(&'static str) -> PublishError) -> PublishError {
    let (is_refused, context) = match verdict(failure.code()) {
        Verdict::Message(context) => (true, context),
        Verdict::Batch(context) if failure.is_alone => (true, context),
        Verdict::Batch(_) => (
            false,
            "the broker refused a batch for one of its messages; each will go alone to show which",
        ),
        // A broker that has just started may not know all topics yet, and the client believes it at once. A new
        // producer asks for as long as a new topic may take to show, and then it is so.
        Verdict::Topic if failure.topic_was_there => (
            false,
            "the topic is gone; a new producer asks for it once more",
        ),
        Verdict::Topic => (true, "the topic doesn't exist"),
        Verdict::Outage(context) => (false, context),
    };
    let error = if is_refused {
        refused(context)
    } else {
        PublishError::unavailable(context)
    };
    error.caused_by(failure.error)
}

fn verdict(code: Option<Code>) -> Verdict {
    use Verdict::{Batch, Message, Outage, Topic};
    match code {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Batch(
            "the message is larger than the client (options.\"message.max.bytes\") or its topic \
             (max.message.bytes) allows",
        ),
        Some(Code::MessageBatchTooLarge) => {
            Batch("the topic's segments are too small for the batch")
        }
        // Also what old brokers say of a message without a key in a compacted topic.
        Some(Code::InvalidMessage) => {
            Batch("the broker found the message corrupt, or without a key")
        }
        // Some brokers name the message, and all others of the batch fail as `InvalidDifferentRecord`; those of before
        // Kafka 2.4 and some that aren't Kafka say it of the whole batch.
        Some(Code::InvalidTimestamp) => Batch("the broker refused the message's timestamp"),
        Some(Code::InvalidRecord) => Batch("the broker found the record invalid"),
        Some(Code::PolicyViolation) => Batch("the broker's policy refused the message"),
        Some(Code::TopicAuthorizationFailed) => {
            Message("the broker doesn't allow this user to write to the topic")
        }
        Some(Code::InvalidTopic) => Message("the broker doesn't take the topic's name"),
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => Topic,
        Some(Code::InvalidDifferentRecord) => {
            Outage("the broker refused another message of the batch")
        }
        Some(Code::UnknownPartition) => Outage("the topic has lost a partition"),
        Some(Code::ClusterAuthorizationFailed) => {
            Outage("the broker doesn't allow this user an idempotent producer (IdempotentWrite)")
        }
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
            Outage("the broker refused the credentials")
        }
        Some(Code::SSL) => Outage("there is no TLS connection to a broker"),
        Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
            Outage("no broker can be reached")
        }
        Some(
            Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::KafkaStorageError,
        ) => Outage("the partition can't take messages now"),
        Some(Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut) => {
            Outage("the broker did not answer in time")
        }
        Some(Code::PurgeQueue | Code::PurgeInflight | Code::Retry) => {
            Outage("an earlier message failed, and this one goes behind it")
        }
        Some(
            Code::Fatal
            | Code::GaplessGuarantee
            | Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::ProducerFenced
            | Code::Fenced,
        ) => Outage("the producer can't go on in order and is made anew"),
        Some(Code::QueueFull) => Outage("the client's queue is full"),
        // What nobody knows says nothing against this message.
        _ => Outage("the message could not be published"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Meaning::{Invalid, Rejected, Unavailable};

    fn failure(code: Code, is_alone: bool, topic_was_there: bool) -> Failure {
        Failure {
            error: KafkaError::MessageProduction(code),
            is_alone,
            topic_was_there,
        }
    }

    #[test]
    fn what_is_an_outage_and_what_a_rejection() {
        let cases = [
            (Code::MessageSizeTooLarge, Rejected),
            (Code::InvalidMessageSize, Rejected),
            (Code::MessageBatchTooLarge, Rejected),
            (Code::InvalidMessage, Rejected),
            (Code::InvalidTimestamp, Rejected),
            (Code::InvalidRecord, Rejected),
            (Code::PolicyViolation, Rejected),
            (Code::TopicAuthorizationFailed, Rejected),
            (Code::InvalidTopic, Rejected),
            (Code::UnknownTopic, Rejected),
            (Code::UnknownTopicOrPartition, Rejected),
            (Code::InvalidDifferentRecord, Unavailable),
            (Code::UnknownPartition, Unavailable),
            (Code::ClusterAuthorizationFailed, Unavailable),
            (Code::Authentication, Unavailable),
            (Code::SaslAuthenticationFailed, Unavailable),
            (Code::SSL, Unavailable),
            (Code::AllBrokersDown, Unavailable),
            (Code::BrokerTransportFailure, Unavailable),
            (Code::Resolve, Unavailable),
            (Code::NotEnoughReplicas, Unavailable),
            (Code::NotEnoughReplicasAfterAppend, Unavailable),
            (Code::LeaderNotAvailable, Unavailable),
            (Code::NotLeaderForPartition, Unavailable),
            (Code::KafkaStorageError, Unavailable),
            (Code::MessageTimedOut, Unavailable),
            (Code::RequestTimedOut, Unavailable),
            (Code::PurgeQueue, Unavailable),
            (Code::PurgeInflight, Unavailable),
            (Code::Fatal, Unavailable),
            (Code::GaplessGuarantee, Unavailable),
            (Code::OutOfOrderSequenceNumber, Unavailable),
            (Code::UnknownProducerId, Unavailable),
            (Code::InvalidProducerEpoch, Unavailable),
            (Code::Fenced, Unavailable),
            (Code::QueueFull, Unavailable),
            (Code::Unknown, Unavailable),
        ];
        for (code, meaning) in cases {
            let error = classify(failure(code, true, false));
            assert_eq!(error.meaning(), meaning, "{code:?}");
            let shown = error.chain();
            assert!(
                shown.contains(": "),
                "the client's own words follow: {shown}"
            );
        }
    }

    #[test]
    fn a_batch_is_blamed_only_if_the_message_was_not_alone() {
        for code in [
            Code::MessageSizeTooLarge,
            Code::InvalidMessage,
            Code::InvalidTimestamp,
            Code::InvalidRecord,
        ] {
            let among_others = failure(code, false, true);
            assert!(among_others.is_of_batch());
            assert_eq!(classify(among_others).meaning(), Unavailable, "{code:?}");
        }
        let named = failure(Code::InvalidTopic, false, true);
        assert!(!named.is_of_batch());
        assert_eq!(classify(named).meaning(), Rejected);
        let innocent = failure(Code::InvalidDifferentRecord, false, true);
        assert!(!innocent.is_of_batch());
        assert_eq!(classify(innocent).meaning(), Unavailable);
        assert!(!failure(Code::BrokerTransportFailure, false, true).is_of_batch());
    }

    #[test]
    fn what_only_the_client_refuses_is_no_brokers_answer() {
        for code in [Code::MessageSizeTooLarge, Code::TopicAuthorizationFailed] {
            assert_eq!(by_client(failure(code, true, true)).meaning(), Invalid);
        }
        let full = failure(Code::QueueFull, true, true);
        assert_eq!(by_client(full).meaning(), Unavailable);
    }

    #[test]
    fn a_topic_that_had_been_there_is_asked_for_once_more() {
        for code in [Code::UnknownTopic, Code::UnknownTopicOrPartition] {
            assert_eq!(classify(failure(code, true, true)).meaning(), Unavailable);
        }
    }
}

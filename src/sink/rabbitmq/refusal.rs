//! What a publish that the broker did not take means for its event.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

use super::judge::Verdict;
use crate::error::PublishError;
use crate::excerpt::Excerpt;
use crate::sink::Destination;

/// Why there is no verdict on a publish.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// There is no connection, or it was lost while the verdict was awaited.
    Disconnected,
    /// The broker blocks publishers: memory or disk alarm.
    Blocked(String),
    /// The broker said something that fits nothing in flight, so that no verdict can be relied on.
    Confused(&'static str),
    /// The broker refused this exchange, in these words, while the message was waiting for its turn to ask.
    Told(String),
    /// A queue did not take another message for this destination a moment ago, and was not asked for this one.
    Full(Destination),
    /// The channel ended while the message was in flight on it, with others.
    Channel(lapin::Error),
    /// The channel ended, and nothing but this message was in flight on it.
    Alone(lapin::Error),
    /// The connection ended, and nothing but this message was in flight on it.
    Suspected(lapin::Error),
    /// It did so again, and the broker took others to the same exchange in between.
    Accused(lapin::Error),
}

/// What the broker's verdict means.
pub(super) fn read(verdict: Verdict, destination: &Destination) -> Result<(), PublishError> {
    let destination = shown(destination);
    match verdict {
        Verdict::Taken => Ok(()),
        Verdict::Returned(returned) => Err(PublishError::rejected(format!(
            "RabbitMQ routed the message to no queue ({}): {destination}",
            returned.reason
        ))),
        // A queue with a limit and overflow = reject-publish is full, or a queue's process failed: it will take
        // the message once that is over, and says nothing of other queues.
        Verdict::Nacked => Err(PublishError::busy(format!(
            "a queue did not take the message (basic.nack), is it full? {destination}"
        ))),
    }
}

fn shown(destination: &Destination) -> String {
    match destination {
        Destination::Exchange {
            exchange,
            routing_key,
        } if exchange.is_empty() => format!("queue {}", Excerpt(routing_key)),
        Destination::Exchange {
            exchange,
            routing_key,
        } => format!(
            "exchange {} with routing key {}",
            Excerpt(exchange),
            Excerpt(routing_key)
        ),
        other => other.to_string(),
    }
}

/// The one place that decides between an outage and a rejection.
pub(super) fn classify(failure: Failure) -> PublishError {
    match failure {
        Failure::Disconnected => PublishError::unavailable("there is no connection to RabbitMQ"),
        Failure::Blocked(reason) => {
            PublishError::unavailable(format!("RabbitMQ blocks publishers: {reason}"))
        }
        Failure::Confused(what) => PublishError::unavailable(what),
        Failure::Told(text) => {
            PublishError::rejected(format!("RabbitMQ refused the message's exchange: {text}"))
        }
        Failure::Full(destination) => PublishError::busy(format!(
            "a queue did not take another message a moment ago (basic.nack), is it full? {}",
            shown(&destination)
        )),
        Failure::Channel(error) => {
            PublishError::unavailable("the channel to RabbitMQ was closed").caused_by(error)
        }
        Failure::Alone(error) if blames_message(&error) => {
            PublishError::rejected(format!("RabbitMQ refused the message: {}", text_of(&error)))
                .caused_by(error)
        }
        Failure::Suspected(error) => PublishError::busy(
            "RabbitMQ ended the connection while this message alone was on its way",
        )
        .caused_by(error)
        .unanswered(),
        Failure::Accused(error) => PublishError::rejected(
            "RabbitMQ ended the connection each time this message alone was on its way, and took others in between",
        )
        .caused_by(error)
        .unanswered(),
        Failure::Alone(error) => {
            PublishError::unavailable("RabbitMQ could not take the message").caused_by(error)
        }
    }
}

/// Whether the broker closed a channel because of a message on it.
pub(super) fn blames_message(error: &lapin::Error) -> bool {
    use AMQPSoftError::{ACCESSREFUSED, NOTFOUND, PRECONDITIONFAILED};
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return false;
    };
    // No such exchange; no permission to write to it, or it is internal; larger than max_message_size, or a
    // property that the broker checks.
    matches!(
        error.kind(),
        AMQPErrorKind::Soft(NOTFOUND | ACCESSREFUSED | PRECONDITIONFAILED)
    )
}

/// The broker's own words.
pub(super) fn text_of(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use lapin::protocol::{AMQPError, AMQPHardError};

    use super::*;
    use crate::error::Meaning::{Busy, Rejected, Unavailable};
    use crate::sink::rabbitmq::judge::Return;

    fn soft(kind: AMQPSoftError, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    fn hard(kind: AMQPHardError, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    #[test]
    fn verdicts() {
        let destination = Destination::Exchange {
            exchange: "draft".to_owned(),
            routing_key: "k".to_owned(),
        };
        read(Verdict::Taken, &destination).expect("taken");
        let unroutable = Verdict::Returned(Return {
            id: None,
            reason: "312 NO_ROUTE".to_owned(),
        });
        for (verdict, meaning, text) in [
            (
                unroutable,
                Rejected,
                "no queue (312 NO_ROUTE): exchange \"draft\"",
            ),
            (Verdict::Nacked, Busy, "is it full?"),
        ] {
            let error = read(verdict, &destination).expect_err(text);
            assert_eq!(error.meaning(), meaning, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn failures() {
        use AMQPHardError::{
            CHANNELERROR, CONNECTIONFORCED, FRAMEERROR, INTERNALERROR, RESOURCEERROR,
        };
        use AMQPSoftError::{ACCESSREFUSED, NOTFOUND, PRECONDITIONFAILED, RESOURCELOCKED};
        use Failure::{
            Accused, Alone, Blocked, Channel, Confused, Disconnected, Full, Suspected, Told,
        };
        let missing = || soft(NOTFOUND, "NOT_FOUND - no exchange 'e' in vhost '/'");
        let io = |kind: io::ErrorKind| lapin::Error::from(io::Error::from(kind));
        let cases = [
            (Alone(missing()), Rejected, "no exchange 'e'"),
            (
                Alone(soft(ACCESSREFUSED, "access to exchange 'e' refused")),
                Rejected,
                "access to exchange",
            ),
            (
                Alone(soft(PRECONDITIONFAILED, "message size 9 is larger")),
                Rejected,
                "message size 9",
            ),
            (
                Told("no exchange 'e'".to_owned()),
                Rejected,
                "no exchange 'e'",
            ),
            (Full(Destination::Implicit), Busy, "is it full?"),
            // In flight with others, nothing is certain.
            (Channel(missing()), Unavailable, "no exchange 'e'"),
            (Alone(soft(RESOURCELOCKED, "locked")), Unavailable, "locked"),
            (
                Alone(hard(CONNECTIONFORCED, "closed by operator")),
                Unavailable,
                "operator",
            ),
            (Suspected(hard(INTERNALERROR, "bug")), Busy, "bug"),
            (Accused(hard(INTERNALERROR, "bug")), Rejected, "bug"),
            (Alone(hard(CHANNELERROR, "channel")), Unavailable, "channel"),
            (Alone(hard(FRAMEERROR, "frame")), Unavailable, "frame"),
            (Alone(hard(INTERNALERROR, "bug")), Unavailable, "bug"),
            (Alone(hard(RESOURCEERROR, "memory")), Unavailable, "memory"),
            (
                Channel(io(io::ErrorKind::ConnectionReset)),
                Unavailable,
                "reset",
            ),
            (
                Channel(io(io::ErrorKind::TimedOut)),
                Unavailable,
                "timed out",
            ),
            (
                Channel(ErrorKind::MissingHeartbeatError.into()),
                Unavailable,
                "heartbeat",
            ),
            (
                Blocked("low on memory".to_owned()),
                Unavailable,
                "low on memory",
            ),
            (Disconnected, Unavailable, "no connection"),
            (Confused("not in flight"), Unavailable, "not in flight"),
        ];
        for (failure, meaning, text) in cases {
            let shown = format!("{failure:?}");
            let error = classify(failure);
            assert_eq!(error.meaning(), meaning, "{shown}");
            let is_alone = shown.starts_with("Suspected") || shown.starts_with("Accused");
            assert_eq!(error.is_answer(), meaning != Unavailable && !is_alone);
            assert!(error.chain().contains(text), "{shown}: {}", error.chain());
        }
    }
}

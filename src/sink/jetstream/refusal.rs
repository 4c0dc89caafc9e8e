//! What a publish that was not acknowledged means for its event.

use async_nats::StatusCode;
use async_nats::jetstream::{self, ErrorCode};
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny};

use crate::error::{Meaning, PublishError};
use crate::sink::nats_connection::refusal;

/// Why a publish was not acknowledged.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client did not take the message.
    Unsent(async_nats::PublishError),
    /// The connection is lost, or was lost while the acknowledgement was awaited.
    Disconnected,
    /// The server forbids publishing to the subject.
    Forbidden,
    /// The server takes fewer bytes of this user.
    TooLarge(usize),
    /// Nobody listens on the subject: no stream captures it, or JetStream is away.
    NoResponders,
    /// JetStream replied with an error.
    Refused(jetstream::Error),
    /// Somebody replied with something that is no acknowledgement.
    NotAnAck(serde_json::Error),
}

/// Reads the reply to a publish. A duplicate is an acknowledgement: the stream has the message.
pub(super) fn read(reply: &async_nats::Message) -> Result<(), Failure> {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Failure::NoResponders);
    }
    let answer: Answer = serde_json::from_slice(&reply.payload).map_err(Failure::NotAnAck)?;
    if let Some(error) = answer.error {
        return Err(Failure::Refused(error));
    }
    let missing = |field| Failure::NotAnAck(serde_json::Error::missing_field(field));
    answer.stream.ok_or_else(|| missing("stream"))?;
    answer.seq.ok_or_else(|| missing("seq"))?;
    Ok(())
}

/// What tells an acknowledgement from an error. The client's own type for both is an enum without a tag, which is
/// parsed twice.
#[derive(Deserialize)]
struct Answer {
    error: Option<jetstream::Error>,
    stream: Option<IgnoredAny>,
    seq: Option<u64>,
}

/// The one place that decides between an outage and a rejection.
pub(super) fn classify(failure: Failure, subject: &str) -> PublishError {
    match failure {
        Failure::Unsent(error) => refusal::unsent(error),
        Failure::Disconnected => refusal::disconnected(),
        Failure::Forbidden => refusal::forbidden(),
        Failure::TooLarge(size) => refusal::too_large(size),
        Failure::NoResponders => PublishError::unavailable("nobody answers for this subject"),
        Failure::Refused(error) => match meaning(&error) {
            Meaning::Rejected => {
                PublishError::rejected("JetStream refused the message").caused_by(error)
            }
            Meaning::Busy => PublishError::busy(format!(
                "the stream of {subject} takes nothing now: is it full?"
            ))
            .caused_by(error),
            _ => PublishError::unavailable("JetStream can't store messages now").caused_by(error),
        },
        // A service that isn't a stream answers on this subject. That is a misconfiguration of the broker and no
        // word about the message; nothing is lost while somebody mends it.
        Failure::NotAnAck(error) => {
            PublishError::unavailable("something other than JetStream answers on this subject")
                .caused_by(error)
        }
    }
}

/// JetStream's codes are like HTTP's: 4xx blames the message, 5xx the server. The exceptions are states of the
/// account or stream that come with a 4xx, and limits of the message's own that come with a 5xx.
fn meaning(error: &jetstream::Error) -> Meaning {
    const TIMEOUT: usize = 408;
    const TOO_MANY_REQUESTS: usize = 429;
    match (error.error_code(), error.code()) {
        (ErrorCode::ACCOUNT_RESOURCES_EXCEEDED, _) | (_, TIMEOUT | TOO_MANY_REQUESTS) => {
            Meaning::Unavailable
        }
        // A cluster still agrees on the message's first publish; it is acknowledged as a duplicate later.
        (ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT, _) => Meaning::Unavailable,
        (ErrorCode::STREAM_STORE_FAILED, _) => meaning_of_full_stream(error),
        (_, 400..500) => Meaning::Rejected,
        _ => Meaning::Unavailable,
    }
}

/// A stream with `discard = new` that is full pushes back, and so does one whose subject is
/// (`discard_new_per_subject`): it will take the message once there is room, and other streams and subjects take theirs
/// now. A limit of the message's size is its own; anything else, such as a full disk, is the server's.
fn meaning_of_full_stream(error: &jetstream::Error) -> Meaning {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    // The server has one code for all of these, and spells "to large" itself.
    if says(&["message to large", "message too large"]) {
        Meaning::Rejected
    } else if says(&["maximum messages", "maximum bytes"]) {
        Meaning::Busy
    } else {
        Meaning::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use async_nats::PublishErrorKind;

    use super::*;
    use Meaning::{Busy, Invalid, Rejected, Unavailable};

    fn unsent(kind: PublishErrorKind) -> Failure {
        Failure::Unsent(async_nats::PublishError::new(kind))
    }

    fn reply(payload: &str) -> async_nats::Message {
        async_nats::Message {
            subject: "_INBOX.abc.1".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn failures_of_the_client_and_the_connection() {
        let cases = [
            (unsent(PublishErrorKind::MaxPayloadExceeded), Rejected),
            (unsent(PublishErrorKind::InvalidSubject), Invalid),
            (unsent(PublishErrorKind::Send), Unavailable),
            (Failure::Disconnected, Unavailable),
            (Failure::Forbidden, Rejected),
            (Failure::TooLarge(7), Invalid),
            (Failure::NoResponders, Unavailable),
        ];
        for (failure, meaning) in cases {
            let shown = format!("{failure:?}");
            assert_eq!(classify(failure, "a").meaning(), meaning, "{shown}");
        }
    }

    #[test]
    fn replies_of_jetstream() {
        let cases = [
            (400, 10060, "expected stream does not match", Rejected),
            (400, 10054, "message size exceeds maximum allowed", Rejected),
            (400, 10071, "wrong last sequence: 7", Rejected),
            (400, 10109, "invalid operation on sealed stream", Rejected),
            (503, 10077, "maximum messages per subject exceeded", Busy),
            (503, 10077, "message to large", Rejected),
            (503, 10077, "maximum messages exceeded", Busy),
            (503, 10077, "maximum bytes exceeded", Busy),
            (503, 10077, "no space left on device", Unavailable),
            (
                400,
                10002,
                "resource limits exceeded for account",
                Unavailable,
            ),
            (503, 10023, "insufficient resources", Unavailable),
            (
                503,
                10008,
                "jetstream system temporarily unavailable",
                Unavailable,
            ),
            (503, 10039, "jetstream not enabled for account", Unavailable),
            (500, 10118, "stream is offline", Unavailable),
            (429, 10167, "too many requests", Unavailable),
            (
                409,
                10158,
                "duplicate message id is in process",
                Unavailable,
            ),
            (408, 0, "request timeout", Unavailable),
        ];
        for (code, err_code, description, meaning) in cases {
            let payload = serde_json::json!({
                "error": {"code": code, "err_code": err_code, "description": description},
                "stream": "S", "seq": 0,
            });
            let failure = read(&reply(&payload.to_string())).expect_err(description);
            let error = classify(failure, "a");
            assert_eq!(error.meaning(), meaning, "{code} {err_code} {description}");
            assert!(error.chain().contains(description), "{}", error.chain());
        }
    }

    #[test]
    fn an_acknowledgement_is_told_from_everything_else() {
        read(&reply(r#"{"stream":"S","seq":7}"#)).expect("stored");
        read(&reply(r#"{"stream":"S","seq":7,"duplicate":true}"#)).expect("stored before");
        for payload in ["", "ok", "{}"] {
            let failure = read(&reply(payload)).expect_err(payload);
            let error = classify(failure, "a");
            assert_eq!(error.meaning(), Unavailable, "{payload:?}");
        }
        let mut nobody = reply("");
        nobody.status = Some(StatusCode::NO_RESPONDERS);
        assert!(matches!(read(&nobody), Err(Failure::NoResponders)));
    }
}

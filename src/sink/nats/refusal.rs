//! What a publish that was not confirmed means for its event.

use crate::error::PublishError;
use crate::sink::nats_connection::refusal;

/// Why a publish was not confirmed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client did not take the message.
    Unsent(async_nats::PublishError),
    /// The connection is lost, or was lost before the fence came back.
    Disconnected,
    /// The server forbids publishing to the subject.
    Forbidden,
    /// The server takes fewer bytes of this user.
    TooLarge(usize),
    /// The server forbids publishing to the relay's own inbox, so that no fence can come back.
    Unfenced,
    /// The server complained so often that the client can't have handed over everything.
    Unclear,
}

/// The one place that decides between an outage and a rejection.
pub(super) fn classify(failure: Failure) -> PublishError {
    match failure {
        Failure::Unsent(error) => refusal::unsent(error),
        Failure::Disconnected => refusal::disconnected(),
        Failure::Forbidden => refusal::forbidden(),
        Failure::TooLarge(size) => refusal::too_large(size),
        Failure::Unfenced => PublishError::unavailable(
            "the server's permissions don't allow publishing to _INBOX.>, without which nothing can be confirmed",
        ),
        Failure::Unclear => PublishError::unavailable(
            "NATS refused so many messages at once that it isn't clear which",
        ),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::PublishErrorKind;

    use super::*;
    use crate::error::Meaning::{self, Invalid, Rejected, Unavailable};

    fn unsent(kind: PublishErrorKind) -> Failure {
        Failure::Unsent(async_nats::PublishError::new(kind))
    }

    #[test]
    fn failures() {
        let cases: [(Failure, Meaning); 8] = [
            (unsent(PublishErrorKind::MaxPayloadExceeded), Rejected),
            (unsent(PublishErrorKind::InvalidSubject), Invalid),
            (unsent(PublishErrorKind::Send), Unavailable),
            (Failure::Disconnected, Unavailable),
            (Failure::Forbidden, Rejected),
            (Failure::TooLarge(7), Invalid),
            (Failure::Unfenced, Unavailable),
            (Failure::Unclear, Unavailable),
        ];
        for (failure, meaning) in cases {
            let shown = format!("{failure:?}");
            assert_eq!(classify(failure).meaning(), meaning, "{shown}");
        }
    }
}

//! What failures that have nothing to do with acknowledgements mean for an event: the same for every sink that speaks
//! NATS.

use async_nats::PublishErrorKind;

use crate::error::PublishError;

/// The client did not take the message.
pub(in crate::sink) fn unsent(error: async_nats::PublishError) -> PublishError {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => {
            PublishError::rejected("the message is larger than the server's max_payload")
                .caused_by(error)
        }
        PublishErrorKind::InvalidSubject => {
            PublishError::invalid("NATS can't publish to this subject").caused_by(error)
        }
        PublishErrorKind::Send => {
            PublishError::unavailable("the NATS connection is closed").caused_by(error)
        }
    }
}

/// There is no connection, or it was lost before the message was acknowledged.
pub(in crate::sink) fn disconnected() -> PublishError {
    PublishError::unavailable("there is no connection to NATS")
}

/// The server lets this user send less at a time than its `max_payload`. To try again would end the same, and end the
/// connection for everything else each time.
pub(in crate::sink) fn too_large(size: usize) -> PublishError {
    PublishError::invalid(format!(
        "the message takes {size} bytes, more than the server lets this user send at a time; raise the payload limit of \
         the user or its account"
    ))
}

/// The server forbids publishing to the subject.
pub(in crate::sink) fn forbidden() -> PublishError {
    PublishError::rejected("the server's permissions don't allow publishing to this subject")
}

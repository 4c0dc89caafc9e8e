//! What a message looks like in Kafka.

use rdkafka::message::{Header, OwnedHeaders};

use crate::error::PublishError;
use crate::sink::Message;

/// The header that holds the event's id, as consumers of Debezium's outbox router know it.
const ID: &str = "id";

/// The headers of a record: `id`, then those of the message in their order. Values are text without any framing.
///
/// # Errors
///
/// [`PublishError::invalid`] if a name can't be sent.
pub(super) fn headers(message: &Message) -> Result<OwnedHeaders, PublishError> {
    let id = message.id().to_string();
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1).insert(Header {
        key: ID,
        value: Some(&id),
    });
    for (name, value) in &message.headers {
        // The client takes names as C has them, and panics at such a one.
        if name.contains('\0') {
            return Err(PublishError::invalid(
                "the name of a header has a NUL in it, which Kafka's client can't send",
            ));
        }
        // One `id` only: the event's.
        if name != ID {
            headers = headers.insert(Header {
                key: name,
                value: Some(value),
            });
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;
    use uuid::Uuid;

    use super::*;
    use crate::fixture;

    #[test]
    fn the_id_is_a_header_once_and_comes_first() {
        let mut message = fixture::message(Uuid::from_u128(7), "{}");
        message
            .headers
            .push(("id".to_owned(), "another".to_owned()));
        message.headers.push(("tenant".to_owned(), "é".to_owned()));
        let headers = headers(&message).expect("headers");
        let shown: Vec<_> = headers
            .iter()
            .map(|header| {
                (
                    header.key,
                    std::str::from_utf8(header.value.expect("a value")),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("id", Ok("00000000-0000-0000-0000-000000000007")),
                ("content-type", Ok("application/json")),
                ("tenant", Ok("é")),
            ]
        );
    }

    #[test]
    fn a_name_that_the_client_would_panic_at_is_refused() {
        let mut message = fixture::message(Uuid::nil(), "{}");
        message.headers.push(("a\0b".to_owned(), String::new()));
        assert!(headers(&message).is_err());
    }
}

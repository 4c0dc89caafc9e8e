//! Envelopes: the bytes and headers that a message has.
//!
//! Owns the formats of bodies and the headers that every message carries. Knows nothing of destinations or
//! brokers. The same event gives the same bytes each time, in every process and version: a re-delivery can't
//! be told from the first delivery.

mod headers;
mod json;

use bytes::Bytes;

pub use headers::headers;

use crate::config::{Envelope, Format};
use crate::error::PublishError;
use crate::event::{Event, Payload};

/// A message's body, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// Their media type, for the `content-type` header.
    pub content_type: &'static str,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// The body of `event` in the sink's format.
///
/// # Errors
///
/// [`PublishError::invalid`] if the `json` format has to embed a payload that is not JSON.
pub fn encode(envelope: &Envelope, event: &Event) -> Result<Body, PublishError> {
    match envelope.format {
        Format::Json => Ok(Body {
            bytes: json::encode(&envelope.aggregate_field, event)?,
            content_type: JSON,
        }),
        Format::Raw => Ok(Body {
            bytes: event.payload.as_bytes().clone(),
            content_type: match event.payload {
                Payload::Json(_) => JSON,
                Payload::Text(_) => TEXT,
                Payload::Binary(_) => BINARY,
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn raw_is_the_payload_as_stored() {
        let bytes = Bytes::from_static(b" {\"a\" : 1}\n\xff");
        for (payload, content_type) in [
            (Payload::Json(bytes.clone()), "application/json"),
            (Payload::Text(bytes.clone()), "text/plain; charset=utf-8"),
            (Payload::Binary(bytes.clone()), "application/octet-stream"),
        ] {
            let envelope = Envelope {
                format: Format::Raw,
                aggregate_field: "aggregateId".to_owned(),
            };
            let mut event = fixture::event();
            event.payload = payload;
            let body = encode(&envelope, &event).expect("anything can be sent raw");
            let bytes = bytes.clone();
            assert_eq!(
                body,
                Body {
                    bytes,
                    content_type
                }
            );
        }
    }

    #[test]
    fn json_takes_the_name_of_its_third_key_from_the_configuration() {
        let envelope = Envelope {
            format: Format::Json,
            aggregate_field: "draftId".to_owned(),
        };
        let body = encode(&envelope, &fixture::event()).expect("an envelope");
        assert_eq!(body.content_type, "application/json");
        assert_eq!(
            body.bytes,
            r#"{"eventId":"01905a6e-0000-7000-8000-000000000001","eventType":"PickMade","draftId":"draft-1","timestamp":"2024-01-01T00:00:00Z","payload":{"pick":1}}"#
        );
    }
}

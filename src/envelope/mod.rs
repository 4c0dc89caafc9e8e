//! Envelopes: the bytes and headers that a message has.
//!
//! Owns the formats of bodies and the headers that every message carries. Knows nothing of destinations or
//! connections. The same event gives the same bytes each time, in every process and version: a re-delivery can't
//! be told from the first delivery.

mod binding;
mod cloudevents;
#[cfg(test)]
mod golden;
mod headers;
mod json;
mod timestamp;

use bytes::Bytes;

use crate::config::{Envelope, Format};
use crate::error::PublishError;
use crate::event::{Event, Payload};

/// What a message is made of, but for its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Names and values in the order in which they are sent. `content-type` is among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// The headers and the body of `event` in the sink's format.
///
/// # Errors
///
/// [`PublishError::invalid`] if the format can't embed the payload (`json`: what is not JSON), or a value can't stand
/// in a header.
pub fn fill(envelope: &Envelope, event: &Event) -> Result<Contents, PublishError> {
    let plain = |content_type| headers::headers(event, content_type, Vec::new(), |_: &str| false);
    match envelope.format {
        Format::Json => Ok(Contents {
            headers: plain(JSON)?,
            body: json::encode(&envelope.aggregate_field, event)?,
        }),
        Format::Raw => Ok(Contents {
            headers: plain(match event.payload {
                Payload::Json(_) => JSON,
                Payload::Text(_) => TEXT,
                Payload::Binary(_) => BINARY,
            })?,
            body: event.payload.as_bytes().clone(),
        }),
        Format::CloudEvents => Ok(Contents {
            headers: plain(cloudevents::MEDIA_TYPE)?,
            body: cloudevents::structured(&envelope.source, event)?,
        }),
        Format::CloudEventsBinary(binding) => {
            let content_type = cloudevents::Data::of(&event.payload)?.content_type();
            let attributes = cloudevents::attributes(&envelope.source, event, content_type)?;
            let attributes = binding.headers(&attributes);
            let is_taken = |name: &str| binding.owns(name);
            Ok(Contents {
                headers: headers::headers(event, content_type, attributes, is_taken)?,
                body: event.payload.as_bytes().clone(),
            })
        }
    }
}

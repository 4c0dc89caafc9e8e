//! CloudEvents 1.0: the context attributes of an event, and the `cloudevents` format, which is the JSON event format.
//!
//! How attributes become headers, as `cloudevents-binary` has it, is in `binding.rs`.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{BINARY, JSON, TEXT, json, timestamp};
use crate::error::PublishError;
use crate::event::{Event, Payload};
use crate::excerpt::Excerpt;

/// What a body in the JSON event format is.
pub(super) const MEDIA_TYPE: &str = "application/cloudevents+json";

/// More than the names of all attributes, the id and the time take.
const FRAME_BYTES: usize = 256;

/// The longest name of an extension, as the specification recommends.
const EXTENSION_NAME: usize = 20;

/// Names that are the specification's own, and can't be extensions.
const CORE: [&str; 9] = [
    "data",
    "datacontenttype",
    "dataschema",
    "id",
    "source",
    "specversion",
    "subject",
    "time",
    "type",
];

/// A context attribute: its name and its value in the canonical string form.
pub(super) type Attribute<'a> = (&'a str, String);

/// An event's payload as CloudEvents sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// JSON, as stored.
    Json(&'a [u8]),
    /// Text that is not JSON.
    Text(&'a str),
    /// Anything else.
    Binary(&'a [u8]),
}

impl<'a> Data<'a> {
    /// The payload. Text counts as JSON if it is, so that a text column with JSON in it is as good as a json column.
    ///
    /// # Errors
    ///
    /// [`PublishError::invalid`] if text isn't UTF-8.
    pub(super) fn of(payload: &'a Payload) -> Result<Self, PublishError> {
        match payload {
            Payload::Json(bytes) => Ok(Self::Json(bytes)),
            Payload::Text(bytes) if json::check(bytes).is_ok() => Ok(Self::Json(bytes)),
            Payload::Text(bytes) => std::str::from_utf8(bytes).map(Self::Text).map_err(|error| {
                PublishError::invalid("the payload is text that is not UTF-8").caused_by(error)
            }),
            Payload::Binary(bytes) => Ok(Self::Binary(bytes)),
        }
    }

    /// The attribute `datacontenttype`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json(_) => JSON,
            Self::Text(_) => TEXT,
            Self::Binary(_) => BINARY,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Json(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len().div_ceil(3) * 4,
        }
    }
}

/// The attributes of `event`, in the order in which they are written. `subject` is the aggregate id; extensions are
/// those of the event's own headers whose names can be attributes (`traceparent`, for example).
///
/// # Errors
///
/// [`PublishError::invalid`] if the event has no type, or a value holds a character that no attribute may have.
pub(super) fn attributes<'a>(
    source: &str,
    event: &'a Event,
    content_type: &str,
) -> Result<Vec<Attribute<'a>>, PublishError> {
    if event.event_type.is_empty() {
        return Err(PublishError::invalid(
            "the event has no event type, which CloudEvents demands",
        ));
    }
    let mut attributes = vec![
        ("specversion", "1.0".to_owned()),
        ("id", event.id.to_string()),
        ("source", source.to_owned()),
        ("type", event.event_type.clone()),
    ];
    // An attribute that is there must not be empty.
    if let Some(subject) = event.aggregate_id.as_ref().filter(|id| !id.is_empty()) {
        attributes.push(("subject", subject.clone()));
    }
    attributes.push(("time", time(event)?));
    attributes.push(("datacontenttype", content_type.to_owned()));
    let extensions = event.headers.iter();
    attributes.extend(
        extensions
            .filter(|(name, value)| is_extension(name) && !value.is_empty())
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    for (name, value) in &attributes {
        check(name, value)?;
    }
    Ok(attributes)
}

/// The event in the JSON event format, its payload byte for byte as stored where it is JSON.
///
/// # Errors
///
/// As [`attributes`] and [`Data::of`].
pub(super) fn structured(source: &str, event: &Event) -> Result<Bytes, PublishError> {
    let data = Data::of(&event.payload)?;
    let attributes = attributes(source, event, data.content_type())?;
    let values: usize = attributes.iter().map(|(_, value)| value.len()).sum();
    let mut buffer = Vec::with_capacity(FRAME_BYTES + values + data.len());
    write(&mut buffer, &attributes, data).map_err(unwritable)?;
    Ok(Bytes::from(buffer))
}

fn write(buffer: &mut Vec<u8>, attributes: &[Attribute<'_>], data: Data<'_>) -> io::Result<()> {
    buffer.push(b'{');
    for (name, value) in attributes {
        write!(buffer, r#""{name}":"#)?;
        serde_json::to_writer(&mut *buffer, value)?;
        buffer.push(b',');
    }
    match data {
        Data::Json(bytes) => {
            buffer.extend_from_slice(br#""data":"#);
            buffer.extend_from_slice(bytes);
        }
        Data::Text(text) => {
            buffer.extend_from_slice(br#""data":"#);
            serde_json::to_writer(&mut *buffer, text)?;
        }
        Data::Binary(bytes) => write!(buffer, r#""data_base64":"{}""#, STANDARD.encode(bytes))?,
    }
    buffer.push(b'}');
    Ok(())
}

fn time(event: &Event) -> Result<String, PublishError> {
    let mut buffer = Vec::with_capacity(32);
    timestamp::write(&mut buffer, event.created_at).map_err(unwritable)?;
    String::from_utf8(buffer).map_err(unwritable)
}

fn unwritable(error: impl Into<crate::error::BoxError>) -> PublishError {
    PublishError::invalid("the event could not be written as a CloudEvent").caused_by(error)
}

/// Whether a header can be an extension: small letters and digits, and not one of the specification's own names.
fn is_extension(name: &str) -> bool {
    (1..=EXTENSION_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !CORE.contains(&name)
}

/// Attributes are text without control characters and noncharacters. Values are not shown: they may be private.
fn check(name: &str, value: &str) -> Result<(), PublishError> {
    let is_noncharacter =
        |c: char| matches!(u32::from(c), 0xfdd0..=0xfdef) || u32::from(c) & 0xfffe == 0xfffe;
    match value
        .chars()
        .find(|c| c.is_control() || is_noncharacter(*c))
    {
        None => Ok(()),
        Some(character) => Err(PublishError::invalid(format!(
            "the CloudEvents attribute {} has {character:?} in its value, which no attribute may have",
            Excerpt(name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    fn with(payload: Payload) -> Event {
        Event {
            payload,
            ..fixture::event()
        }
    }

    fn parsed(event: &Event) -> serde_json::Value {
        let body = structured("/orders", event).expect("a CloudEvent");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn names(event: &Event) -> Vec<&str> {
        let attributes = attributes("/orders", event, JSON).expect("attributes");
        attributes.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn json_is_embedded_as_stored() {
        let spelled = "{\"b\" : 1,\n\t\"a\":12345678901234567890.10, \"a\":2 }";
        for payload in [
            Payload::Json(Bytes::from_static(spelled.as_bytes())),
            Payload::Text(Bytes::from_static(spelled.as_bytes())),
        ] {
            let event = with(payload);
            let body = structured("/orders", &event).expect("a CloudEvent");
            let text = std::str::from_utf8(&body).expect("UTF-8");
            assert!(text.ends_with(&format!(r#","data":{spelled}}}"#)), "{text}");
            assert_eq!(parsed(&event)["datacontenttype"], JSON);
        }
    }

    #[test]
    fn text_is_a_string_and_bytes_are_base64() {
        let text = parsed(&with(Payload::Text(Bytes::from_static(b"say \"hi\"\n"))));
        assert_eq!(text["data"], "say \"hi\"\n");
        assert_eq!(text["datacontenttype"], TEXT);
        let binary = parsed(&with(Payload::Binary(Bytes::from_static(b"\x00\xff{}"))));
        assert_eq!(binary["data_base64"], "AP97fQ==");
        assert_eq!(binary["datacontenttype"], BINARY);
        assert!(binary.get("data").is_none(), "{binary}");
        let latin = with(Payload::Text(Bytes::from_static(b"\xe9")));
        let error = structured("/orders", &latin).expect_err("not UTF-8");
        assert_eq!(error.meaning(), Meaning::Invalid);
    }

    #[test]
    fn headers_that_can_be_attributes_are() {
        let mut event = fixture::event();
        let given = [
            ("traceparent", "00-ab-cd-01"),
            ("tenant1", "t"),
            ("Tenant", "t"),
            ("x-tenant", "t"),
            ("empty", ""),
            ("type", "forged"),
            ("dataschema", "forged"),
            ("aname20characterslong", "t"),
            ("name20characterslong", "t"),
        ];
        event.headers = given.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        assert_eq!(
            names(&event)[7..],
            ["traceparent", "tenant1", "name20characterslong"]
        );
        assert_eq!(parsed(&event)["type"], "PickMade");
    }

    #[test]
    fn what_an_event_lacks_is_left_out() {
        for absent in [None, Some(String::new())] {
            let mut event = fixture::event();
            event.aggregate_id = absent;
            assert!(!names(&event).contains(&"subject"));
        }
    }

    #[test]
    fn what_no_attribute_may_have() {
        let cases = [
            ("", "a"),
            ("a\nb", "a"),
            ("a", "\u{9f}"),
            ("a", "x\u{fffe}"),
            ("a\u{fdd0}", "a"),
            ("a", "\u{10ffff}"),
        ];
        for (event_type, aggregate_id) in cases {
            let event = Event {
                event_type: event_type.to_owned(),
                aggregate_id: Some(aggregate_id.to_owned()),
                ..fixture::event()
            };
            let error = structured("/orders", &event).expect_err("not an attribute");
            assert_eq!(error.meaning(), Meaning::Invalid, "{event:?}");
        }
        let mut event = fixture::event();
        event.headers = vec![("tenant".to_owned(), "secret\u{1}".to_owned())];
        let error = structured("/orders", &event).expect_err("a control character");
        assert!(error.to_string().contains("\"tenant\""), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

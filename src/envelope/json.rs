//! The `json` format: one object around the payload, written straight into one buffer.

use std::io::{self, Write};

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::timestamp;
use crate::error::PublishError;
use crate::event::{Event, Payload};

/// More than the keys, the id and the timestamp take.
const FRAME_BYTES: usize = 192;

/// `{"eventId":…,"eventType":…,AGGREGATE_FIELD:…,"timestamp":…,"payload":…}`, without white space, the payload
/// byte for byte as stored. The third value is `null` if the event has no aggregate id.
pub(super) fn encode(aggregate_field: &str, event: &Event) -> Result<Bytes, PublishError> {
    let payload = embeddable(&event.payload)?;
    let aggregate_id = event.aggregate_id.as_deref();
    let capacity = FRAME_BYTES
        + event.event_type.len()
        + aggregate_field.len()
        + aggregate_id.map_or(0, str::len)
        + payload.len();
    let mut buffer = Vec::with_capacity(capacity);
    write(&mut buffer, aggregate_field, event, payload).map_err(|error| {
        PublishError::invalid("the event could not be written as JSON").caused_by(error)
    })?;
    Ok(Bytes::from(buffer))
}

fn write(buffer: &mut Vec<u8>, field: &str, event: &Event, payload: &[u8]) -> io::Result<()> {
    write!(buffer, r#"{{"eventId":"{}","eventType":"#, event.id)?;
    serde_json::to_writer(&mut *buffer, &event.event_type)?;
    buffer.push(b',');
    serde_json::to_writer(&mut *buffer, field)?;
    buffer.push(b':');
    serde_json::to_writer(&mut *buffer, &event.aggregate_id)?;
    buffer.extend_from_slice(br#","timestamp":""#);
    timestamp::write(buffer, event.created_at)?;
    buffer.extend_from_slice(br#"","payload":"#);
    buffer.extend_from_slice(payload);
    buffer.push(b'}');
    Ok(())
}

/// The payload's bytes if they are JSON. They are looked at only where the database hasn't done so.
fn embeddable(payload: &Payload) -> Result<&[u8], PublishError> {
    match payload {
        Payload::Json(bytes) => Ok(bytes),
        Payload::Text(bytes) => match check(bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(PublishError::invalid(
                "the payload is not JSON, which format = \"json\" needs; use format = \"raw\" for text",
            )
            .caused_by(error)),
        },
        Payload::Binary(_) => Err(PublishError::invalid(
            "a binary payload can't stand in JSON; use format = \"raw\"",
        )),
    }
}

/// Parses without building or rewriting anything. UTF-8 is checked by itself, for the parser takes the
/// strings that it ignores as they come.
pub(super) fn check(bytes: &[u8]) -> io::Result<()> {
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    serde_json::from_str::<IgnoredAny>(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    fn golden(event: &Event) -> String {
        let bytes = encode("aggregateId", event).expect("an envelope");
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    fn with_payload(payload: Payload) -> Event {
        Event {
            payload,
            ..fixture::event()
        }
    }

    fn text(payload: impl Into<Bytes>) -> Event {
        with_payload(Payload::Text(payload.into()))
    }

    #[test]
    fn no_aggregate_is_null_and_strings_are_escaped() {
        let mut event = fixture::event();
        event.event_type = "a\"b\\c\nd\u{1}é/".to_owned();
        event.aggregate_id = None;
        assert_eq!(
            golden(&event),
            r#"{"eventId":"01905a6e-0000-7000-8000-000000000001","eventType":"a\"b\\c\nd\u0001é/","aggregateId":null,"timestamp":"2024-01-01T00:00:00Z","payload":{"pick":1}}"#
        );
    }

    #[test]
    fn the_payload_keeps_every_byte() {
        for payload in [
            "{\"b\" : 1,\n\t\"a\":12345678901234567890.10, \"a\":2 }",
            "  null ",
            r#""\u0000\ud800""#,
            "1e999",
        ] {
            let bytes = Bytes::copy_from_slice(payload.as_bytes());
            let expected = format!("Z\",\"payload\":{payload}}}");
            assert!(golden(&text(bytes.clone())).ends_with(&expected));
            assert!(golden(&with_payload(Payload::Json(bytes))).ends_with(&expected));
        }
    }

    #[test]
    fn nesting_has_no_limit() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(encode("aggregateId", &text(deep)).is_ok());
    }

    #[test]
    fn text_that_is_not_json_is_refused_without_showing_it() {
        for payload in [
            &b""[..],
            b"secret",
            b"{\"a\":1",
            b"{} {}",
            b"{}}",
            b"\"a\nb\"",
            b"\"\xff\"",
            b"NaN",
        ] {
            let event = text(Bytes::copy_from_slice(payload));
            let error = encode("aggregateId", &event).expect_err("not JSON");
            assert_eq!(error.meaning(), Meaning::Invalid);
            let shown = error.chain();
            assert!(shown.contains("format = \"raw\""), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn binary_is_refused() {
        let event = with_payload(Payload::Binary(Bytes::from_static(b"{}")));
        let error = encode("aggregateId", &event).expect_err("binary");
        assert_eq!(error.meaning(), Meaning::Invalid);
        assert_eq!(
            error.to_string(),
            "a binary payload can't stand in JSON; use format = \"raw\""
        );
    }

    /// JSON of every kind, spelled with and without white space.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
            "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).expect("a string")),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let members = prop::collection::vec(inner, 0..4);
            (members, "[ \n\t]{0,2}", any::<bool>()).prop_map(|(members, space, array)| {
                if array {
                    return format!("[{space}{}]", members.join(&format!("{space},")));
                }
                let member = |value| format!("\"k\"{space}:{value}{space}");
                let members: Vec<String> = members.into_iter().map(member).collect();
                format!("{{{space}{}}}", members.join(","))
            })
        })
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Parsed<'a> {
        event_id: Uuid,
        event_type: String,
        the_key: Option<String>,
        timestamp: DateTime<Utc>,
        #[serde(borrow)]
        payload: &'a RawValue,
    }

    proptest! {
        #[test]
        fn parses_back_to_the_same(
            id in any::<u128>(),
            event_type in any::<String>(),
            aggregate_id in any::<Option<String>>(),
            microseconds in 0_i64..253_402_300_800_000_000,
            payload in json(),
            is_text in any::<bool>(),
        ) {
            let bytes = Bytes::from(payload.clone());
            let event = Event {
                id: Uuid::from_u128(id),
                event_type,
                aggregate_id,
                created_at: DateTime::from_timestamp_micros(microseconds).expect("a time"),
                payload: if is_text { Payload::Text(bytes) } else { Payload::Json(bytes) },
                ..fixture::event()
            };
            let encoded = encode("theKey", &event).expect("an envelope");
            prop_assert!(serde_json::from_slice::<Value>(&encoded).is_ok());
            let parsed: Parsed<'_> = serde_json::from_slice(&encoded).expect("the five keys");
            prop_assert_eq!(parsed.event_id, event.id);
            prop_assert_eq!(parsed.event_type, event.event_type);
            prop_assert_eq!(parsed.the_key, event.aggregate_id);
            prop_assert_eq!(parsed.timestamp, event.created_at);
            prop_assert_eq!(parsed.payload.get(), payload.trim());
            let verbatim = format!("\"payload\":{payload}}}");
            prop_assert!(encoded.ends_with(verbatim.as_bytes()));
        }
    }
}

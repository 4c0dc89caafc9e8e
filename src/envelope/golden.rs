//! One event in every format, compared byte for byte with the files in `tests/golden/`, and those of CloudEvents with
//! the specification's rules.
//!
//! A file is the headers, one per line, an empty line, and the body as it is. Consumers depend on these bytes: a
//! change here is a breaking one.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;

use super::{Contents, fill};
use crate::config::{Binding, Envelope, Format};
use crate::event::{Event, Payload};

const JSON: &[u8] = b"{\"pick\" : 1,\n \"at\":12345678901234567890.10, \"by\":\"Zo\xc3\xab\"}";
const BYTES: &[u8] = b"\x00\x01avro\xff\n";

fn event(payload: Payload) -> Event {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Event {
        seq: 7,
        id: Uuid::from_u128(0x0190_5a6e_0000_7000_8000_0000_0000_0001),
        event_type: "PickMade".to_owned(),
        aggregate_type: Some("Draft".to_owned()),
        aggregate_id: Some("Zoë's 100% \"draft\"".to_owned()),
        payload,
        headers: vec![
            header("X-Tenant", "acme"),
            header("ce-type", "forged"),
            header("ce_type", "forged"),
            header(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        ],
        created_at: DateTime::from_timestamp_micros(1_704_067_200_120_000).expect("a time"),
        flaw: None,
    }
}

fn json() -> Event {
    event(Payload::Json(Bytes::from_static(JSON)))
}

fn binary() -> Event {
    event(Payload::Binary(Bytes::from_static(BYTES)))
}

fn contents(format: Format, event: &Event) -> Contents {
    let envelope = Envelope {
        format,
        aggregate_field: "draftId".to_owned(),
        source: "/orders".to_owned(),
    };
    fill(&envelope, event).expect("contents")
}

fn shown(contents: &Contents) -> Vec<u8> {
    let headers = contents.headers.iter();
    let headers: String = headers.map(|(k, v)| format!("{k}: {v}\n")).collect();
    [headers.as_bytes(), b"\n", &contents.body].concat()
}

#[test]
fn every_format_has_the_bytes_that_it_had() {
    let kafka = Format::CloudEventsBinary(Binding::Kafka);
    let amqp = Format::CloudEventsBinary(Binding::Amqp);
    let nats = Format::CloudEventsBinary(Binding::Nats);
    for (name, format, event) in [
        ("json", Format::Json, json()),
        ("raw", Format::Raw, json()),
        ("raw-bytea", Format::Raw, binary()),
        ("cloudevents", Format::CloudEvents, json()),
        ("cloudevents-bytea", Format::CloudEvents, binary()),
        ("cloudevents-binary-kafka", kafka, json()),
        ("cloudevents-binary-kafka-bytea", kafka, binary()),
        ("cloudevents-binary-rabbitmq", amqp, json()),
        ("cloudevents-binary-nats", nats, json()),
        ("cloudevents-binary-nats-bytea", nats, binary()),
    ] {
        let file = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let made = shown(&contents(format, &event));
        let golden = std::fs::read(&file).unwrap_or_default();
        assert!(
            made == golden,
            "{file} differs from\n{}",
            String::from_utf8_lossy(&made)
        );
    }
}

/// Attributes as the specification has them: names, and the types of those that it names.
fn check_attributes(attributes: &BTreeMap<String, String>) {
    for name in ["specversion", "id", "source", "type"] {
        assert!(!attributes[name].is_empty(), "{name} is required");
    }
    assert_eq!(attributes["specversion"], "1.0");
    for (name, value) in attributes {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        assert!(name.bytes().all(is_name) && name.len() <= 20, "{name}");
        assert!(!value.is_empty() && !value.contains(char::is_control));
    }
    let time = &attributes["time"];
    DateTime::parse_from_rfc3339(time).expect("an RFC 3339 timestamp");
    assert!(time.ends_with('Z'), "{time}");
    assert_eq!(attributes["subject"], "Zoë's 100% \"draft\"");
    assert_eq!(attributes["type"], "PickMade");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(attributes["traceparent"], trace);
}

/// The attributes of a structured event, and its data.
fn read_structured(contents: &Contents) -> (BTreeMap<String, String>, Vec<u8>) {
    let header = contents.headers.iter().find(|(k, _)| k == "content-type");
    assert_eq!(
        header.expect("it is there").1,
        "application/cloudevents+json"
    );
    let mut members: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_slice(&contents.body).expect("a JSON object");
    let data = match (members.remove("data"), members.remove("data_base64")) {
        (Some(data), None) => data.get().as_bytes().to_vec(),
        (None, Some(text)) => STANDARD
            .decode(serde_json::from_str::<String>(text.get()).expect("a string"))
            .expect("base64"),
        _ => panic!("one of data and data_base64"),
    };
    let text = |json: Box<serde_json::value::RawValue>| {
        serde_json::from_str(json.get()).expect("each attribute is a string")
    };
    let attributes = members.into_iter().map(|(k, v)| (k, text(v))).collect();
    (attributes, data)
}

/// The same of a binary one, read as a consumer of that broker would.
fn read_binary(binding: Binding, contents: &Contents) -> (BTreeMap<String, String>, Vec<u8>) {
    let prefix = match binding {
        Binding::Kafka => "ce_",
        Binding::Amqp => "cloudEvents:",
        Binding::Nats => "ce-",
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in &contents.headers {
        let name = match (name.strip_prefix(prefix), binding) {
            (Some(attribute), _) => attribute,
            (None, Binding::Kafka | Binding::Amqp) if name == "content-type" => "datacontenttype",
            (None, _) => continue,
        };
        let value = match binding {
            Binding::Nats => {
                assert!(value.is_ascii(), "{value}");
                value
                    .replace("%20", " ")
                    .replace("%22", "\"")
                    .replace("%C3%AB", "ë")
                    .replace("%25", "%")
            }
            Binding::Kafka | Binding::Amqp => value.clone(),
        };
        let before = attributes.insert(name.to_owned(), value);
        assert_eq!(before, None, "{name} twice");
    }
    (attributes, contents.body.to_vec())
}

#[test]
fn cloudevents_are_what_the_specification_says() {
    for (event, data, content_type) in [
        (json(), JSON, "application/json"),
        (binary(), BYTES, "application/octet-stream"),
    ] {
        let structured = read_structured(&contents(Format::CloudEvents, &event));
        check_attributes(&structured.0);
        assert_eq!(structured.0["datacontenttype"], content_type);
        assert_eq!(structured.1, data);
        for binding in [Binding::Kafka, Binding::Amqp, Binding::Nats] {
            let contents = contents(Format::CloudEventsBinary(binding), &event);
            assert_eq!(read_binary(binding, &contents), structured, "{binding:?}");
        }
    }
}

/// What consumers of Debezium's outbox router get as the value; its key, topic and header `id` are the sink's.
#[test]
fn raw_is_the_payload_and_nothing_else() {
    for event in [json(), binary()] {
        let contents = contents(Format::Raw, &event);
        assert_eq!(&contents.body, event.payload.as_bytes());
    }
}

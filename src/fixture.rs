//! Events for unit tests, and what the documents say of JSON.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;

use crate::event::{Event, Payload};
use crate::sink::{Destination, Message};

/// An event with every field set.
pub(crate) fn event() -> Event {
    Event {
        seq: 7,
        id: Uuid::from_u128(0x0190_5a6e_0000_7000_8000_0000_0000_0001),
        event_type: "PickMade".to_owned(),
        aggregate_type: Some("Draft".to_owned()),
        aggregate_id: Some("draft-1".to_owned()),
        payload: Payload::Json(Bytes::from_static(br#"{"pick":1}"#)),
        headers: vec![("traceparent".to_owned(), "00-ab-cd-01".to_owned())],
        created_at: DateTime::from_timestamp(1_704_067_200, 0).expect("a valid time"),
        flaw: None,
    }
}

/// A message of [`event`], with its id replaced, whose body is JSON.
pub(crate) fn message(id: Uuid, body: impl Into<Bytes>) -> Message {
    Message {
        event: Arc::new(Event { id, ..event() }),
        destination: Destination::Implicit,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    }
}

/// An event at `seq` whose key is nobody else's.
pub(crate) fn numbered(seq: i64) -> Arc<Event> {
    keyed(seq, &seq.to_string())
}

/// An event at `seq` with the key `key`.
pub(crate) fn keyed(seq: i64, key: &str) -> Arc<Event> {
    Arc::new(Event {
        seq,
        id: Uuid::from_u128(seq.unsigned_abs().into()),
        aggregate_id: Some(key.to_owned()),
        ..event()
    })
}

/// The fields that a section of `docs/status.md` describes, by paths such as `sources[].state`: what stands as code in
/// the first column of its tables.
pub(crate) fn documented_fields(heading: &str) -> BTreeSet<String> {
    let document = include_str!("../docs/status.md");
    let (_, section) = document.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let columns = rows.filter_map(|row| row.split('|').next());
    let names = columns.flat_map(|column| column.split(['`', ',', ' ']));
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The fields of a JSON value, by the same paths.
pub(crate) fn fields(value: &serde_json::Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = vec![(String::new(), value)];
    while let Some((path, value)) = rest.pop() {
        if let Some(list) = value.as_array() {
            rest.extend(list.iter().map(|value| (format!("{path}[]"), value)));
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = match path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            found.insert(path.clone());
            rest.push((path, value));
        }
    }
    found
}

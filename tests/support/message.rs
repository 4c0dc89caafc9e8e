//! Messages for the tests of a sink by itself.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use outbox_relay::event::{Event, Payload};
use outbox_relay::sink::{Destination, Message};
use uuid::Uuid;

/// A message with a body of `size` bytes and a fresh id.
pub(crate) fn message(destination: Destination, size: usize) -> Message {
    let body = Bytes::from(vec![b'x'; size]);
    Message {
        event: Arc::new(Event {
            seq: 1,
            id: Uuid::new_v4(),
            event_type: "PickMade".into(),
            aggregate_type: None,
            aggregate_id: Some("42".into()),
            payload: Payload::Binary(body.clone()),
            headers: Vec::new(),
            created_at: Utc::now(),
            flaw: None,
        }),
        destination,
        headers: vec![("event_type".into(), "PickMade".into())],
        body,
    }
}

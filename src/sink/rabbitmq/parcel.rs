//! A message as AMQP has it: where it goes, its properties, its body.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use uuid::Uuid;

use crate::error::PublishError;
use crate::excerpt::Excerpt;
use crate::sink::{Destination, Message};

/// Kept on disk by a durable queue.
const PERSISTENT: u8 = 2;

/// What the header of an envelope becomes a property of its own.
const CONTENT_TYPE: &str = "content-type";

/// Headers that RabbitMQ takes for lists of further routing keys. As the text that events have it closes the channel, and
/// as a list it would have data choose where a message goes. Other spellings mean nothing to it.
const MORE_KEYS: [&str; 2] = ["CC", "BCC"];

/// Bytes that a frame of properties needs beside them: its own header, and properties of fixed size.
const FRAME_OVERHEAD: usize = 128;

/// A message, checked for what AMQP can carry. Cheap to clone but for the properties.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) id: Uuid,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Parcel {
    /// `frame_max` is the longest frame that was agreed on: properties, unlike bodies, must fit into one, or the
    /// broker closes the connection.
    pub(super) fn of(message: Message, frame_max: usize) -> Result<Self, PublishError> {
        let id = message.id();
        let Destination::Exchange {
            exchange,
            routing_key,
        } = message.destination
        else {
            return Err(PublishError::invalid(
                "the rabbitmq sink needs an exchange and a routing key as destination",
            ));
        };
        let mut weight = message.event.event_type.len() + FRAME_OVERHEAD;
        let mut table = FieldTable::default();
        let mut content_type = None;
        for (name, value) in message.headers {
            weight += name.len() + value.len() + size_of::<u64>();
            if MORE_KEYS.contains(&name.as_str()) {
                return Err(PublishError::invalid(format!(
                    "the header {name} is an order to RabbitMQ, which takes it for a list of routing keys; \
                     give it another name (any other spelling will do)"
                )));
            }
            if name.eq_ignore_ascii_case(CONTENT_TYPE) {
                content_type = Some(short("content type", value)?);
            } else {
                let value = AMQPValue::LongString(LongString::from(value));
                table.insert(short("name of a header", name)?, value);
            }
        }
        if weight > frame_max {
            return Err(PublishError::invalid(format!(
                "the event's headers take {weight} bytes, and the broker takes frames of {frame_max} at most"
            )));
        }
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short("message id", id.to_string())?)
            .with_type(short("event type", message.event.event_type.clone())?)
            .with_headers(table);
        if let Some(content_type) = content_type {
            properties = properties.with_content_type(content_type);
        }
        // AMQP has no time before 1970.
        if let Ok(seconds) = u64::try_from(message.event.created_at.timestamp()) {
            properties = properties.with_timestamp(seconds);
        }
        Ok(Self {
            id,
            exchange: short("exchange", exchange)?,
            routing_key: short("routing key", routing_key)?,
            properties,
            body: message.body,
        })
    }
}

/// AMQP's short strings have one byte for their length.
fn short(what: &str, text: String) -> Result<ShortString, PublishError> {
    ShortString::try_new(text.as_str()).map_err(|error| {
        let problem = format!("the {what} {} is too long for AMQP", Excerpt(&text));
        PublishError::invalid(problem).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    fn message() -> Message {
        Message {
            event: Arc::new(fixture::event()),
            destination: Destination::Exchange {
                exchange: "e".to_owned(),
                routing_key: "k".to_owned(),
            },
            headers: vec![
                ("event_type".to_owned(), "PickMade".to_owned()),
                ("content-type".to_owned(), "application/json".to_owned()),
            ],
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn properties_and_headers() {
        let message = message();
        let event = Arc::clone(&message.event);
        let parcel = Parcel::of(message, 131_072).expect("fine");
        let properties = &parcel.properties;
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        assert_eq!(text(properties.message_id()), Some(event.id.to_string()));
        assert_eq!(text(properties.kind()), Some(event.event_type.clone()));
        let content_type = text(properties.content_type());
        assert_eq!(content_type.as_deref(), Some("application/json"));
        assert_eq!(*properties.delivery_mode(), Some(2));
        let seconds = event.created_at.timestamp();
        assert_eq!(*properties.timestamp(), u64::try_from(seconds).ok());
        let headers = properties.headers().as_ref().expect("headers");
        assert_eq!(headers.inner().len(), 1, "{headers:?}");
    }

    #[test]
    fn what_amqp_can_not_carry() {
        let long = "x".repeat(256);
        let invalid = |change: &dyn Fn(&mut Message), fragment: &str| {
            let mut message = message();
            change(&mut message);
            let error = Parcel::of(message, 131_072).expect_err(fragment);
            assert_eq!(error.meaning(), Meaning::Invalid);
            assert!(error.to_string().contains(fragment), "{error}");
        };
        invalid(
            &|message| message.destination = Destination::Implicit,
            "exchange",
        );
        invalid(
            &|message| {
                message.destination = Destination::Exchange {
                    exchange: "e".to_owned(),
                    routing_key: long.clone(),
                }
            },
            "routing key",
        );
        invalid(
            &|message| message.headers.push((long.clone(), String::new())),
            "name of a header",
        );
        invalid(
            &|message| message.headers.push(("h".to_owned(), "x".repeat(131_072))),
            "frames of 131072",
        );
        for name in MORE_KEYS {
            let header = (name.to_owned(), "k".to_owned());
            invalid(&|message| message.headers.push(header.clone()), name);
        }
        let mut lower = message();
        lower.headers.push(("cc".to_owned(), "k".to_owned()));
        Parcel::of(lower, 131_072).expect("only these spellings are RabbitMQ's");
        let mut event = fixture::event();
        event.event_type = long.clone();
        let event = Arc::new(event);
        invalid(&|message| message.event = Arc::clone(&event), "event type");
    }
}

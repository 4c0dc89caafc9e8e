//! CloudEvents in binary mode: how attributes become headers at each broker, as its protocol binding has it.

use std::fmt::Write;

use super::cloudevents::Attribute;
use crate::config::Binding;

/// The attribute that says what the body is.
const CONTENT_TYPE: &str = "datacontenttype";

impl Binding {
    /// What the names of headers with attributes begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Kafka => "ce_",
            Self::Amqp => "cloudEvents:",
            Self::Nats => "ce-",
        }
    }

    /// Whether a header of this name would be read as an attribute: an event's own must not be.
    pub(super) fn owns(self, header: &str) -> bool {
        let begins_with = |prefix: &str| {
            let head = header.get(..prefix.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(prefix))
        };
        // Readers of AMQP accept this separator, too.
        begins_with(self.prefix()) || (self == Self::Amqp && begins_with("cloudEvents_"))
    }

    /// The headers of `attributes`. What the body is stands in the header `content-type`, which every message has;
    /// with NATS that one tells the modes apart, so the attribute has a header of its own.
    pub(super) fn headers(self, attributes: &[Attribute<'_>]) -> Vec<(String, String)> {
        let prefix = self.prefix();
        attributes
            .iter()
            .filter(|(name, _)| self == Self::Nats || *name != CONTENT_TYPE)
            .map(|(name, value)| {
                let value = match self {
                    Self::Kafka | Self::Amqp => value.clone(),
                    Self::Nats => percent_encoded(value),
                };
                (format!("{prefix}{name}"), value)
            })
            .collect()
    }
}

/// NATS takes HTTP's rule: space, `"`, `%` and everything but printable ASCII is encoded.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String never fails.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodes_as_the_specification_does() {
        for (value, encoded) in [
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("100%", "100%25"),
            ("\"quoted\"", "%22quoted%22"),
            (
                "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~",
                "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~",
            ),
            ("\u{7f}", "%7F"),
        ] {
            assert_eq!(percent_encoded(value), encoded);
        }
    }

    #[test]
    fn attributes_can_not_be_forged() {
        for (binding, header) in [
            (Binding::Kafka, "ce_type"),
            (Binding::Kafka, "CE_x"),
            (Binding::Amqp, "cloudEvents:type"),
            (Binding::Amqp, "cloudevents_type"),
            (Binding::Nats, "Ce-Type"),
        ] {
            assert!(binding.owns(header), "{binding:?} {header}");
        }
        for (binding, header) in [
            (Binding::Kafka, "ce-type"),
            (Binding::Kafka, "ce"),
            (Binding::Nats, "é-"),
            (Binding::Amqp, "traceparent"),
        ] {
            assert!(!binding.owns(header), "{binding:?} {header}");
        }
    }

    proptest! {
        #[test]
        fn encoded_values_are_printable_and_decode_to_the_same(value in any::<String>()) {
            let encoded = percent_encoded(&value);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let Some((first, tail)) = rest.split_first() {
                if *first == b'%' {
                    let digits = std::str::from_utf8(&tail[..2]).expect("ASCII");
                    bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                    rest = &tail[2..];
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(bytes, value.into_bytes());
        }
    }
}

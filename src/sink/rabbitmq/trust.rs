//! Which messages may close the channel that they are published on.
//!
//! The broker closes a channel when an exchange is missing, may not be written to, or a message is too large, and
//! says nothing of the others in flight on it. So what may be refused goes alone, on a channel of its own
//! ([`super::alone`]): the first message to each exchange, and whatever is like one that was refused. What goes
//! wrong there is certainly that message's own fault, and disturbs no other. An exchange is blamed only in words of
//! the broker that name it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::parcel::Parcel;
use super::refusal::{blames_message, text_of};

/// Routing keys that are remembered as refused, at most. Beyond it the whole exchange goes alone.
const MAX_KEYS: usize = 1_000;

/// What is known of exchanges and sizes, for as long as one connection lasts.
#[derive(Debug, Default)]
pub(super) struct Trust {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    exchanges: HashMap<String, Standing>,
    /// How often the broker has refused an exchange.
    refusals: u64,
    /// Exchanges with a routing key that may not be used.
    keys: HashSet<(String, String)>,
    /// The size of the smallest message that was too large.
    too_large: Option<usize>,
}

#[derive(Debug)]
enum Standing {
    /// The broker took or returned a message.
    Trusted,
    /// It refused one, as the refusal of this number.
    Refused { number: u64, text: String },
}

impl Trust {
    /// Whether the message must go alone.
    pub(super) fn is_suspect(&self, parcel: &Parcel) -> bool {
        let inner = self.lock();
        let standing = inner.exchanges.get(parcel.exchange.as_str());
        !matches!(standing, Some(Standing::Trusted))
            || inner
                .too_large
                .is_some_and(|size| parcel.body.len() >= size)
            || (!inner.keys.is_empty() && inner.keys.contains(&key_of(parcel)))
    }

    /// How often the broker has refused an exchange.
    pub(super) fn refusals(&self) -> u64 {
        self.lock().refusals
    }

    /// What the broker said of the exchange after the first `before` refusals, if that was one: whoever has waited for
    /// its turn since then would have been told the same.
    pub(super) fn refusal_since(&self, before: u64, parcel: &Parcel) -> Option<String> {
        match self.lock().exchanges.get(parcel.exchange.as_str()) {
            Some(Standing::Refused { number, text }) if *number > before => Some(text.clone()),
            _ => None,
        }
    }

    /// The message went alone, and the broker took or returned it.
    pub(super) fn passed(&self, parcel: &Parcel) {
        let mut inner = self.lock();
        let exchange = parcel.exchange.to_string();
        inner.exchanges.insert(exchange, Standing::Trusted);
        inner.keys.remove(&key_of(parcel));
        // The limit was raised.
        if inner
            .too_large
            .is_some_and(|size| parcel.body.len() >= size)
        {
            inner.too_large = None;
        }
    }

    /// The message went alone, and the broker closed the channel.
    pub(super) fn failed(&self, parcel: &Parcel, error: &lapin::Error) {
        if !blames_message(error) {
            return;
        }
        let text = text_of(error);
        let mut inner = self.lock();
        if size_limit(&text).is_some() {
            let size = parcel.body.len();
            inner.too_large = Some(inner.too_large.map_or(size, |known| known.min(size)));
        } else if topic_in(&text).is_some() && inner.keys.len() < MAX_KEYS {
            inner.keys.insert(key_of(parcel));
        } else if exchange_in(&text).is_some() {
            inner.refusals += 1;
            let number = inner.refusals;
            let exchange = parcel.exchange.to_string();
            inner
                .exchanges
                .insert(exchange, Standing::Refused { number, text });
        }
    }

    /// The broker closed a channel on which the message was in flight with others. Whether it may have been this
    /// one's fault; then all that are like it go alone from here on, until one passes.
    pub(super) fn doubt(&self, parcel: &Parcel, error: &lapin::Error) -> bool {
        if !may_be_fault(parcel, &text_of(error)) {
            return false;
        }
        self.lock().exchanges.remove(parcel.exchange.as_str());
        true
    }

    /// No code that may panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(parcel: &Parcel) -> (String, String) {
    (parcel.exchange.to_string(), parcel.routing_key.to_string())
}

/// Whether the words that a channel was closed with can mean this message. Words that are not understood can.
fn may_be_fault(parcel: &Parcel, text: &str) -> bool {
    if let Some(limit) = size_limit(text) {
        return parcel.body.len() > limit;
    }
    if let Some(rest) = topic_in(text) {
        return names(rest, parcel.routing_key.as_str());
    }
    let Some(rest) = exchange_in(text) else {
        return true;
    };
    // The broker calls the default exchange by this name.
    let name = match parcel.exchange.as_str() {
        "" => "amq.default",
        name => name,
    };
    names(rest, name)
}

/// Whether quoted words begin with this name. Long ones are cut off.
fn names(rest: &str, name: &str) -> bool {
    rest.strip_prefix(name)
        .map_or(name.starts_with(rest), |rest| {
            rest.is_empty() || rest.starts_with('\'')
        })
}

/// The limit in `message size 300 is larger than configured max size 200`.
fn size_limit(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("message size ")?;
    let numbers = rest.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).min()
}

/// From the routing key on, if it is a topic permission that lacks: `access to topic 'k' in exchange 'e' in vhost …`.
fn topic_in(text: &str) -> Option<&str> {
    said_of(text, &["access to topic '"])
}

/// From the exchange's name on, if the words blame that exchange: it is not there, or may not be published to.
fn exchange_in(text: &str) -> Option<&str> {
    let blames = [
        "no exchange '",
        "access to exchange '",
        "cannot publish to internal exchange '",
    ];
    said_of(text, &blames)
}

/// What follows on the first words of the broker: names in what it says may hold any words.
fn said_of<'a>(text: &'a str, beginnings: &[&str]) -> Option<&'a str> {
    let words = match text.split_once(" - ") {
        Some((code, words)) if !code.contains(' ') => words,
        _ => text,
    };
    beginnings
        .iter()
        .find_map(|beginning| words.strip_prefix(beginning))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::protocol::{AMQPError, AMQPSoftError};
    use lapin::{BasicProperties, ErrorKind};
    use uuid::Uuid;

    use super::*;

    fn parcel(exchange: &str, key: &str, size: usize) -> Parcel {
        Parcel {
            id: Uuid::from_u128(1),
            exchange: exchange.into(),
            routing_key: key.into(),
            properties: BasicProperties::default(),
            body: Bytes::from(vec![0; size]),
        }
    }

    fn error(kind: AMQPSoftError, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    fn missing(exchange: &str) -> lapin::Error {
        let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
        error(AMQPSoftError::NOTFOUND, &text)
    }

    #[test]
    fn an_exchange_is_trusted_once_a_message_passed() {
        let trust = Trust::default();
        let first = parcel("e", "k", 1);
        assert!(trust.is_suspect(&first));
        assert_eq!(trust.refusal_since(0, &first), None);
        trust.passed(&first);
        assert!(!trust.is_suspect(&parcel("e", "other", 9)));
        assert!(trust.is_suspect(&parcel("f", "k", 1)));
    }

    #[test]
    fn a_refusal_of_an_exchange_is_one_of_all_that_were_waiting() {
        let trust = Trust::default();
        let before = trust.refusals();
        let first = parcel("e", "k", 1);
        trust.failed(&first, &missing("e"));
        let other = parcel("e", "l", 2);
        assert!(
            trust
                .refusal_since(before, &other)
                .is_some_and(|text| text.contains("no exchange 'e'"))
        );
        assert_eq!(trust.refusal_since(before, &parcel("f", "k", 1)), None);
        let later = trust.refusals();
        assert_eq!(trust.refusal_since(later, &other), None, "it asks");
        assert!(trust.is_suspect(&other));
    }

    #[test]
    fn an_exchange_is_blamed_only_by_words_that_name_it() {
        for (kind, text, is_blamed) in [
            (
                AMQPSoftError::NOTFOUND,
                "NOT_FOUND - no exchange 'e' in vhost '/'",
                true,
            ),
            (
                AMQPSoftError::ACCESSREFUSED,
                "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'",
                true,
            ),
            (
                AMQPSoftError::ACCESSREFUSED,
                "ACCESS_REFUSED - cannot publish to internal exchange 'e' in vhost '/'",
                true,
            ),
            (
                AMQPSoftError::PRECONDITIONFAILED,
                "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}",
                false,
            ),
            (
                AMQPSoftError::PRECONDITIONFAILED,
                "PRECONDITION_FAILED - something about 'no exchange 'e''",
                false,
            ),
        ] {
            let trust = Trust::default();
            let first = parcel("e", "k", 1);
            trust.passed(&first);
            trust.failed(&first, &error(kind, text));
            assert_eq!(
                trust.refusal_since(0, &first).is_some(),
                is_blamed,
                "{text}"
            );
            assert_eq!(trust.is_suspect(&first), is_blamed, "{text}");
        }
    }

    #[test]
    fn sizes_and_keys_that_were_refused_go_alone() {
        let trust = Trust::default();
        trust.passed(&parcel("e", "k", 1));
        let text = "PRECONDITION_FAILED - message size 300 is larger than configured max size 200";
        trust.failed(
            &parcel("e", "k", 300),
            &error(AMQPSoftError::PRECONDITIONFAILED, text),
        );
        assert!(trust.is_suspect(&parcel("e", "k", 300)));
        assert!(!trust.is_suspect(&parcel("e", "k", 299)));
        assert_eq!(
            trust.refusal_since(0, &parcel("e", "k", 300)),
            None,
            "each asks"
        );
        let text = "access to topic 'k' in exchange 'e' in vhost '/' refused for user 'u'";
        trust.failed(
            &parcel("e", "k", 1),
            &error(AMQPSoftError::ACCESSREFUSED, text),
        );
        assert!(trust.is_suspect(&parcel("e", "k", 1)));
        assert!(!trust.is_suspect(&parcel("e", "l", 1)));
        trust.passed(&parcel("e", "k", 300));
        assert!(!trust.is_suspect(&parcel("e", "k", 400)));
    }

    #[test]
    fn whose_fault_a_closed_channel_may_be() {
        let size = "message size 300 is larger than configured max size 200";
        let default = "no exchange 'amq.default' in vhost '/'";
        for (exchange, length, text, expected) in [
            ("e", 1, "no exchange 'e' in vhost '/'", true),
            ("f", 1, "no exchange 'e' in vhost '/'", false),
            ("e", 1, "no exchange 'ee' in vhost '/'", false),
            ("ee", 1, "no exchange 'e' in vhost '/'", false),
            ("", 1, default, true),
            ("e", 1, default, false),
            // Cut off in the middle.
            ("exchange", 1, "no exchange 'exch", true),
            ("e", 200, size, false),
            ("e", 201, size, true),
            ("e", 1, "something unheard of", true),
            (
                "e",
                1,
                "A - access to topic 'k' in exchange 'e' in vhost '/'",
                true,
            ),
            (
                "e",
                1,
                "A - access to topic 'exchange 'k' in exchange 'e'",
                false,
            ),
        ] {
            let parcel = parcel(exchange, "k", length);
            assert_eq!(may_be_fault(&parcel, text), expected, "{exchange}: {text}");
        }
    }
}

//! What brokers take as a name.

use super::Template;
use crate::config::{DestinationTemplate, SinkKind};
use crate::excerpt::Excerpt;
use crate::sink::Destination;

/// A broker's rules for the names of destinations. They are checked before a name reaches the broker's client,
/// because a name that breaks the protocol's frame breaks the connection for every event, not only for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// A NATS subject to publish to.
    Nats,
    /// A Kafka topic.
    Kafka,
    /// An AMQP routing key, exchange or queue.
    Amqp,
    /// A sink without rules of its own. Control characters and names without end are refused even so, for
    /// names are printed.
    Any,
}

/// A server takes protocol lines of 4,096 bytes (`max_control_line`) and closes the connection at a longer one. Half of
/// it leaves room for the verb, the reply inbox and the sizes, and is what the sink checks before it writes.
const NATS_SUBJECT_BYTES: usize = 2_048;

/// What brokers allow: a topic is also a directory's name.
const KAFKA_TOPIC_BYTES: usize = 249;

/// AMQP 0-9-1 sends names as short strings, with one byte for the length.
const AMQP_NAME_BYTES: usize = 255;

/// No broker's limit, only ours.
const ANY_NAME_BYTES: usize = 4_096;

/// Stands for a value of an event where there is no event: allowed by every dialect in every place.
const SAMPLE_VALUE: &str = "x";

impl Dialect {
    /// The rules of that kind of sink.
    #[must_use]
    pub fn of(kind: &SinkKind) -> Self {
        match kind {
            SinkKind::Stdout | SinkKind::Mock(_) => Self::Any,
            #[cfg(feature = "nats")]
            SinkKind::Jetstream(_) | SinkKind::Nats(_) => Self::Nats,
            #[cfg(feature = "rabbitmq")]
            SinkKind::Rabbitmq(_) => Self::Amqp,
            #[cfg(feature = "kafka")]
            SinkKind::Kafka(_) => Self::Kafka,
        }
    }

    /// Checks one name.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what the broker allows, for an operator.
    pub fn check(self, name: &str) -> Result<(), String> {
        let (noun, limit) = self.noun_and_limit();
        if name.len() > limit {
            let length = name.len();
            return Err(format!(
                "{noun} {} is {length} bytes long, {limit} is the most",
                Excerpt(name)
            ));
        }
        if is_plain(name) {
            return Ok(());
        }
        let fault = match self {
            Self::Nats => nats_fault(name),
            Self::Kafka => kafka_fault(name),
            Self::Amqp | Self::Any => control_fault(name),
        };
        match fault {
            None => Ok(()),
            Some(fault) => Err(format!("{noun} {} {fault}", Excerpt(name))),
        }
    }

    /// Checks a template as far as that can be done without an event: fails if no event at all can render to
    /// a name that [`Dialect::check`] takes.
    ///
    /// # Errors
    ///
    /// As for [`Dialect::check`], with `x` shown in place of each placeholder.
    pub fn check_template(self, template: &Template) -> Result<(), String> {
        self.check(&template.fill_with(SAMPLE_VALUE))
    }

    /// [`Dialect::check_template`] for every part of a destination.
    ///
    /// # Errors
    ///
    /// As for [`Dialect::check_template`].
    pub fn check_destination_template(self, template: &DestinationTemplate) -> Result<(), String> {
        match template {
            DestinationTemplate::Implicit => Ok(()),
            DestinationTemplate::Name(name) => self.check_template(name),
            DestinationTemplate::Exchange {
                exchange,
                routing_key,
            } => self
                .check(exchange)
                .and_then(|()| self.check_template(routing_key)),
        }
    }

    /// [`Dialect::check`] for every part of a destination.
    ///
    /// # Errors
    ///
    /// As for [`Dialect::check`].
    pub fn check_destination(self, destination: &Destination) -> Result<(), String> {
        match destination {
            Destination::Implicit => Ok(()),
            Destination::Name(name) => self.check(name),
            Destination::Exchange {
                exchange,
                routing_key,
            } => self.check(exchange).and_then(|()| self.check(routing_key)),
        }
    }

    fn noun_and_limit(self) -> (&'static str, usize) {
        match self {
            Self::Nats => ("NATS subject", NATS_SUBJECT_BYTES),
            Self::Kafka => ("Kafka topic", KAFKA_TOPIC_BYTES),
            Self::Amqp => ("AMQP name", AMQP_NAME_BYTES),
            Self::Any => ("destination", ANY_NAME_BYTES),
        }
    }
}

/// Whether every broker takes the name: words of letters, digits, `-` and `_` with single dots in between. Most are so,
/// and each is looked at for each event.
fn is_plain(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut after_word = false;
    for byte in name.bytes() {
        if !(word(byte) || byte == b'.' && after_word) {
            return false;
        }
        after_word = word(byte);
    }
    after_word
}

fn nats_fault(subject: &str) -> Option<String> {
    if subject.is_empty() {
        return Some("is empty".to_owned());
    }
    if let Some(fault) = control_fault(subject) {
        return Some(fault);
    }
    let illegal = |c: char| c.is_whitespace() || matches!(c, '*' | '>');
    if let Some((position, character)) = find(subject, illegal) {
        let what = if character.is_whitespace() {
            "white space ends a subject"
        } else {
            "it is a wildcard, which only subscribers may use"
        };
        return Some(format!("has {character:?} at character {position}: {what}"));
    }
    if subject.starts_with('$') {
        return Some("begins with `$`, which the server keeps for itself ($JS, $SYS)".to_owned());
    }
    if subject.split('.').any(str::is_empty) {
        return Some("has an empty token: no dot may stand first, last or beside a dot".to_owned());
    }
    None
}

fn kafka_fault(topic: &str) -> Option<String> {
    const ALLOWED: &str = "letters a to z and A to Z, digits, `.`, `_` and `-` are allowed";
    if topic.is_empty() {
        return Some("is empty".to_owned());
    }
    if matches!(topic, "." | "..") {
        return Some("is reserved: `.` and `..` can't be topics".to_owned());
    }
    let illegal = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let (position, character) = find(topic, illegal)?;
    Some(format!(
        "has {character:?} at character {position}: {ALLOWED}"
    ))
}

fn control_fault(name: &str) -> Option<String> {
    let (position, character) = find(name, char::is_control)?;
    Some(format!(
        "has the control character {character:?} at character {position}"
    ))
}

/// The first character that is `illegal`, and its place, counted in characters from 1.
fn find(name: &str, illegal: impl Fn(char) -> bool) -> Option<(usize, char)> {
    let mut numbered = (1..).zip(name.chars());
    numbered.find(|(_, character)| illegal(*character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pass() {
        for (dialect, name) in [
            (Dialect::Nats, "draft.picks.draft-1"),
            (Dialect::Nats, "größe.a$b"),
            (Dialect::Kafka, "outbox.event.Draft_1-x"),
            (Dialect::Kafka, "..."),
            (Dialect::Amqp, ""),
            (Dialect::Amqp, "a key with # and *"),
            (Dialect::Any, ""),
            (Dialect::Any, "anything goes *"),
        ] {
            assert_eq!(dialect.check(name), Ok(()), "{dialect:?} {name:?}");
        }
    }

    #[test]
    fn names_that_fail_and_why() {
        for (dialect, name, reason) in [
            (Dialect::Nats, "", r#"NATS subject "" is empty"#),
            (
                Dialect::Nats,
                "a b",
                r#"NATS subject "a b" has ' ' at character 2: white space ends a subject"#,
            ),
            (
                Dialect::Nats,
                "é\u{2003}",
                "NATS subject \"é\\u{2003}\" has '\\u{2003}' at character 2: white space ends a subject",
            ),
            (
                Dialect::Nats,
                "a.*",
                r#"NATS subject "a.*" has '*' at character 3: it is a wildcard, which only subscribers may use"#,
            ),
            (
                Dialect::Nats,
                "a.>",
                r#"NATS subject "a.>" has '>' at character 3: it is a wildcard, which only subscribers may use"#,
            ),
            (
                Dialect::Nats,
                "a\r\nPUB b 0",
                r#"NATS subject "a\r\nPUB b 0" has the control character '\r' at character 2"#,
            ),
            (
                Dialect::Nats,
                "a\0",
                r#"NATS subject "a\0" has the control character '\0' at character 2"#,
            ),
            (
                Dialect::Nats,
                "$JS.API.STREAM.DELETE.x",
                r#"NATS subject "$JS.API.STREAM.DELETE.x" begins with `$`, which the server keeps for itself ($JS, $SYS)"#,
            ),
            (
                Dialect::Nats,
                "a..b",
                r#"NATS subject "a..b" has an empty token: no dot may stand first, last or beside a dot"#,
            ),
            (
                Dialect::Nats,
                ".a",
                r#"NATS subject ".a" has an empty token: no dot may stand first, last or beside a dot"#,
            ),
            (
                Dialect::Nats,
                "a.",
                r#"NATS subject "a." has an empty token: no dot may stand first, last or beside a dot"#,
            ),
            (Dialect::Kafka, "", r#"Kafka topic "" is empty"#),
            (
                Dialect::Kafka,
                "..",
                r#"Kafka topic ".." is reserved: `.` and `..` can't be topics"#,
            ),
            (
                Dialect::Kafka,
                "a/b",
                r#"Kafka topic "a/b" has '/' at character 2: letters a to z and A to Z, digits, `.`, `_` and `-` are allowed"#,
            ),
            (
                Dialect::Kafka,
                "né",
                r#"Kafka topic "né" has 'é' at character 2: letters a to z and A to Z, digits, `.`, `_` and `-` are allowed"#,
            ),
            (
                Dialect::Amqp,
                "a\0",
                r#"AMQP name "a\0" has the control character '\0' at character 2"#,
            ),
            (
                Dialect::Any,
                "a\n",
                r#"destination "a\n" has the control character '\n' at character 2"#,
            ),
        ] {
            assert_eq!(dialect.check(name), Err(reason.to_owned()));
        }
    }

    #[test]
    fn lengths_end_at_the_limit() {
        for (dialect, limit) in [
            (Dialect::Nats, 2_048),
            (Dialect::Kafka, 249),
            (Dialect::Amqp, 255),
            (Dialect::Any, 4_096),
        ] {
            assert_eq!(dialect.check(&"a".repeat(limit)), Ok(()));
            let reason = dialect.check(&"a".repeat(limit + 1)).expect_err("too long");
            assert!(
                reason.ends_with(&format!("bytes long, {limit} is the most")),
                "{reason}"
            );
            assert!(reason.len() < 200, "it shows an excerpt: {reason}");
        }
        // Bytes count, not characters.
        assert!(Dialect::Amqp.check(&"é".repeat(128)).is_err());
    }

    #[test]
    fn templates_are_checked_without_an_event() {
        let check = |dialect: Dialect, source: &str| {
            dialect.check_template(&Template::parse(source).expect("a template"))
        };
        assert_eq!(check(Dialect::Nats, "draft.{event_type}"), Ok(()));
        assert_eq!(check(Dialect::Kafka, "{event_type|lower}"), Ok(()));
        assert_eq!(
            check(Dialect::Nats, "draft picks.{aggregate_id}"),
            Err(r#"NATS subject "draft picks.x" has ' ' at character 6: white space ends a subject"#.to_owned())
        );
        assert!(check(Dialect::Nats, "draft..{aggregate_id}").is_err());
        assert!(check(Dialect::Kafka, "{{{aggregate_id}}}").is_err());
    }

    #[test]
    fn both_parts_of_an_exchange_are_checked() {
        let parts = |exchange: &str, key: &str| {
            let destination = Destination::Exchange {
                exchange: exchange.to_owned(),
                routing_key: key.to_owned(),
            };
            let template = DestinationTemplate::Exchange {
                exchange: exchange.to_owned(),
                routing_key: Template::parse(key).expect("a template"),
            };
            let at_run_time = Dialect::Amqp.check_destination(&destination);
            assert_eq!(
                at_run_time,
                Dialect::Amqp.check_destination_template(&template)
            );
            at_run_time.is_ok()
        };
        assert!(parts("", "picks"));
        assert!(!parts("a\n", "picks"));
        assert!(!parts("draft", "a\n"));
    }
}

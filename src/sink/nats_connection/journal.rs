//! What the log says about a connection.

use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};

/// Writes a connection's events to the log: each change of state once, however many attempts lie between.
#[derive(Debug)]
pub(super) struct Journal {
    connection: String,
    servers: String,
    /// Whether a failed attempt of the current outage is in the log already.
    failure_logged: AtomicBool,
}

impl Journal {
    /// `servers` must not hold credentials.
    pub(super) fn new(connection: &str, servers: String) -> Self {
        Self {
            connection: connection.to_owned(),
            servers,
            failure_logged: AtomicBool::new(false),
        }
    }

    /// Logs one event.
    pub(super) fn record(&self, event: &Event) {
        let (connection, servers) = (self.connection.as_str(), self.servers.as_str());
        match event {
            Event::Connected => {
                self.failure_logged.store(false, Ordering::Relaxed);
                tracing::info!(connection, servers, "connected to nats");
            }
            Event::Disconnected => {
                tracing::warn!(connection, servers, "disconnected from nats, reconnecting");
            }
            Event::ClientError(error) => self.record_failed_attempt(error),
            Event::ServerError(error) => self.record_refusal(error),
            Event::LameDuckMode => {
                tracing::info!(connection, "nats server is about to stop");
            }
            Event::SlowConsumer(_) => {
                tracing::error!(connection, "acknowledgements from nats were dropped unread");
            }
            Event::Draining | Event::Closed => {
                tracing::debug!(connection, event = %event, "nats connection ends");
            }
        }
    }

    /// A reconnect that failed: the first of an outage is worth a warning, the rest repeats it every few seconds.
    fn record_failed_attempt(&self, error: &ClientError) {
        let (connection, servers) = (self.connection.as_str(), self.servers.as_str());
        let refused = ConnectErrorKind::AuthorizationViolation.to_string();
        if self.failure_logged.swap(true, Ordering::Relaxed) {
            tracing::debug!(connection, servers, error = %error, "can't reconnect to nats");
        } else if matches!(error, ClientError::Other(text) if *text == refused) {
            tracing::error!(
                connection,
                servers,
                "nats refuses the credentials, still trying"
            );
        } else {
            tracing::warn!(connection, servers, error = %error, "can't reconnect to nats, still trying");
        }
    }

    /// A refusal to publish ends as the error of that publish; all others have nobody else who would tell.
    fn record_refusal(&self, error: &ServerError) {
        let connection = self.connection.as_str();
        if violation(error).is_some() {
            tracing::debug!(connection, error = %error, "nats refused a publish");
        } else {
            tracing::error!(connection, error = %error, "nats refused something");
        }
    }
}

/// A publish that the server just refused, by the one thing that it says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sink) enum Violation {
    /// The user may not publish to this subject.
    Subject(String),
    /// No message may ask for replies to this subject.
    Reply(String),
    /// It is larger than this user may send: less than `max_payload`, which the client knows. The connection ends.
    Size,
}

/// What the server just refused to take.
pub(in crate::sink) fn violation(error: &ServerError) -> Option<Violation> {
    let ServerError::Other(text) = error else {
        return None;
    };
    if text.eq_ignore_ascii_case("Maximum Payload Violation") {
        return Some(Violation::Size);
    }
    let said = text.strip_prefix("Permissions Violation for Publish ")?;
    let quoted = |after: &str| unquoted(said.strip_prefix(after)?.strip_suffix('"')?);
    quoted("to \"")
        .map(Violation::Subject)
        .or_else(|| quoted("with Reply of \"").map(Violation::Reply))
}

/// Undoes the quoting of Go, as far as it is used for what a subject may hold.
fn unquoted(quoted: &str) -> Option<String> {
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        let digits = match characters.next()? {
            plain @ ('"' | '\\') => {
                text.push(plain);
                continue;
            }
            'u' => 4,
            'U' => 8,
            _ => return None,
        };
        let mut code = 0;
        for _ in 0..digits {
            code = code * 16 + characters.next()?.to_digit(16)?;
        }
        text.push(char::from_u32(code)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_publish_is_told_from_other_refusals() {
        let cases = [
            (
                "Permissions Violation for Publish to \"draft.Picks\"",
                Some(Violation::Subject("draft.Picks".to_owned())),
            ),
            (
                "Permissions Violation for Publish with Reply of \"_INBOX.x.7\"",
                Some(Violation::Reply("_INBOX.x.7".to_owned())),
            ),
            ("Maximum Payload Violation", Some(Violation::Size)),
            (
                "Permissions Violation for Subscription to \"_INBOX.x.*\"",
                None,
            ),
            (
                r#"Permissions Violation for Publish to "a\"\\\u200b\U0001f600é""#,
                Some(Violation::Subject("a\"\\\u{200b}😀é".to_owned())),
            ),
            (r#"Permissions Violation for Publish to "a\x""#, None),
            (r#"Permissions Violation for Publish to "a\u12""#, None),
            ("Stale Connection", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                violation(&ServerError::Other(text.into())),
                expected,
                "{text}"
            );
        }
        assert_eq!(violation(&ServerError::AuthorizationViolation), None);
    }
}

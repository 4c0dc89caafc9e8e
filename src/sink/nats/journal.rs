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
        if forbidden_subject(error).is_some() {
            tracing::debug!(connection, error = %error, "nats refused a publish");
        } else {
            tracing::error!(connection, error = %error, "nats refused something");
        }
    }
}

/// The subject that the server just refused to publish to, for want of permission.
///
/// The server quotes it as Go does, so a subject with a quote or a backslash in it isn't recognised: such a
/// publish ends by its timeout.
pub(in crate::sink) fn forbidden_subject(error: &ServerError) -> Option<&str> {
    let ServerError::Other(text) = error else {
        return None;
    };
    text.strip_prefix("Permissions Violation for Publish to \"")?
        .strip_suffix('"')
        .filter(|subject| !subject.contains(['"', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_subject_is_told_from_other_refusals() {
        let cases = [
            (
                "Permissions Violation for Publish to \"draft.Picks\"",
                Some("draft.Picks"),
            ),
            (
                "Permissions Violation for Subscription to \"_INBOX.x.*\"",
                None,
            ),
            ("Permissions Violation for Publish to \"a\\u00e9\"", None),
            ("Stale Connection", None),
        ];
        for (text, subject) in cases {
            assert_eq!(
                forbidden_subject(&ServerError::Other(text.into())),
                subject,
                "{text}"
            );
        }
        assert_eq!(
            forbidden_subject(&ServerError::AuthorizationViolation),
            None
        );
    }
}

//! A connection to NATS, as every sink that speaks NATS makes it: servers, credentials, TLS, reconnecting.
//!
//! Owns what is the same for core NATS and JetStream. Must not know what is published or how it is acknowledged.
//!
//! The client reconnects by itself for as long as it takes, at once and then with delays that grow to four
//! seconds. Certificate files are read anew at each connect; credentials are read once.

mod address;
mod credentials;
pub(super) mod frame;
mod journal;
pub(super) mod refusal;
pub(super) mod stale;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};

use self::address::Addresses;
use self::journal::Journal;
pub(super) use self::journal::{Violation, violation};
use super::connect::ConnectError;
use crate::config;

/// Sign of life from the server: a peer that vanished without a word is noticed after three of these at the
/// latest, and in-flight publishes fail then instead of one by one.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// TCP, TLS and NATS handshake with one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes that may wait for the connection's writer. It holds the usual window, and it is all that can go
/// out late after an outage; publishes beyond it wait in their own futures, where a timeout ends them.
const WRITER_QUEUE: usize = 1_024;

/// What a connection needs.
#[derive(Debug)]
pub(super) struct Options<'a> {
    /// URLs of the servers of one cluster.
    pub(super) servers: &'a [config::Secret],
    /// How to authenticate; credentials in a URL count where this is `None`.
    pub(super) auth: &'a config::NatsAuth,
    /// Files for TLS. TLS is required where this is given, whatever the URL's scheme.
    pub(super) tls: Option<&'a config::Tls>,
    /// How the connection is named in logs and in the server's monitoring.
    pub(super) name: &'a str,
}

/// Connects once. `on_event` is called for each of the connection's events, in order; it must be quick.
///
/// # Errors
///
/// `Config` for a malformed URL, and for files that can't be read or don't hold what they should;
/// `Unavailable` for everything that the server or the network can mend.
pub(super) async fn connect(
    options: &Options<'_>,
    on_event: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let addresses = Addresses::parse(options.servers)?;
    let auth = match options.auth {
        config::NatsAuth::None => &addresses.auth,
        configured => configured,
    };
    let journal = Arc::new(Journal::new(options.name, addresses.to_string()));
    let mut client = ConnectOptions::new()
        .name(options.name)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .client_capacity(WRITER_QUEUE)
        .event_callback(move |event| {
            journal.record(&event);
            on_event(&event);
            std::future::ready(())
        });
    client = credentials::apply(client, auth).await?;
    if let Some(files) = options.tls {
        client = tls::apply(client, files).await?;
    }
    // The client builds its TLS configuration from the process's default provider and panics without one.
    // If there is one already, it stays.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    client
        .connect(addresses.servers.as_slice())
        .await
        .map_err(|error| explain(error, &addresses))
}

/// Says what a failed first connect means. A file that is wrong was found before; what is left is a server
/// that may be mended, except for a key that can't sign.
fn explain(error: async_nats::ConnectError, addresses: &Addresses) -> ConnectError {
    let context = match error.kind() {
        ConnectErrorKind::Authentication => {
            return ConnectError::config(
                "auth",
                "the seed or the credentials file can't sign the server's challenge; is it a user's seed (SU…)?",
            );
        }
        ConnectErrorKind::AuthorizationViolation => {
            format!(
                "NATS at {addresses} refused the credentials; look at [auth] and the server's accounts"
            )
        }
        ConnectErrorKind::TimedOut => format!("NATS at {addresses} did not answer"),
        _ => format!("can't connect to NATS at {addresses}"),
    };
    ConnectError::unavailable(context).caused_by(error)
}

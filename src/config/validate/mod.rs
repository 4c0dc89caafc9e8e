//! From typed to validated: kinds become values, references are resolved, limits are checked.
//!
//! Each function gives a value even where something is wrong, so that the rest is looked at too; the findings in
//! the report decide in the end.

#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "kafka"))]
mod credentials;
mod destination;
mod envelope;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
mod percent;
mod place;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod routing;
mod scalar;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Contents;
use super::finding::KeyPath;
use super::read::Typed;
use super::report::Report;
use super::typed;
use super::validated::{Admin, Config, Relay, Retry, Tls};
use scalar::{HOUR, SECOND, count, duration, name};

pub(crate) use scalar::parse_name;

/// The mode of a PostgreSQL source that names none.
pub(super) const DEFAULT_MODE: &str = "notify";

/// What a relay without a name is called.
const DEFAULT_RELAY: &str = "outbox-relay";

/// What the relay is called.
fn relay_name(typed: &typed::Relay) -> &str {
    typed.name.as_deref().unwrap_or(DEFAULT_RELAY)
}

/// Checks everything, and gives the configuration if `report` is clean in the end.
pub(super) fn validate(typed: &Typed, report: &mut Report) -> Option<Config> {
    let root = KeyPath::root();
    let config = Config {
        relay: relay(&root.key("relay"), &typed.root.relay, report),
        admin: typed
            .root
            .admin
            .as_ref()
            .map(|typed| admin(&root.key("admin"), typed, report)),
        sources: sources(&root.key("sources"), typed, report),
        sinks: sink::sinks(&root.key("sinks"), typed, report),
        routing: routing::routing(typed, report),
    };
    report.is_clean().then_some(config)
}

fn relay(path: &KeyPath, typed: &typed::Relay, report: &mut Report) -> Relay {
    let relay = relay_name(typed);
    name(report, &path.key("name"), relay);
    Relay {
        name: relay.to_owned(),
        shutdown_timeout: duration(
            report,
            &path.key("shutdown_timeout"),
            typed.shutdown_timeout.as_ref(),
            30 * SECOND,
            Duration::from_millis(1)..=HOUR,
        ),
    }
}

fn admin(path: &KeyPath, typed: &typed::Admin, report: &mut Report) -> Admin {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 8080));
    let listen = typed
        .listen
        .as_ref()
        .map_or(Ok(loopback), |text| text.parse());
    if listen.is_err() {
        report.error(
            &path.key("listen"),
            "must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"",
        );
    }
    if typed
        .token
        .as_ref()
        .is_some_and(|token| token.expose().is_empty())
    {
        report.error(
            &path.key("token"),
            "is empty: set a token, or leave the key out",
        );
    }
    Admin {
        listen: listen.unwrap_or(loopback),
        token: typed.token.clone(),
        health: typed.health.unwrap_or(true),
        metrics: typed.metrics.unwrap_or(true),
    }
}

fn sources(
    path: &KeyPath,
    typed: &Typed,
    report: &mut Report,
) -> BTreeMap<String, super::validated::Source> {
    if typed.sources.is_empty() && !report.is_struck_within(path) {
        report.error(
            path,
            "there is none: write a table [sources.NAME], or set DATABASE_URL",
        );
    }
    let sources = typed.sources.iter();
    sources
        .filter_map(|(name, typed)| {
            let source = source::source(&path.key(name), name, typed, report)?;
            Some((name.clone(), source))
        })
        .collect()
}

/// The keys of `own`, and where they are not set those of `shared`. `paths` are those of the two tables.
fn retry(
    paths: [&KeyPath; 2],
    own: &typed::Retry,
    shared: &typed::Retry,
    report: &mut Report,
) -> Retry {
    let key = |name: &str, is_own: bool| paths[usize::from(!is_own)].key(name);
    let bounds = Duration::from_millis(1)..=24 * HOUR;
    let initial = key("initial_delay", own.initial_delay.is_some());
    let max = key("max_delay", own.max_delay.is_some());
    let given = own.initial_delay.as_ref().or(shared.initial_delay.as_ref());
    let initial_delay = duration(report, &initial, given, SECOND, bounds.clone());
    let given = own.max_delay.as_ref().or(shared.max_delay.as_ref());
    let max_delay = duration(report, &max, given, 30 * SECOND, bounds);
    if initial_delay > max_delay {
        report.error(
            &initial,
            format!("is longer than {max}, which limits it: lower it, or raise that one"),
        );
    }
    Retry {
        max_retries: count(
            report,
            &key("max_retries", own.max_retries.is_some()),
            own.max_retries.or(shared.max_retries),
            3,
            0..=1_000,
        ),
        initial_delay,
        max_delay,
    }
}

fn tls(path: &KeyPath, typed: &typed::Tls, report: &mut Report) -> Tls {
    let mut file = |key: &str, given: &Option<String>| {
        let given = given.as_ref()?;
        if given.is_empty() {
            report.error(
                &path.key(key),
                "is empty: write the path of a PEM file, or leave the key out",
            );
        }
        Some(PathBuf::from(given))
    };
    let ca = file("ca", &typed.ca);
    let cert = file("cert", &typed.cert);
    let key = file("key", &typed.key);
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            report.required(
                &path.key("key"),
                None::<()>,
                "cert needs the key that belongs to it",
            );
            None
        }
        (None, Some(_)) => {
            report.required(
                &path.key("cert"),
                None::<()>,
                "key needs the certificate that belongs to it",
            );
            None
        }
    };
    let pair = client.iter().flat_map(|(cert, key)| [cert, key]);
    let contents = Contents::of(ca.iter().chain(pair).map(PathBuf::as_path));
    Tls {
        ca,
        client,
        contents,
    }
}

//! From typed to validated: kinds become values, references are resolved, limits are checked.
//!
//! Each function gives a value even where something is wrong, so that the rest is looked at too; the findings in
//! the report decide in the end.

mod destination;
#[cfg(feature = "nats")]
mod nats;
mod place;
mod routing;
mod scalar;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::availability;
use super::finding::KeyPath;
use super::read::Typed;
use super::report::Report;
use super::typed;
use super::validated::{Admin, Config, Envelope, Format, Relay, Retry, Tls};
use scalar::{HOUR, SECOND, choice, count, duration, name};

/// What a relay without a name is called.
const DEFAULT_RELAY: &str = "outbox-relay";
/// Keys of the json envelope that are taken.
const ENVELOPE_KEYS: [&str; 4] = ["eventId", "eventType", "timestamp", "payload"];

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
    let relay = typed.name.as_deref().unwrap_or(DEFAULT_RELAY);
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

/// Like [`retry`], for `[envelope]`.
fn envelope(
    paths: [&KeyPath; 2],
    own: &typed::Envelope,
    shared: &typed::Envelope,
    report: &mut Report,
) -> Envelope {
    let key = |name: &str, is_own: bool| paths[usize::from(!is_own)].key(name);
    let format = envelope_format(
        &key("format", own.format.is_some()),
        own.format.as_deref().or(shared.format.as_deref()),
        report,
    );
    let path = key("aggregate_field", own.aggregate_field.is_some());
    let field = own
        .aggregate_field
        .as_deref()
        .or(shared.aggregate_field.as_deref());
    let field = field.unwrap_or("aggregateId");
    if field.is_empty() {
        report.error(
            &path,
            "is empty: name the key that is to hold the aggregate id",
        );
    }
    if ENVELOPE_KEYS.contains(&field) {
        let taken = ENVELOPE_KEYS.join(", ");
        report.error(
            &path,
            format!("is a key that the envelope has already ({taken}): choose another"),
        );
    }
    if format == Format::Raw && own.aggregate_field.is_some() {
        report.warn(&path, "does nothing: only the format json has this key");
    }
    Envelope {
        format,
        aggregate_field: field.to_owned(),
    }
}

/// `None` for the formats that this program knows and this build does not have.
const FORMATS: [(&str, Option<Format>); 4] = [
    ("json", Some(Format::Json)),
    ("raw", Some(Format::Raw)),
    ("cloudevents", None),
    ("cloudevents-binary", None),
];

fn envelope_format(path: &KeyPath, given: Option<&str>, report: &mut Report) -> Format {
    let known = choice(report, path, given, &FORMATS).flatten();
    if let Some(name) = given.filter(|name| FORMATS.iter().any(|(known, _)| known == name))
        && let Err(message) = availability::envelope_format(name)
    {
        report.error(path, message);
    }
    known.unwrap_or(Format::Json)
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
    Tls { ca, client }
}

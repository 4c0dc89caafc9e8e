//! `[sinks.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::destination::{DefaultUse, default_destination};
use super::envelope::envelope;
use super::retry;
use super::scalar::{HOUR, MINUTE, SECOND, choice, count, duration, name, optional_size, share};
use crate::config::availability;
use crate::config::finding::KeyPath;
use crate::config::nearest::did_you_mean;
use crate::config::read::Typed;
use crate::config::report::Report;
use crate::config::typed;
use crate::config::validated::{Mock, Sink, SinkKind, Start};

const STARTS: [(&str, Start); 3] = [
    ("latest", Start::Latest),
    ("unsettled", Start::Unsettled),
    ("earliest", Start::Earliest),
];

/// Every sink that has a usable type; what is wrong with the others is reported.
pub(super) fn sinks(path: &KeyPath, typed: &Typed, report: &mut Report) -> BTreeMap<String, Sink> {
    if typed.sinks.is_empty() && !report.is_struck_within(path) {
        report.error(
            path,
            "there is none: write a table [sinks.NAME], or set PUBLISHER_TYPE",
        );
    }
    let mut read = BTreeSet::new();
    let mut sinks = BTreeMap::new();
    for (name, member) in &typed.sinks {
        let path = path.key(name);
        let inputs = inputs(&path.key("inputs"), member, typed, report);
        read.extend(inputs.iter().cloned());
        if let Some(sink) = sink(&path, name, member, inputs, typed, report) {
            sinks.insert(name.clone(), sink);
        }
    }
    if !typed.sinks.is_empty() {
        for idle in typed.sources.keys().filter(|name| !read.contains(*name)) {
            let path = KeyPath::of(["sources", idle]);
            report.warn(
                &path,
                "feeds no sink: name it in the inputs of one, or take it out",
            );
        }
    }
    sinks
}

fn sink(
    path: &KeyPath,
    key: &str,
    member: &typed::Sink,
    inputs: Vec<String>,
    typed: &Typed,
    report: &mut Report,
) -> Option<Sink> {
    name(report, path, key);
    let common = &member.common;
    let root = KeyPath::root();
    let retry_paths = [&path.key("retry"), &root.key("retry")];
    let limits = Duration::from_millis(1)..=10 * MINUTE;
    let flushes = Duration::from_millis(1)..=MINUTE;
    let bytes = optional_size(
        report,
        &path.key("max_in_flight_bytes"),
        common.max_in_flight_bytes.as_ref(),
        1 << 10..=64 << 30,
    );
    let bytes = bytes.unwrap_or(64 << 20);
    let start = choice(report, &path.key("start"), common.start.as_deref(), &STARTS);
    let timeout = duration(
        report,
        &path.key("timeout"),
        common.timeout.as_ref(),
        5 * SECOND,
        limits,
    );
    let max_in_flight = count(
        report,
        &path.key("max_in_flight"),
        common.max_in_flight,
        1_024,
        1..=65_536,
    );
    let max_parked = count(
        report,
        &path.key("max_parked"),
        common.max_parked,
        10_000,
        1..=1_000_000,
    );
    let flush_interval = duration(
        report,
        &path.key("flush_interval"),
        common.flush_interval.as_ref(),
        Duration::from_millis(250),
        flushes,
    );
    let retry = retry(retry_paths, &common.retry, &typed.root.retry, report);
    let envelope = envelope(&path.key("envelope"), member, typed, report);
    let default_destination =
        default_destination(path, member, DefaultUse::of(key, typed, report), report);
    let kind = kind(path, member, report)?;
    Some(Sink {
        name: key.to_owned(),
        inputs,
        start,
        timeout,
        max_in_flight: max_in_flight as usize,
        max_in_flight_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        max_parked: max_parked as usize,
        flush_interval,
        retry,
        envelope,
        default_destination,
        kind,
    })
}

/// The sources that feed the sink, in the order of their names.
fn inputs(path: &KeyPath, member: &typed::Sink, typed: &Typed, report: &mut Report) -> Vec<String> {
    let Some(given) = &member.common.inputs else {
        return typed.sources.keys().cloned().collect();
    };
    let mut inputs = BTreeSet::new();
    for input in given.split() {
        if typed.sources.contains_key(input) {
            inputs.insert(input.to_owned());
        } else if !report.is_struck(&KeyPath::of(["sources", input])) {
            let hint = did_you_mean(input, typed.sources.keys().map(String::as_str));
            let quoted = report.quote(path, input);
            report.error(
                path,
                format!(
                    "{quoted} is the name of no source{hint}: write a table [sources.NAME] for it"
                ),
            );
        }
    }
    if given.items().is_empty() {
        report.error(
            path,
            "is empty: name the sources that feed the sink, or leave the key out for all of them",
        );
    }
    inputs.into_iter().collect()
}

/// The type with its settings; `None` if it has none, or none that this build has, which is reported.
fn kind(path: &KeyPath, member: &typed::Sink, report: &mut Report) -> Option<SinkKind> {
    let kind = member.kind.as_ref()?;
    if let Err(message) = availability::sink_type(kind.type_name()) {
        report.error(&path.key("type"), message);
        return None;
    }
    match kind {
        typed::SinkKind::Stdout(_) => Some(SinkKind::Stdout),
        typed::SinkKind::Mock(typed) => Some(SinkKind::Mock(mock(path, typed, report))),
        #[cfg(feature = "nats")]
        typed::SinkKind::Jetstream(typed) => Some(SinkKind::Jetstream(super::nats::jetstream(
            path, typed, report,
        ))),
        #[cfg(feature = "nats")]
        typed::SinkKind::Nats(typed) => {
            Some(SinkKind::Nats(super::nats::nats(path, typed, report)))
        }
        #[cfg(feature = "rabbitmq")]
        typed::SinkKind::Rabbitmq(typed) => Some(SinkKind::Rabbitmq(super::rabbitmq::rabbitmq(
            path, typed, report,
        ))),
        #[cfg(feature = "kafka")]
        typed::SinkKind::Kafka(typed) => {
            super::kafka::idle_keys(path, &member.common, report);
            super::kafka::kafka(path, typed, report).map(SinkKind::Kafka)
        }
        #[allow(unreachable_patterns)] // by the features of the build: reported above
        _ => None,
    }
}

fn mock(path: &KeyPath, typed: &typed::Mock, report: &mut Report) -> Mock {
    Mock {
        delay: duration(
            report,
            &path.key("delay"),
            typed.delay.as_ref(),
            Duration::ZERO,
            Duration::ZERO..=HOUR,
        ),
        fail: share(report, &path.key("fail"), typed.fail),
        reject: share(report, &path.key("reject"), typed.reject),
    }
}

//! What Kafka sinks have beside a topic: brokers, credentials, settings of librdkafka.

use std::collections::BTreeMap;
use std::path::Path;

use rdkafka::config::{ClientConfig, FromClientConfig as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

use super::credentials::credentials;
use super::scalar::choice;
use super::tls as tls_files;
use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::config::typed::{self, List};
use crate::config::validated::{Kafka, KafkaAuth, KafkaMechanism};
use crate::config::{Contents, Secret};

const MECHANISMS: [(&str, KafkaMechanism); 3] = [
    ("plain", KafkaMechanism::Plain),
    ("scram-sha-256", KafkaMechanism::ScramSha256),
    ("scram-sha-512", KafkaMechanism::ScramSha512),
];

const OWN_KEYS: &str = "has a key of its own:";
const ORDER: &str = "would break the order of events or lose some:";
const FOR_EVER: &str =
    "would have the client give up on events while later ones of their key go on:";

/// Settings that are not for `options`, and why: what the relay's promises rest on, and what has a key of its own.
const RESERVED: [(&str, &str, &str); 29] = [
    ("bootstrap.servers", OWN_KEYS, "write brokers"),
    ("metadata.broker.list", OWN_KEYS, "write brokers"),
    (
        "security.protocol",
        OWN_KEYS,
        "write the tables auth and tls",
    ),
    ("sasl.mechanism", OWN_KEYS, "write auth.mechanism"),
    ("sasl.mechanisms", OWN_KEYS, "write auth.mechanism"),
    ("sasl.username", OWN_KEYS, "write auth.user"),
    ("sasl.password", OWN_KEYS, "write auth.password"),
    ("ssl.ca.location", OWN_KEYS, "write tls.ca"),
    ("ssl.certificate.location", OWN_KEYS, "write tls.cert"),
    ("ssl.key.location", OWN_KEYS, "write tls.key"),
    (
        "queue.buffering.max.messages",
        OWN_KEYS,
        "write max_in_flight",
    ),
    (
        "queue.buffering.max.kbytes",
        OWN_KEYS,
        "write max_in_flight_bytes",
    ),
    ("enable.idempotence", ORDER, "it is always true"),
    ("enable.gapless.guarantee", ORDER, "it is always true"),
    ("acks", ORDER, "it is always all"),
    ("request.required.acks", ORDER, "it is always all"),
    ("queuing.strategy", ORDER, "it is always fifo"),
    ("transactional.id", ORDER, "the relay has no transactions"),
    (
        "transaction.timeout.ms",
        ORDER,
        "the relay has no transactions",
    ),
    ("message.timeout.ms", FOR_EVER, "it is always 0"),
    ("delivery.timeout.ms", FOR_EVER, "it is always 0"),
    ("message.send.max.retries", FOR_EVER, "there is no limit"),
    ("retries", FOR_EVER, "there is no limit"),
    (
        "delivery.report.only.error",
        ORDER,
        "reports are what acknowledges",
    ),
    ("dr_cb", ORDER, "reports are what acknowledges"),
    ("dr_msg_cb", ORDER, "reports are what acknowledges"),
    ("log.queue", OWN_KEYS, "the relay's log has the client's"),
    (
        "test.mock.num.brokers",
        ORDER,
        "a mock stores nothing; use a sink of type mock",
    ),
    ("enabled_events", ORDER, "reports are what acknowledges"),
];

/// How the names of options end that are paths of files.
const FILE_OPTIONS: [&str; 3] = [".location", ".file", ".keytab"];

/// The sink's settings; `None` if there is no way to authenticate, which is reported.
pub(super) fn kafka(path: &KeyPath, typed: &typed::Kafka, report: &mut Report) -> Option<Kafka> {
    let brokers = brokers(&path.key("brokers"), typed.brokers.as_ref(), report);
    let tls_path = path.key("tls");
    let tls = typed.tls.as_ref();
    let tls = tls.map(|typed| tls_files(&tls_path, typed, report));
    let options_path = path.key("options");
    if options(&options_path, &typed.options, report) {
        fit_together(&options_path, &typed.options, report);
    }
    let auth = match &typed.auth {
        None => None,
        Some(typed) => Some(auth(&path.key("auth"), typed, report)?),
    };
    if let (Some(auth), None) = (&auth, &tls)
        && auth.mechanism == KafkaMechanism::Plain
    {
        report.warn(
            &path.key("auth").key("mechanism"),
            "sends the password as it is over a connection that isn't encrypted: add a table tls",
        );
    }
    Some(Kafka {
        brokers,
        auth,
        tls,
        option_files: option_files(&typed.options),
        options: typed.options.clone(),
    })
}

/// What the files hold that options name: certificates, keys, revocation lists.
fn option_files(options: &BTreeMap<String, Secret>) -> Contents {
    let names_a_file = |name: &str| FILE_OPTIONS.iter().any(|ending| name.ends_with(ending));
    let files = options.iter().filter(|(name, _)| names_a_file(name));
    Contents::of(files.map(|(_, path)| Path::new(path.expose())))
}

/// Warns of what does nothing with a sink that keeps order itself.
pub(super) fn idle_keys(path: &KeyPath, common: &typed::SinkCommon, report: &mut Report) {
    if common.retry.max_retries.is_some_and(|retries| retries > 0) {
        report.warn(
            &path.key("retry").key("max_retries"),
            "does nothing with kafka: the successors of a refused event are on their way already, so it is a dead \
             letter at once",
        );
    }
}

fn brokers(path: &KeyPath, given: Option<&List>, report: &mut Report) -> Vec<String> {
    let example = "write \"host:9092\"";
    let Some(given) = report.required(path, given, &format!("{example}, or set KAFKA_BROKERS"))
    else {
        return Vec::new();
    };
    let brokers = given.split();
    if brokers.is_empty() {
        report.error(path, format!("is empty: {example}"));
    }
    for (position, broker) in brokers.iter().enumerate() {
        let path = match given {
            List::One(_) => path.clone(),
            List::Many(_) => path.index(position),
        };
        let port = broker.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        let is_address = |host: &str| !host.is_empty() && !host.contains(char::is_whitespace);
        if broker.contains("://") || broker.contains('@') {
            report.error(
                &path,
                format!("is a URL: {example}, and what is encrypted or who it is in the tables tls and auth"),
            );
        } else if !is_address(broker.rsplit_once(':').map_or("", |(host, _)| host)) {
            report.error(&path, format!("must be a host and a port: {example}"));
        } else if !matches!(port, Some(Ok(1..))) {
            report.error(&path, format!("has no port from 1 to 65535: {example}"));
        }
    }
    brokers.into_iter().map(str::to_owned).collect()
}

fn auth(path: &KeyPath, typed: &typed::KafkaAuth, report: &mut Report) -> Option<KafkaAuth> {
    let mechanism_path = path.key("mechanism");
    let mechanism = typed.mechanism.as_deref();
    let mechanism = choice(report, &mechanism_path, mechanism, &MECHANISMS);
    let (user, password) = (typed.user.as_ref(), typed.password.as_ref());
    let (user, password) = credentials(path, user, password, report)?;
    Some(KafkaAuth {
        mechanism: mechanism.unwrap_or(KafkaMechanism::ScramSha512),
        user,
        password,
    })
}

/// Whether librdkafka takes each setting by itself.
fn options(path: &KeyPath, options: &BTreeMap<String, Secret>, report: &mut Report) -> bool {
    let mut are_good = true;
    for (name, value) in options {
        if let Err(message) = option(path, name, value, report) {
            report.error(&path.key(name), message);
            are_good = false;
        }
    }
    are_good
}

fn option(path: &KeyPath, name: &str, value: &Secret, report: &Report) -> Result<(), String> {
    if let Some((_, why, instead)) = RESERVED.iter().find(|(reserved, ..)| *reserved == name) {
        return Err(format!("{why} {instead}"));
    }
    if name == "partitioner" && value.expose() == "random" {
        return Err(format!("{ORDER} events of one key must have one partition"));
    }
    let mut client = ClientConfig::new();
    client.set(name, value.expose());
    match client.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Err(
            "is no setting of librdkafka: see CONFIGURATION.md in its repository for those there are".to_owned(),
        ),
        // Its words repeat the value.
        Err(KafkaError::ClientConfig(_, reason, ..)) if report.place(&path.key(name)).is_literal() => {
            Err(format!("has a value that librdkafka refuses: {reason}"))
        }
        Err(_) => Err("has a value that librdkafka refuses".to_owned()),
    }
}

/// Whether librdkafka takes the settings together with those that the relay makes. Without brokers the client
/// contacts nobody, and without files it reads none.
fn fit_together(path: &KeyPath, options: &BTreeMap<String, Secret>, report: &mut Report) {
    if options.is_empty() {
        return;
    }
    let mut client = ClientConfig::new();
    client.set("enable.idempotence", "true").set("acks", "all");
    client.set("message.timeout.ms", "0");
    let names_file = |name: &str| name.starts_with("ssl.") || name.starts_with("sasl.");
    for (name, value) in options.iter().filter(|(name, _)| !names_file(name)) {
        client.set(name, value.expose());
    }
    if let Err(KafkaError::ClientCreation(reason)) = BaseProducer::from_config(&client) {
        report.error(path, format!("don't fit together: {}", reason.trim()));
    }
}

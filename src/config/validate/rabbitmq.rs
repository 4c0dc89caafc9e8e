//! What RabbitMQ sinks have beside a destination: a URL, credentials, what to declare.

mod url;

use self::url::Address;
use super::credentials::credentials;
use super::scalar::choice;
use super::tls;
use crate::config::Secret;
use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::config::typed::{self, List};
use crate::config::validated::{Rabbitmq, RabbitmqDeclare};

/// Types of an exchange, as AMQP spells them.
const EXCHANGE_TYPES: [(&str, &str); 4] = [
    ("topic", "topic"),
    ("direct", "direct"),
    ("fanout", "fanout"),
    ("headers", "headers"),
];

const QUEUE_TYPES: [(&str, bool); 2] = [("quorum", true), ("classic", false)];

/// AMQP sends names and keys with one byte for their length.
const MAX_NAME: usize = 255;

pub(super) fn rabbitmq(path: &KeyPath, typed: &typed::Rabbitmq, report: &mut Report) -> Rabbitmq {
    let address = address(&path.key("url"), typed.url.as_ref(), report);
    let own = typed.auth.as_ref();
    let own = own.and_then(|typed| {
        let (user, password) = (typed.user.as_ref(), typed.password.as_ref());
        credentials(&path.key("auth"), user, password, report)
    });
    // What a broker has for a user of its own machine, and what every client assumes.
    let (user, password) = own
        .or(address.credentials)
        .unwrap_or_else(|| ("guest".to_owned(), Secret::new("guest")));
    let tls_path = path.key("tls");
    if typed.tls.is_some() && !address.encrypted {
        report.error(
            &tls_path,
            "stands beside a URL that begins with amqp://, which is not encrypted: write amqps://",
        );
    }
    Rabbitmq {
        host: address.host,
        port: address.port,
        encrypted: address.encrypted,
        vhost: address.vhost,
        user,
        password,
        tls: typed
            .tls
            .as_ref()
            .map(|typed| tls(&tls_path, typed, report)),
        declare: declare(path, typed, report),
    }
}

fn address(path: &KeyPath, given: Option<&Secret>, report: &mut Report) -> Address {
    let example = "write \"amqp://host:5672\"";
    let Some(given) = report.required(path, given, &format!("{example}, or set RABBITMQ_URL"))
    else {
        return Address::default();
    };
    Address::parse(given.expose()).unwrap_or_else(|problem| {
        report.error(path, format!("{problem}: {example}"));
        Address::default()
    })
}

fn declare(path: &KeyPath, typed: &typed::Rabbitmq, report: &mut Report) -> RabbitmqDeclare {
    let Some(wanted) = &typed.declare else {
        return RabbitmqDeclare::default();
    };
    let path = path.key("declare");
    let exchange = typed.exchange.clone().filter(|name| !name.is_empty());
    let queues = names(&path.key("queues"), wanted.queues.as_ref(), report);
    let keys = names(&path.key("bind"), wanted.bind.as_ref(), report);
    let type_path = path.key("exchange_type");
    let exchange_type = wanted.exchange_type.as_deref();
    let exchange_type = choice(report, &type_path, exchange_type, &EXCHANGE_TYPES);
    if exchange.is_none() && exchange_type.is_some() {
        report.error(
            &type_path,
            "needs the sink's exchange, which is the one to declare",
        );
    }
    if !keys.is_empty() && (exchange.is_none() || queues.is_empty()) {
        report.error(
            &path.key("bind"),
            "needs the sink's exchange, and queues to bind to it",
        );
    }
    let queue_type = wanted.queue_type.as_deref();
    let queue_type = choice(report, &path.key("queue_type"), queue_type, &QUEUE_TYPES);
    RabbitmqDeclare {
        exchange: exchange.clone().zip(exchange_type),
        queues,
        quorum: queue_type.unwrap_or(true),
        bind: exchange
            .filter(|_| !keys.is_empty())
            .map(|name| (name, keys)),
    }
}

fn names(path: &KeyPath, given: Option<&List>, report: &mut Report) -> Vec<String> {
    let names = given.map(List::split).unwrap_or_default();
    for name in &names {
        let problem = if name.is_empty() {
            "holds an empty name: take it out"
        } else if name.len() > MAX_NAME {
            "holds a name that is longer than the 255 bytes that AMQP allows"
        } else if name.contains(char::is_control) {
            "holds a control character"
        } else {
            continue;
        };
        report.error(path, problem);
    }
    names.into_iter().map(str::to_owned).collect()
}

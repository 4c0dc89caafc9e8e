//! Kafka sinks: good files, and what is found in bad ones.

use super::{FINE, assert_findings, env, load};
use crate::config::{Config, KafkaMechanism, SinkKind};

/// A file with a Kafka sink whose own keys, below `brokers` in line 8, are these.
fn with(keys: &str) -> String {
    format!("{FINE}[sinks.k]\ntype = 'kafka'\ntopic = 't'\nbrokers = 'a:9092'\n{keys}")
}

fn check(text: &str, expected: &[(&str, usize, &str)]) {
    let errors = Config::from_toml(text, &env(&[("LINGER", "s3cret")])).expect_err(text);
    assert_findings(errors.findings(), expected, text);
    assert!(!errors.to_string().contains("s3cret"), "{errors}");
}

#[test]
fn a_whole_sink() {
    let text = with(
        "tls.ca = 'ca'\nauth = { mechanism = 'scram-sha-256', user = 'u', password = '${P}' }\n\
         [sinks.k.options]\n'linger.ms' = '2'\n'ssl.key.password' = 'x'\n",
    );
    let text = text.replace("'a:9092'", "'a:9092, [::1]:9093'");
    let loaded = Config::from_toml(&text, &env(&[("P", "s3cret")])).expect("fine");
    assert_eq!(loaded.warnings, []);
    let SinkKind::Kafka(kafka) = &loaded.config.sinks["k"].kind else {
        panic!("{:?}", loaded.config.sinks["k"].kind);
    };
    assert_eq!(kafka.brokers, ["a:9092", "[::1]:9093"]);
    let auth = kafka.auth.as_ref().expect("it authenticates");
    assert_eq!(auth.mechanism, KafkaMechanism::ScramSha256);
    assert_eq!(
        (auth.user.as_str(), auth.password.expose()),
        ("u", "s3cret")
    );
    assert_eq!(kafka.options["linger.ms"].expose(), "2");
    assert!(!format!("{kafka:?}").contains("s3cret"));
}

#[test]
fn the_environment_alone_is_enough() {
    let loaded = Config::from_environment(
        &crate::config::Overrides::none(),
        &env(&[
            ("DATABASE_URL", "postgres://h/d"),
            ("PUBLISHER_TYPE", "kafka"),
            ("KAFKA_BROKERS", "a:9092,b:9092"),
        ]),
    );
    let config = loaded.expect("fine").config;
    let SinkKind::Kafka(kafka) = &config.sinks["kafka"].kind else {
        panic!("{:?}", config.sinks);
    };
    assert_eq!(kafka.brokers, ["a:9092", "b:9092"]);
}

#[test]
fn brokers() {
    for (brokers, fragment) in [
        ("[]", "is empty"),
        ("''", "a host and a port"),
        ("'localhost'", "a host and a port"),
        ("'localhost:'", "no port from 1"),
        ("'localhost:0'", "no port from 1"),
        ("'localhost:99999'", "no port from 1"),
        ("':9092'", "a host and a port"),
        ("'kafka://localhost:9092'", "is a URL"),
        ("'u:p@localhost:9092'", "is a URL"),
    ] {
        let text = with("").replace("'a:9092'", brokers);
        check(&text, &[("sinks.k.brokers", 9, fragment)]);
    }
    let text = with("").replace("'a:9092'", "['a:9092', 'b']");
    check(&text, &[("sinks.k.brokers[1]", 9, "a host and a port")]);
}

#[test]
fn credentials() {
    let auth = |keys: &str, path: &str, fragment: &str| {
        check(
            &with(&format!("auth = {{ {keys} }}\n")),
            &[(path, 10, fragment)],
        );
    };
    auth(
        "user = 'u'",
        "sinks.k.auth.password",
        "a user needs a password",
    );
    auth("password = 'p'", "sinks.k.auth.user", "say who");
    auth("user = '', password = 'p'", "sinks.k.auth.user", "is empty");
    auth(
        "user = 'u', password = 'p', mechanism = 'gssapi'",
        "sinks.k.auth.mechanism",
        "write one of plain, scram-sha-256",
    );
}

#[test]
fn options_that_librdkafka_does_not_take() {
    for (option, path, fragment) in [
        ("lingerms = '5'", "lingerms", "is no setting of librdkafka"),
        (
            "'linger.ms' = 'often'",
            "\"linger.ms\"",
            "has a value that librdkafka refuses",
        ),
        ("acks = '1'", "acks", "it is always all"),
        (
            "'message.timeout.ms' = '1000'",
            "\"message.timeout.ms\"",
            "it is always 0",
        ),
        (
            "'enable.idempotence' = 'false'",
            "\"enable.idempotence\"",
            "would break the order",
        ),
        (
            "'sasl.password' = 'x'",
            "\"sasl.password\"",
            "write auth.password",
        ),
        ("partitioner = 'random'", "partitioner", "one partition"),
    ] {
        let text = with(&format!("[sinks.k.options]\n{option}\n"));
        check(&text, &[(&format!("sinks.k.options.{path}"), 11, fragment)]);
    }
    let text = with("[sinks.k.options]\n'linger.ms' = '${LINGER}'\n");
    check(
        &text,
        &[("sinks.k.options.\"linger.ms\"", 11, "librdkafka refuses")],
    );
}

#[test]
fn options_that_do_not_fit_together() {
    let text = with("[sinks.k.options]\n'max.in.flight' = '10'\n");
    check(
        &text,
        &[("sinks.k.options", 10, "don't fit together: `max.in.flight`")],
    );
}

#[test]
fn what_does_nothing_or_shows_the_password() {
    let text =
        with("retry.max_retries = 2\nauth = { mechanism = 'plain', user = 'u', password = 'p' }\n");
    let warnings = load(&text).warnings;
    assert_findings(
        &warnings,
        &[
            ("sinks.k.retry.max_retries", 10, "does nothing with kafka"),
            ("sinks.k.auth.mechanism", 11, "add a table tls"),
        ],
        &text,
    );
}

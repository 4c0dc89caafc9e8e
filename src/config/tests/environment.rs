//! Layers: flags, variables, the file, plain variables, defaults.

use std::time::Duration;

use super::{FINE, assert_findings, env};
use crate::config::{
    Config, ConfigErrors, Environment, Loaded, Mode, Overrides, Place, SinkKind, SourceKind,
};

fn alone(variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    Config::from_environment(&Overrides::none(), &env(variables))
}

fn url(config: &Config, source: &str) -> String {
    let SourceKind::Postgres(postgres) = &config.sources[source].kind else {
        panic!("it is a PostgreSQL source");
    };
    postgres.url.expose().to_owned()
}

const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://env/d");

#[test]
fn the_strongest_layer_wins() {
    let folder =
        std::env::temp_dir().join(format!("outbox-relay-layers-{}.toml", std::process::id()));
    let load = |text: &str, variables: &[(&str, &str)], overrides: &Overrides| {
        std::fs::write(&folder, text).expect("the temporary folder is writable");
        Config::from_file(&folder, overrides, &env(variables))
            .expect("fine")
            .config
    };
    let without_url = "[sources.a]\ntype = 'postgres'\n[sinks.b]\ntype = 'stdout'\n";
    let plain = [DATABASE];
    let variable = [DATABASE, ("OUTBOX__SOURCES__A__URL", "postgres://variable")];
    let flag = Overrides::none().with("--url", &["sources", "a", "url"], "postgres://flag");
    let none = Overrides::none();
    assert_eq!(
        url(&load(without_url, &plain, &none), "a"),
        "postgres://env/d"
    );
    assert_eq!(url(&load(FINE, &plain, &none), "a"), "postgres://h/d");
    assert_eq!(
        url(&load(FINE, &variable, &none), "a"),
        "postgres://variable"
    );
    assert_eq!(url(&load(FINE, &variable, &flag), "a"), "postgres://flag");
    std::fs::remove_file(&folder).expect("it was just written");
}

#[test]
fn variables_set_anything() {
    let variables = env(&[
        ("OUTBOX__SINKS__B__MAX_IN_FLIGHT", "9"),
        ("OUTBOX__SINKS__B__RETRY__MAX_RETRIES", "0"),
        ("OUTBOX__SINKS__NEW__TYPE", "mock"),
        ("OUTBOX__SINKS__NEW__INPUTS", "['a']"),
        ("OUTBOX__ADMIN__HEALTH", "no"),
        (
            "OUTBOX__ROUTES",
            "[{ event_type = '*', to = { b = true, new = true } }]",
        ),
    ]);
    let config = Config::from_toml(FINE, &variables).expect("fine").config;
    assert_eq!(config.sinks["b"].max_in_flight, 9);
    assert_eq!(config.sinks["b"].retry.max_retries, 0);
    assert_eq!(config.sinks["new"].inputs, ["a"]);
    assert!(!config.admin.expect("on").health);
    assert_eq!(config.routing.expect("routes").routes[0].to.len(), 2);
}

#[test]
fn errors_name_the_variable_or_flag() {
    let variables = env(&[
        ("OUTBOX__RELAY__NAMES", "x"),
        ("OUTBOX__SINKS__B__TIMEOUT", "hunter2"),
        ("DATABASE_URL", "hunter2"),
    ]);
    let text = "[sources.a]\ntype = 'postgres'\n[sinks.b]\ntype = 'stdout'\n";
    let errors = Config::from_toml(text, &variables).expect_err("wrong");
    let expected = [
        "environment variable OUTBOX__RELAY__NAMES (relay.names): is not a known key, did you mean `name`?",
        "environment variable OUTBOX__SINKS__B__TIMEOUT (sinks.b.timeout): the value is not a duration",
        "environment variable DATABASE_URL (sources.a.url): must begin with postgres://",
    ];
    for (finding, expected) in errors.findings().iter().zip(expected) {
        assert!(finding.to_string().starts_with(expected), "{finding}");
    }
    assert_eq!(errors.findings().len(), expected.len(), "{errors}");
    let overrides = Overrides::none().with("--listen", &["admin", "listen"], "x");
    let errors = Config::from_environment(&overrides, &env(&[DATABASE])).expect_err("wrong");
    assert_eq!(
        errors.findings()[0].place,
        Place::Flag("--listen".to_owned())
    );
    assert!(
        errors
            .to_string()
            .starts_with("--listen (admin.listen): must be"),
        "{errors}"
    );
}

#[test]
fn the_environment_alone_is_enough() {
    let config = alone(&[DATABASE]).expect("fine").config;
    assert_eq!(config.relay.name, "outbox-relay");
    assert_eq!(url(&config, "default"), "postgres://env/d");
    assert_eq!(config.sinks.keys().collect::<Vec<_>>(), ["mock"]);
    assert!(matches!(config.sinks["mock"].kind, SinkKind::Mock(_)));
    assert_eq!(config.sinks["mock"].envelope.aggregate_field, "draftId");
    assert_eq!(config.admin, None);
}

#[test]
fn the_environment_alone_is_real_time_with_jetstream_only() {
    let mode = |variables: &[(&str, &str)]| {
        let config = alone(variables).expect("fine").config;
        let SourceKind::Postgres(postgres) = &config.sources["default"].kind else {
            panic!("it is a PostgreSQL source");
        };
        postgres.mode
    };
    let notify = |seconds| Mode::Notify {
        fallback: Duration::from_secs(seconds),
    };
    let nats = ("NATS_URL", "nats://h");
    assert_eq!(mode(&[DATABASE]), Mode::Poll);
    assert_eq!(mode(&[DATABASE, nats]), notify(30));
    let fallback = ("FALLBACK_INTERVAL", "7s");
    assert_eq!(mode(&[DATABASE, nats, fallback]), notify(7));
    assert_eq!(
        mode(&[DATABASE, nats, ("PUBLISHER_TYPE", "mock")]),
        Mode::Poll
    );
    assert_eq!(mode(&[DATABASE, nats, ("OUTBOX_MODE", "poll")]), Mode::Poll);
    assert_eq!(
        mode(&[DATABASE, ("OUTBOX_MODE", "notify"), fallback]),
        notify(7)
    );
}

#[test]
fn plain_variables_alone() {
    let variables = [
        DATABASE,
        ("OUTBOX_MODE", "poll"),
        ("OUTBOX_POLL_INTERVAL", "1m30s"),
        ("FALLBACK_INTERVAL", "1s"),
        ("ENABLE_METRICS", "true"),
        ("ENABLE_HEALTH_CHECK", "false"),
        ("HEALTH_PORT", "9090"),
        ("PUBLISHER_TYPE", ""),
    ];
    let loaded = alone(&variables).expect("fine");
    assert_eq!(
        loaded.warnings,
        [],
        "FALLBACK_INTERVAL may be set for all modes"
    );
    assert_eq!(
        loaded.config.sources["default"].poll_interval,
        Duration::from_secs(90)
    );
    let admin = loaded.config.admin.expect("on");
    assert_eq!(admin.listen.to_string(), "0.0.0.0:9090");
    assert!(admin.metrics && !admin.health);
    let with_health = alone(&[DATABASE, ("ENABLE_HEALTH_CHECK", "1")]).expect("fine");
    let admin = with_health.config.admin.expect("on");
    assert_eq!(admin.listen.to_string(), "0.0.0.0:8080");
    assert!(admin.health && !admin.metrics);
}

#[test]
#[cfg(feature = "nats")]
fn jetstream_from_the_environment_alone() {
    let servers = |variables: &[(&str, &str)]| {
        let config = alone(variables).expect("fine").config;
        match &config.sinks["jetstream"].kind {
            SinkKind::Jetstream(jetstream) => jetstream.servers[0].expose().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(servers(&[DATABASE, ("NATS_URL", "nats://n")]), "nats://n");
    assert_eq!(
        servers(&[DATABASE, ("PUBLISHER_TYPE", "jetstream")]),
        "nats://localhost:4222"
    );
    let variables = [
        DATABASE,
        ("NATS_URL", "n"),
        ("OUTBOX__SINKS__JETSTREAM__SUBJECT", "mine.{event_type}"),
    ];
    let config = alone(&variables).expect("fine").config;
    assert_eq!(config.sinks.len(), 1);
    assert!(format!("{:?}", config.sinks["jetstream"].default_destination).contains("mine"));
}

#[test]
#[cfg(feature = "nats")]
fn the_environment_alone_has_a_stream_for_its_own_subject() {
    let stream = |variables: &[(&str, &str)]| {
        let config = alone(variables).expect("fine").config;
        match &config.sinks["jetstream"].kind {
            SinkKind::Jetstream(jetstream) => jetstream.stream.clone(),
            other => panic!("{other:?}"),
        }
    };
    let nats = ("NATS_URL", "n");
    let created = stream(&[DATABASE, nats]).expect("it is created");
    assert_eq!(created.name, "OUTBOX");
    assert_eq!(created.subjects, ["outbox.>"]);
    let replicas = ("OUTBOX__SINKS__JETSTREAM__STREAM__REPLICAS", "3");
    let created = stream(&[DATABASE, nats, replicas]).expect("it is created");
    assert_eq!((created.name.as_str(), created.replicas), ("OUTBOX", 3));
    for other in [
        ("OUTBOX__SINKS__JETSTREAM__SUBJECT", "mine"),
        ("OUTBOX__SINKS__JETSTREAM__EXPECTED_STREAM", "MINE"),
    ] {
        assert_eq!(stream(&[DATABASE, nats, other]), None, "{other:?}");
    }
    // A file that has the sink says whether it has a stream.
    let text = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n[sinks.jetstream]\ntype = 'jetstream'\n\
                subject = 'outbox.x'\n";
    let config = Config::from_toml(text, &env(&[nats])).expect("fine").config;
    let SinkKind::Jetstream(jetstream) = &config.sinks["jetstream"].kind else {
        panic!("it is a JetStream sink");
    };
    assert_eq!(jetstream.stream, None);
}

#[test]
#[cfg(feature = "nats")]
fn core_nats_from_the_environment_alone() {
    let loaded = alone(&[DATABASE, ("PUBLISHER_TYPE", "nats")]).expect("fine");
    let sink = &loaded.config.sinks["nats"];
    let SinkKind::Nats(nats) = &sink.kind else {
        panic!("{:?}", sink.kind);
    };
    assert_eq!(nats.servers[0].expose(), "nats://localhost:4222");
    assert!(format!("{:?}", sink.default_destination).contains("outbox.{event_type}"));
    let SourceKind::Postgres(postgres) = &loaded.config.sources["default"].kind else {
        panic!("it is a PostgreSQL source");
    };
    assert_eq!(postgres.mode, Mode::Poll);
    let warning = [("sinks.nats.type", 0, "keeps nothing")];
    assert_findings(&loaded.warnings, &warning, "");
}

#[test]
fn what_is_wrong_with_the_environment_alone() {
    let check = |variables: &[(&str, &str)], expected: &[(&str, usize, &str)]| {
        let errors = alone(variables).expect_err("wrong");
        assert_findings(errors.findings(), expected, &format!("{variables:?}"));
    };
    check(&[], &[("sources", 0, "set DATABASE_URL")]);
    check(
        &[DATABASE, ("PUBLISHER_TYPE", "redis")],
        &[("sinks", 0, "is no publisher: write one of jetstream")],
    );
    check(
        &[DATABASE, ("PUBLISHER_TYPE", "kafka")],
        &[("sinks.kafka.brokers", 0, "set KAFKA_BROKERS")],
    );
    check(
        &[DATABASE, ("OUTBOX_MODE", "often")],
        &[("sources.default.mode", 0, "write one of poll, notify")],
    );
    check(
        &[DATABASE, ("ENABLE_METRICS", "perhaps")],
        &[("admin", 0, "must be true or false")],
    );
    check(
        &[DATABASE, ("ENABLE_METRICS", "true"), ("HEALTH_PORT", "x")],
        &[("admin.listen", 0, "an IP address")],
    );
}

#[test]
fn with_a_file_plain_variables_fill_what_it_leaves_out() {
    let fill = |text: &str, variables: &[(&str, &str)]| Config::from_toml(text, &env(variables));
    let config = fill("[sinks.b]\ntype = 'stdout'\n", &[DATABASE])
        .expect("fine")
        .config;
    assert_eq!(url(&config, "default"), "postgres://env/d");
    assert_eq!(
        config.sinks["b"].envelope.aggregate_field, "aggregateId",
        "only without a file is it draftId"
    );
    let source = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n";
    let config = fill(source, &[DATABASE, ("PUBLISHER_TYPE", "mock")])
        .expect("fine")
        .config;
    assert_eq!(
        (url(&config, "a").as_str(), config.sinks.len()),
        ("postgres://h", 1)
    );
    assert_eq!(
        config.sources.len(),
        1,
        "the file has a source, so DATABASE_URL adds none"
    );
    let errors = fill(source, &[]).expect_err("no sink is made up beside a file");
    assert_findings(errors.findings(), &[("sinks", 0, "there is none")], source);
    let both = [
        ("ENABLE_METRICS", "true"),
        ("NATS_URL", "nats://n"),
        ("OUTBOX_POLL_INTERVAL", "9s"),
    ];
    let config = fill(&format!("{FINE}[admin]\n"), &both)
        .expect("fine")
        .config;
    assert_eq!(
        config.admin.expect("on").listen.to_string(),
        "127.0.0.1:8080",
        "the file has [admin]"
    );
    assert_eq!(config.sources["a"].poll_interval, Duration::from_secs(9));
    assert_eq!(
        config.sinks.len(),
        1,
        "the file has a sink, so NATS_URL adds none"
    );
}

#[test]
fn a_file_that_can_not_be_read() {
    let path = std::path::Path::new("/nowhere/outbox.toml");
    let errors = Config::load(Some(path), &Overrides::none()).expect_err("it isn't there");
    assert!(
        errors
            .to_string()
            .starts_with("can't read the file /nowhere/outbox.toml: No such file"),
        "{errors}"
    );
}

#[test]
fn findings_name_the_file() {
    let path = std::env::temp_dir().join(format!("outbox-relay-named-{}.toml", std::process::id()));
    std::fs::write(&path, format!("{FINE}colour = 1\n")).expect("the temporary folder is writable");
    let errors =
        Config::from_file(&path, &Overrides::none(), &Environment::default()).expect_err("wrong");
    std::fs::remove_file(&path).expect("it was just written");
    let expected = format!("{}:6: sinks.b.colour: is not a known key", path.display());
    assert!(errors.to_string().starts_with(&expected), "{errors}");
}

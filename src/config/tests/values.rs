//! Good files, and what becomes of them.

use std::time::Duration;

use super::{FINE, env, load};
use crate::config::{
    AfterDelivery, Binding, Config, DestinationTemplate, Envelope, Format, Mode, Retry, SinkKind,
    SourceKind, Start, TableName, Unrouted,
};

#[test]
fn defaults() {
    let config = load(FINE).config;
    assert_eq!(config.relay.name, "outbox-relay");
    assert_eq!(config.relay.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(config.admin, None);
    assert_eq!(config.routing, None);
    let source = &config.sources["a"];
    assert_eq!((source.name.as_str(), source.batch_size), ("a", 500));
    assert_eq!(source.poll_interval, Duration::from_secs(5));
    assert_eq!(source.after_delivery, AfterDelivery::Mark);
    assert_eq!(source.retention, None);
    let SourceKind::Postgres(postgres) = &source.kind else {
        panic!("it is a PostgreSQL source");
    };
    let fallback = Duration::from_secs(30);
    assert_eq!(postgres.mode, Mode::Notify { fallback });
    assert!(!postgres.wait_for_flush && postgres.tls.is_none());
    assert_eq!(postgres.url.expose(), "postgres://h/d");
    let outbox = TableName {
        schema: None,
        name: "outbox".to_owned(),
    };
    assert_eq!(postgres.table, outbox);
    assert_eq!(
        postgres.columns.aggregate_id.as_deref(),
        Some("aggregate_id")
    );
    let sink = &config.sinks["b"];
    assert_eq!(
        (sink.inputs.as_slice(), sink.start),
        (["a".to_owned()].as_slice(), None)
    );
    assert_eq!(
        (sink.timeout, sink.flush_interval),
        (Duration::from_secs(5), Duration::from_millis(250))
    );
    assert_eq!(
        (
            sink.max_in_flight,
            sink.max_in_flight_bytes,
            sink.max_parked
        ),
        (1_024, 64 << 20, 10_000)
    );
    let retry = Retry {
        max_retries: 3,
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(30),
    };
    assert_eq!(sink.retry, retry);
    let envelope = Envelope {
        format: Format::Json,
        aggregate_field: "aggregateId".to_owned(),
        source: "/outbox-relay".to_owned(),
    };
    assert_eq!(sink.envelope, envelope);
    assert_eq!(
        sink.default_destination,
        Some(DestinationTemplate::Implicit)
    );
    assert_eq!(sink.kind, SinkKind::Stdout);
}

#[test]
fn an_empty_admin_table_turns_everything_on_for_this_machine() {
    let admin = load(&format!("{FINE}[admin]\n"))
        .config
        .admin
        .expect("it is there");
    assert_eq!(admin.listen.to_string(), "127.0.0.1:8080");
    assert!(admin.health && admin.metrics && admin.token.is_none());
}

#[test]
fn what_a_sink_says_overrides_what_all_share_key_by_key() {
    let text = format!(
        "{FINE}start = 'earliest'\nretry.max_retries = 0\nenvelope.format = 'raw'\n\
         [sinks.c]\ntype = 'mock'\nfail = 1\ndelay = '5ms'\n\
         [retry]\nmax_retries = 9\nmax_delay = '1h30m'\n[envelope]\naggregate_field = 'id'\n"
    );
    let config = load(&text).config;
    let (b, c) = (&config.sinks["b"], &config.sinks["c"]);
    assert_eq!((b.retry.max_retries, c.retry.max_retries), (0, 9));
    assert_eq!(
        (b.retry.max_delay, c.retry.max_delay),
        (Duration::from_secs(5_400), Duration::from_secs(5_400))
    );
    assert_eq!(
        (b.envelope.format, c.envelope.format),
        (Format::Raw, Format::Json)
    );
    assert_eq!((b.start, c.start), (Some(Start::Earliest), None));
    assert!(
        matches!(&c.kind, SinkKind::Mock(mock) if mock.fail == 1.0 && mock.delay == Duration::from_millis(5))
    );
}

#[test]
fn strings_become_what_their_key_wants() {
    let text = format!(
        "{FINE}max_in_flight = '${{N:-7}}'\nunconfined = '${{B:-true}}'\ninputs = '${{I:-a}}'\n"
    );
    let config = load(&text).config;
    assert_eq!(config.sinks["b"].max_in_flight, 7);
    let loaded = Config::from_toml(&text, &env(&[("N", "8"), ("B", "off")])).expect("fine");
    assert_eq!(loaded.config.sinks["b"].max_in_flight, 8);
}

#[test]
fn tables_and_columns() {
    let text = "[sinks.b]\ntype = 'stdout'\n[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n\
                table = 'App.Outbox'\nafter_delivery = 'keep'\nretention = '7d'\nwait_for_flush = true\n\
                columns = { aggregate_id = 'draft_id', headers = false, sent_at = 'false' }\n\
                tls = { ca = 'ca.pem', cert = 'c', key = 'k' }\n";
    let config = load(text).config;
    let SourceKind::Postgres(postgres) = &config.sources["a"].kind else {
        panic!("it is a PostgreSQL source");
    };
    let table = TableName {
        schema: Some("App".to_owned()),
        name: "Outbox".to_owned(),
    };
    assert_eq!(postgres.table, table);
    assert_eq!(postgres.columns.aggregate_id.as_deref(), Some("draft_id"));
    assert_eq!(
        (&postgres.columns.headers, &postgres.columns.sent_at),
        (&None, &None)
    );
    let tls = postgres.tls.as_ref().expect("it is there");
    assert_eq!(tls.ca, Some("ca.pem".into()));
    assert_eq!(tls.client, Some(("c".into(), "k".into())));
    assert_eq!(
        config.sources["a"].retention,
        Some(Duration::from_secs(7 * 86_400))
    );
}

#[test]
fn several_sources_feed_the_sinks_that_name_them() {
    let text = format!(
        "{FINE}[sources.z]\ntype = 'postgres'\nurl = 'postgres://h'\n[sinks.c]\ntype = 'stdout'\ninputs = ['z', 'z']\n"
    );
    let config = load(&text).config;
    assert_eq!(config.sinks["b"].inputs, ["a", "z"]);
    assert_eq!(config.sinks["c"].inputs, ["z"]);
}

#[test]
fn an_explicit_unrouted_replaces_the_route_for_everything() {
    let text =
        format!("{FINE}[routing]\nunrouted = 'skip'\n[[routes]]\nevent_type = 'A'\nto.b = true\n");
    assert_eq!(
        load(&text).config.routing.expect("routes").unrouted,
        Unrouted::Skip
    );
}

#[test]
fn cloudevents() {
    let text = format!(
        "{FINE}[sinks.m]\ntype = 'mock'\nenvelope = {{ format = 'cloudevents-binary', source = 'https://h/%C3%A9?a=b' }}\n\
         [envelope]\nformat = 'cloudevents'\n[relay]\nname = 'orders'\n"
    );
    let config = load(&text).config;
    let (b, m) = (&config.sinks["b"].envelope, &config.sinks["m"].envelope);
    assert_eq!(
        (b.format, b.source.as_str()),
        (Format::CloudEvents, "/orders")
    );
    assert_eq!(
        (m.format, m.source.as_str()),
        (
            Format::CloudEventsBinary(Binding::Kafka),
            "https://h/%C3%A9?a=b"
        )
    );
}

#[test]
#[cfg(feature = "nats")]
fn the_binding_is_that_of_the_sinks_broker() {
    let text = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n[envelope]\nformat = 'cloudevents-binary'\n\
                [sinks.j]\ntype = 'jetstream'\nurl = 'n'\nsubject = 'x'\n";
    let config = load(text).config;
    let binding = Format::CloudEventsBinary(Binding::Nats);
    assert_eq!(config.sinks["j"].envelope.format, binding);
}

//! Good files with a JetStream sink, and what becomes of them.

use std::time::Duration;

use super::{env, load};
use crate::config::{Config, DestinationTemplate, NatsAuth, Secret, SinkKind, Unrouted};
use crate::route::{Pattern, Template};

fn template(text: &str) -> Template {
    Template::parse(text).expect("a template")
}

#[test]
fn jetstream() {
    let text = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n[sinks.j]\ntype = 'jetstream'\n\
                url = 'nats://u:p@a:4222, tls://b'\nsubject = 'x.{event_type}'\nexpected_stream = 'X'\n\
                auth = { user = 'u', password = '${P}' }\ntls.ca = 'ca'\n\
                stream = { name = 'X', subjects = 'x.>,y', replicas = 3, storage = 'memory', max_age = '1m', \
                max_bytes = '1GiB' }\n";
    let loaded = Config::from_toml(text, &env(&[("P", "s3cret")])).expect("fine");
    let sink = &loaded.config.sinks["j"];
    assert_eq!(
        sink.default_destination,
        Some(DestinationTemplate::Name(template("x.{event_type}")))
    );
    let SinkKind::Jetstream(jetstream) = &sink.kind else {
        panic!("{:?}", sink.kind);
    };
    let servers: Vec<&str> = jetstream.servers.iter().map(Secret::expose).collect();
    assert_eq!(servers, ["nats://u:p@a:4222", "tls://b"]);
    assert_eq!(
        jetstream.auth,
        NatsAuth::User("u".to_owned(), Secret::new("s3cret"))
    );
    assert_eq!(jetstream.expected_stream.as_deref(), Some("X"));
    let stream = jetstream.stream.as_ref().expect("it is there");
    assert_eq!(stream.subjects, ["x.>", "y"]);
    assert_eq!((stream.replicas, stream.file_storage), (3, false));
    assert_eq!(
        stream.duplicate_window,
        Duration::from_secs(60),
        "no longer than max_age"
    );
    assert_eq!(stream.max_bytes, Some(1 << 30));
    assert!(!format!("{:?}", loaded.config).contains("s3cret"));
}

#[test]
fn routes() {
    let text = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n\
                [sinks.j]\ntype = 'jetstream'\nurl = 'n'\nsubject = 'x.{event_type}'\n\
                [sinks.k]\ntype = 'jetstream'\nurl = 'n'\n[sinks.o]\ntype = 'stdout'\n\
                [[routes]]\nevent_type = ['A', 'B*']\nto = { j = 'p.{aggregate_id}', k = { subject = 'q' } }\n\
                [[routes]]\nevent_type = '*'\nto = { j = true, o = true }\n";
    let routing = load(text).config.routing.expect("there are routes");
    assert_eq!(routing.unrouted, Unrouted::DeadLetter);
    let pattern = |text| Pattern::parse(text).expect("a pattern");
    assert_eq!(routing.routes[0].event_types, [pattern("A"), pattern("B*")]);
    let name = |text| DestinationTemplate::Name(template(text));
    assert_eq!(routing.routes[0].to["j"], name("p.{aggregate_id}"));
    assert_eq!(routing.routes[0].to["k"], name("q"));
    assert_eq!(routing.routes[1].to["j"], name("x.{event_type}"));
    assert_eq!(routing.routes[1].to["o"], DestinationTemplate::Implicit);
    assert!(!routing.routes[1].to.contains_key("k"));
}

#[test]
fn placeholders_may_come_first_where_that_was_asked_for() {
    let sink = "[sources.a]\ntype = 'postgres'\nurl = 'postgres://h'\n[sinks.j]\ntype = 'jetstream'\nurl = 'n'\n\
                subject = '{event_type}'\n";
    load(&format!("{sink}unconfined = true\n"));
    // A default destination that no route uses chooses nothing.
    load(&format!("{sink}[[routes]]\nevent_type = '*'\nto.j = 'a'\n"));
}

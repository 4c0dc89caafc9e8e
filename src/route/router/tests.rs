//! Which rule decides, and what becomes of names that are made of event data.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
use crate::config::{Config, Environment};
use crate::config::{Envelope, Format, Retry, Route, SinkKind};
use crate::error::Meaning;
use crate::fixture;
use crate::route::Template;

fn name(source: &str) -> DestinationTemplate {
    DestinationTemplate::Name(Template::parse(source).expect("a template"))
}

fn sink(kind: SinkKind, default_destination: Option<DestinationTemplate>) -> Sink {
    Sink {
        name: "picks".to_owned(),
        inputs: vec!["draft".to_owned()],
        start: None,
        timeout: Duration::from_secs(30),
        max_in_flight: 1,
        max_in_flight_bytes: 1,
        max_parked: 1,
        flush_interval: Duration::from_secs(1),
        retry: Retry {
            max_retries: 0,
            initial_delay: Duration::ZERO,
            max_delay: Duration::ZERO,
        },
        envelope: Envelope {
            format: Format::Json,
            aggregate_field: "aggregateId".to_owned(),
            source: "/draft".to_owned(),
        },
        default_destination,
        kind,
    }
}

fn route(event_types: &[&str], to: &[(&str, &str)]) -> Route {
    let pattern = |source: &&str| Pattern::parse(source).expect("a pattern");
    let destination = |(sink, source): &(&str, &str)| ((*sink).to_owned(), name(source));
    Route {
        event_types: event_types.iter().map(pattern).collect(),
        to: to.iter().map(destination).collect::<BTreeMap<_, _>>(),
    }
}

fn routed(unrouted: Unrouted, routes: Vec<Route>) -> Router {
    let routing = Routing { unrouted, routes };
    Router::new(
        &sink(SinkKind::Stdout, Some(name("default"))),
        Some(&routing),
    )
}

fn resolve(router: &Router, event_type: &str) -> Result<Resolution, PublishError> {
    let event_type = event_type.to_owned();
    router.resolve(&Event {
        event_type,
        ..fixture::event()
    })
}

fn sent(name: &str) -> Resolution {
    Resolution::Send(Destination::Name(name.to_owned()))
}

#[test]
fn without_routing_everything_goes_to_the_default() {
    let router = Router::new(&sink(SinkKind::Stdout, Some(name("d.{event_type}"))), None);
    assert_eq!(resolve(&router, "A").expect("sent"), sent("d.A"));
    let router = Router::new(&sink(SinkKind::Stdout, None), None);
    let implicit = Resolution::Send(Destination::Implicit);
    assert_eq!(resolve(&router, "A").expect("sent"), implicit);
}

#[test]
fn the_first_matching_route_decides() {
    let router = routed(
        Unrouted::DeadLetter,
        vec![
            route(
                &["PickMade", "PickUndone"],
                &[("picks", "one.{aggregate_id}")],
            ),
            route(&["Draft*"], &[("other", "elsewhere")]),
            route(&["*"], &[("picks", "rest"), ("other", "elsewhere")]),
        ],
    );
    for (event_type, expected) in [
        ("PickMade", sent("one.draft-1")),
        ("PickUndone", sent("one.draft-1")),
        ("DraftStarted", Resolution::Skip),
        ("Pick", sent("rest")),
    ] {
        assert_eq!(resolve(&router, event_type).expect(event_type), expected);
    }
}

#[test]
fn a_decision_can_be_explained() {
    let router = routed(
        Unrouted::Skip,
        vec![
            route(&["PickMade"], &[("other", "elsewhere")]),
            route(&["Pick*"], &[("picks", "some")]),
            route(&["Pick*", "*Made"], &[("picks", "rest")]),
        ],
    );
    for (event_type, deciding, overruled) in [
        ("PickMade", Some(0), Some(1)),
        ("PickUndone", Some(1), None),
        ("TradeMade", Some(2), None),
        ("Draft", None, None),
    ] {
        assert_eq!(router.deciding_route(event_type), deciding, "{event_type}");
        assert_eq!(
            router.overruled_route(event_type),
            overruled,
            "{event_type}"
        );
    }
}

#[test]
fn what_no_route_matches() {
    let routes = || vec![route(&["PickMade"], &[("other", "elsewhere")])];
    let router = routed(Unrouted::Skip, routes());
    assert_eq!(resolve(&router, "A").expect("skipped"), Resolution::Skip);
    let router = routed(Unrouted::DeadLetter, routes());
    let error = resolve(&router, "A").expect_err("a dead letter");
    assert_eq!(error.meaning(), Meaning::Invalid);
    assert_eq!(
        error.to_string(),
        r#"no route matches event type "A"; add one to [[routes]], or set [routing] unrouted = "skip""#
    );
    // A route that matches and names other sinks is not the same as none.
    assert_eq!(
        resolve(&router, "PickMade").expect("skipped"),
        Resolution::Skip
    );
}

/// The reason why an event's destination at the sink of this TOML is refused; `None` if it isn't.
#[cfg(any(feature = "kafka", feature = "rabbitmq"))]
fn refusal(sink: &str, aggregate_id: &str) -> Option<String> {
    let text = format!("[sources.s]\ntype = 'postgres'\nurl = 'postgres://h'\n[sinks.k]\n{sink}");
    let config = Config::from_toml(&text, &Environment::default()).expect("fine");
    let router = Router::new(&config.config.sinks["k"], None);
    let event = Event {
        aggregate_id: Some(aggregate_id.to_owned()),
        ..fixture::event()
    };
    let error = router.resolve(&event).err()?;
    assert_eq!(error.meaning(), Meaning::Invalid);
    Some(error.to_string())
}

#[test]
#[cfg(all(feature = "kafka", feature = "postgres"))]
fn topics_made_of_event_data_are_checked() {
    let sink = "type = 'kafka'\nbrokers = 'h:1'\ntopic = 'outbox.event.{aggregate_id}'\n";
    assert_eq!(refusal(sink, "Order_1"), None);
    let slash = refusal(sink, "a/b").expect("no topic");
    assert!(
        slash.starts_with("Kafka topic \"outbox.event.a/b\" has '/'"),
        "{slash}"
    );
    let long = refusal(sink, &"x".repeat(240)).expect("no topic");
    assert!(long.ends_with("249 is the most"), "{long}");
    refusal(sink, "").expect("no value");
}

#[test]
#[cfg(all(feature = "rabbitmq", feature = "postgres"))]
fn routing_keys_and_queues_made_of_event_data_are_checked() {
    for destination in [
        "exchange = 'e'\nrouting_key = '{aggregate_id}'",
        "queue = 'q.{aggregate_id}'",
    ] {
        let sink = format!("type = 'rabbitmq'\nurl = 'amqp://h'\n{destination}\n");
        assert_eq!(refusal(&sink, "a b#*"), None);
        refusal(&sink, "a\r\nb").expect("a line break");
        let long = refusal(&sink, &"é".repeat(128)).expect("too long");
        assert!(long.ends_with("255 is the most"), "{long}");
    }
}

#[cfg(feature = "nats")]
mod nats {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Jetstream, NatsAuth};

    fn jetstream(default_destination: Option<DestinationTemplate>) -> Router {
        let kind = SinkKind::Jetstream(Jetstream {
            servers: Vec::new(),
            auth: NatsAuth::None,
            tls: None,
            expected_stream: None,
            stream: None,
        });
        Router::new(&sink(kind, default_destination), None)
    }

    #[test]
    fn a_broker_needs_a_destination() {
        let error = resolve(&jetstream(None), "A").expect_err("nowhere to go");
        assert_eq!(
            error.to_string(),
            "[sinks.picks] has no default destination"
        );
    }

    #[test]
    fn names_made_of_event_data_are_checked() {
        let router = jetstream(Some(name("draft.{event_type}")));
        let error = resolve(&router, "Pick Made").expect_err("a space");
        assert_eq!(error.meaning(), Meaning::Invalid);
        assert_eq!(
            error.to_string(),
            r#"NATS subject "draft.Pick Made" has ' ' at character 11: white space ends a subject"#
        );
    }

    proptest! {
        #[test]
        fn no_event_type_breaks_a_subject(event_type in "\\PC{0,8}|[ a.*>\\r\\n\\x00$]{0,6}") {
            let router = jetstream(Some(name("draft.{event_type}")));
            if let Ok(Resolution::Send(Destination::Name(subject))) = resolve(&router, &event_type) {
                let broken = |c: char| c.is_control() || c.is_whitespace() || "*>".contains(c);
                prop_assert!(!subject.contains(broken), "{subject:?}");
                prop_assert!(subject.split('.').all(|token| !token.is_empty()), "{subject:?}");
            }
        }
    }
}

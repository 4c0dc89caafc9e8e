//! Destinations: the default of a sink, and what a route names instead.
//!
//! What an event holds must not choose where it goes all alone, so a template begins with literal text, or the sink
//! says `unconfined = true`. An exchange is literal text, so its routing key may be anything.

use super::place::{Place, template};
use crate::config::finding::KeyPath;
use crate::config::read::Typed;
use crate::config::report::Report;
use crate::config::typed::{self, SinkKind, To, ToTable};
use crate::config::validated::DestinationTemplate;
use crate::route::Dialect;

/// What the routes make of a sink's default destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultUse {
    /// There are no routes: every event goes there.
    Always,
    /// A route says `true`.
    ByRoute,
    /// Every route that names the sink says where else, or none names it.
    Never,
}

impl DefaultUse {
    /// Of the sink `name`.
    pub(super) fn of(name: &str, typed: &Typed, report: &Report) -> Self {
        let says_true = |route: &typed::Route| {
            let to = route.to.as_ref();
            to.is_some_and(|to| to.get(name) == Some(&To::Default(true)))
        };
        if typed.routes.iter().any(says_true) {
            Self::ByRoute
        } else if typed.routes.is_empty()
            && !report.is_struck_within(&KeyPath::root().key("routes"))
        {
            Self::Always
        } else {
            Self::Never
        }
    }
}

impl SinkKind {
    /// What `type` says.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Jetstream(_) => "jetstream",
            Self::Kafka(_) => "kafka",
            Self::Mock(_) => "mock",
            Self::Nats(_) => "nats",
            Self::Rabbitmq(_) => "rabbitmq",
            Self::Stdout(_) => "stdout",
        }
    }

    /// The key that gives the sink a default destination.
    fn default_key(&self) -> &'static str {
        match self {
            Self::Jetstream(_) | Self::Nats(_) => "subject",
            Self::Kafka(_) => "topic",
            Self::Rabbitmq(_) => "exchange",
            Self::Mock(_) | Self::Stdout(_) => "type",
        }
    }

    /// Whether the sink has a default destination, valid or not.
    fn has_default(&self) -> bool {
        match self {
            Self::Jetstream(typed) => typed.subject.is_some(),
            Self::Nats(typed) => typed.subject.is_some(),
            Self::Kafka(typed) => typed.topic.is_some(),
            Self::Rabbitmq(typed) => typed.exchange.is_some() || typed.queue.is_some(),
            Self::Mock(_) | Self::Stdout(_) => true,
        }
    }

    /// What a route may write for the sink.
    fn what_to_write(&self) -> &'static str {
        match self {
            Self::Jetstream(_) | Self::Nats(_) => {
                "true, \"a.subject\" or { subject = \"a.subject\" }"
            }
            Self::Kafka(_) => "true, \"a-topic\" or { topic = \"a-topic\" }",
            Self::Rabbitmq(_) => {
                "true, { queue = \"a-queue\" } or { exchange = \"an-exchange\", routing_key = \"a.key\" }"
            }
            Self::Mock(_) | Self::Stdout(_) => "true, for it has one place only",
        }
    }
}

/// The sink's default destination. `path` is the sink's.
pub(super) fn default_destination(
    path: &KeyPath,
    sink: &typed::Sink,
    used: DefaultUse,
    report: &mut Report,
) -> Option<DestinationTemplate> {
    let kind = sink.kind.as_ref()?;
    let key = path.key(kind.default_key());
    if used == DefaultUse::Always && !kind.has_default() {
        let key_name = kind.default_key();
        let advice = format!(
            "set {key_name}, the default destination, or say with [[routes]] what goes where"
        );
        report.required(&key, None::<()>, &advice);
    }
    // A default that no route uses chooses nothing.
    let unconfined = sink.common.unconfined == Some(true) || used == DefaultUse::Never;
    let mut parse = |place, key: &str, text: &Option<String>| {
        name(&path.key(key), place, text.as_deref()?, unconfined, report)
    };
    match kind {
        SinkKind::Jetstream(typed) => parse(Place::Subject, "subject", &typed.subject),
        SinkKind::Nats(typed) => parse(Place::Subject, "subject", &typed.subject),
        SinkKind::Kafka(typed) => parse(Place::Topic, "topic", &typed.topic),
        SinkKind::Rabbitmq(typed) => {
            let table = ToTable {
                queue: typed.queue.clone(),
                exchange: typed.exchange.clone(),
                routing_key: typed.routing_key.clone(),
                ..ToTable::default()
            };
            exchange(path, &table, unconfined, report)
        }
        SinkKind::Mock(_) | SinkKind::Stdout(_) => Some(DestinationTemplate::Implicit),
    }
}

/// Where a route sends events at the sink `name`, of which `to` was written at `path`.
pub(super) fn routed(
    path: &KeyPath,
    to: &To,
    sink_name: &str,
    sink: &typed::Sink,
    report: &mut Report,
) -> Option<DestinationTemplate> {
    let kind = sink.kind.as_ref()?;
    if report.is_struck_within(path) {
        // What is left of the table is not what was written.
        return None;
    }
    let unconfined = sink.common.unconfined == Some(true);
    let is_subject = matches!(kind, SinkKind::Jetstream(_) | SinkKind::Nats(_));
    match (kind, to) {
        (_, To::Default(false)) => {
            report.error(
                path,
                "false means nothing: leave the sink out, and it skips the event",
            );
            None
        }
        (_, To::Default(true)) => default_of_route(path, sink_name, sink, kind, report),
        (SinkKind::Kafka(_), To::Name(text)) => name(path, Place::Topic, text, unconfined, report),
        (_, To::Name(text)) if is_subject => name(path, Place::Subject, text, unconfined, report),
        (SinkKind::Rabbitmq(_), To::Table(table)) if table.is_amqp() => {
            exchange(path, table, unconfined, report)
        }
        (_, To::Table(table)) => match (table.only_name(), kind) {
            (Some((Place::Topic, text)), SinkKind::Kafka(_)) => {
                name(&path.key("topic"), Place::Topic, text, unconfined, report)
            }
            (Some((Place::Subject, text)), _) if is_subject => name(
                &path.key("subject"),
                Place::Subject,
                text,
                unconfined,
                report,
            ),
            _ => wrong_kind(path, kind, report),
        },
        (_, To::Name(_)) => wrong_kind(path, kind, report),
    }
}

fn wrong_kind(path: &KeyPath, kind: &SinkKind, report: &mut Report) -> Option<DestinationTemplate> {
    let type_name = kind.type_name();
    let write = kind.what_to_write();
    report.error(
        path,
        format!("is no destination of a sink of type {type_name}: write {write}"),
    );
    None
}

/// The default destination of a sink for which a route says `true`; what is wrong with it is reported at the sink.
fn default_of_route(
    path: &KeyPath,
    sink_name: &str,
    sink: &typed::Sink,
    kind: &SinkKind,
    report: &mut Report,
) -> Option<DestinationTemplate> {
    let sink_path = KeyPath::of(["sinks", sink_name]);
    let key = sink_path.key(kind.default_key());
    if !kind.has_default() && !report.is_struck(&key) {
        report.error(
            path,
            format!(
                "the sink has no default destination: set {key}, or write the destination here"
            ),
        );
    }
    // Errors about the default were reported with the sink itself.
    default_destination(
        &sink_path,
        sink,
        DefaultUse::ByRoute,
        &mut Report::default(),
    )
}

impl ToTable {
    /// Whether the table has keys of AMQP and no others.
    fn is_amqp(&self) -> bool {
        let amqp = [&self.queue, &self.exchange, &self.routing_key];
        let others = [&self.subject, &self.topic];
        amqp.iter().any(|key| key.is_some()) && others.iter().all(|key| key.is_none())
    }

    /// The topic or subject, if the table has just that.
    fn only_name(&self) -> Option<(Place, &str)> {
        match self {
            Self {
                topic: Some(topic),
                subject: None,
                queue: None,
                exchange: None,
                routing_key: None,
            } => Some((Place::Topic, topic)),
            Self {
                topic: None,
                subject: Some(subject),
                queue: None,
                exchange: None,
                routing_key: None,
            } => Some((Place::Subject, subject)),
            _ => None,
        }
    }
}

fn name(
    path: &KeyPath,
    place: Place,
    text: &str,
    unconfined: bool,
    report: &mut Report,
) -> Option<DestinationTemplate> {
    template(path, place, text, unconfined, report).map(DestinationTemplate::Name)
}

/// A queue, or an exchange with a routing key, whose keys stand in the table at `path`.
fn exchange(
    path: &KeyPath,
    typed: &ToTable,
    unconfined: bool,
    report: &mut Report,
) -> Option<DestinationTemplate> {
    match (&typed.queue, &typed.exchange, &typed.routing_key) {
        (Some(queue), None, None) => {
            let routing_key =
                template(&path.key("queue"), Place::Queue, queue, unconfined, report)?;
            Some(DestinationTemplate::Exchange {
                exchange: String::new(),
                routing_key,
            })
        }
        (None, Some(exchange), Some(key)) => {
            let exchange_path = path.key("exchange");
            if exchange.is_empty() {
                report.error(
                    &exchange_path,
                    "is empty: name an exchange, or write queue instead",
                );
            } else if exchange.contains(['{', '}']) {
                report.error(
                    &exchange_path,
                    "is no template: events must not choose the exchange",
                );
            } else if let Err(complaint) = Dialect::Amqp.check(exchange) {
                report.is_refused(&exchange_path, &complaint);
            }
            let routing_key = template(
                &path.key("routing_key"),
                Place::RoutingKey,
                key,
                true,
                report,
            )?;
            Some(DestinationTemplate::Exchange {
                exchange: exchange.clone(),
                routing_key,
            })
        }
        (Some(_), _, _) => {
            report.error(
                &path.key("queue"),
                "stands beside exchange or routing_key: keep queue, or the two others",
            );
            None
        }
        (None, Some(_), None) => report.required(
            &path.key("routing_key"),
            None,
            "exchange needs a routing_key, such as \"{event_type}\"",
        ),
        (None, None, Some(_)) => {
            report.required(&path.key("exchange"), None, "routing_key needs an exchange")
        }
        (None, None, None) => None,
    }
}

//! What the status page shows of the configuration: who feeds whom. Names and templates, no address and no secret.

use serde::Serialize;

use crate::config::{Config, DestinationTemplate, SinkKind, SourceKind, Unrouted};

#[derive(Debug, Serialize)]
pub(super) struct Picture {
    relay: String,
    sources: Vec<SourcePicture>,
    sinks: Vec<SinkPicture>,
    /// The first that matches wins.
    routes: Vec<RoutePicture>,
    /// What becomes of an event that no route matches; null: there are no routes, every sink has every event.
    unrouted: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct SourcePicture {
    source: String,
    kind: &'static str,
}

#[derive(Debug, Serialize)]
struct SinkPicture {
    sink: String,
    kind: &'static str,
    inputs: Vec<String>,
    /// Where events go that no route sends elsewhere.
    destination: Option<String>,
}

#[derive(Debug, Serialize)]
struct RoutePicture {
    event_types: Vec<String>,
    to: Vec<TargetPicture>,
}

#[derive(Debug, Serialize)]
struct TargetPicture {
    sink: String,
    destination: Option<String>,
}

impl Picture {
    pub(super) fn of(config: &Config) -> Self {
        let sources = config.sources.values().map(|source| SourcePicture {
            source: source.name.clone(),
            kind: match &source.kind {
                SourceKind::Postgres(_) => "postgres",
                SourceKind::Sqlite(_) => "sqlite",
            },
        });
        let sinks = config.sinks.values().map(|sink| SinkPicture {
            sink: sink.name.clone(),
            kind: type_name(&sink.kind),
            inputs: sink.inputs.clone(),
            destination: sink.default_destination.as_ref().and_then(destination),
        });
        let routing = config.routing.as_ref();
        let routes = routing.into_iter().flat_map(|routing| &routing.routes);
        let routes = routes.map(|route| RoutePicture {
            event_types: route.event_types.iter().map(ToString::to_string).collect(),
            to: route
                .to
                .iter()
                .map(|(sink, template)| TargetPicture {
                    sink: sink.clone(),
                    destination: destination(template),
                })
                .collect(),
        });
        Self {
            relay: config.relay.name.clone(),
            sources: sources.collect(),
            sinks: sinks.collect(),
            routes: routes.collect(),
            unrouted: routing.map(|routing| match routing.unrouted {
                Unrouted::DeadLetter => "dead-letter",
                Unrouted::Skip => "skip",
            }),
        }
    }
}

/// What `type` says.
fn type_name(kind: &SinkKind) -> &'static str {
    match kind {
        SinkKind::Stdout => "stdout",
        SinkKind::Mock(_) => "mock",
        #[cfg(feature = "nats")]
        SinkKind::Jetstream(_) => "jetstream",
        #[cfg(feature = "nats")]
        SinkKind::Nats(_) => "nats",
        #[cfg(feature = "rabbitmq")]
        SinkKind::Rabbitmq(_) => "rabbitmq",
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(_) => "kafka",
    }
}

/// As the file has it; `None`: the sink has one place only.
fn destination(template: &DestinationTemplate) -> Option<String> {
    match template {
        DestinationTemplate::Implicit => None,
        DestinationTemplate::Name(name) => Some(name.to_string()),
        DestinationTemplate::Exchange {
            exchange,
            routing_key,
        } => Some(format!("{exchange}/{routing_key}")),
    }
}

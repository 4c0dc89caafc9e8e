//! `route`: where an event would go, and why. The decision is the router's, as in a pipeline; here it is put into
//! words.

use bytes::Bytes;
use chrono::DateTime;
use clap::Args as ClapArgs;
use serde::Serialize;
use uuid::Uuid;

use super::emit::parse_header;
use super::{named, say};
use crate::config::{Config, Sink, Unrouted};
use crate::error::BoxError;
use crate::event::{Event, Payload};
use crate::excerpt::printable;
use crate::route::{Resolution, Router};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The event's type.
    event_type: String,

    /// The kind of aggregate.
    #[arg(long, value_name = "TEXT")]
    aggregate_type: Option<String>,

    /// The ordering key.
    #[arg(long, value_name = "TEXT")]
    aggregate_id: Option<String>,

    /// A header; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,

    /// The source that the event comes from: only the sinks that it feeds. Without it, all sinks.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Print JSON, for programs: the field names stay as they are.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Field names are part of the interface: fields may be added, none is renamed.
#[derive(Debug, Serialize)]
struct Explanation {
    event_type: String,
    /// By name.
    sinks: Vec<Decision>,
}

/// What one sink does with the event.
#[derive(Debug, Serialize)]
struct Decision {
    sink: String,
    outcome: Outcome,
    /// Where it goes; null unless it is sent.
    destination: Option<String>,
    /// The route that decides, counted from 0 as `check` does; null if none does.
    route: Option<usize>,
    /// The event types of that route.
    route_event_types: Option<Vec<String>>,
    /// A later route that would send it to this sink, were it not for the one that decides.
    overruled_route: Option<usize>,
    /// In words.
    reason: String,
}

/// What becomes of the event at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// It is sent.
    Sent,
    /// It counts as delivered.
    Skipped,
    /// It becomes a dead letter.
    DeadLetter,
}

pub(super) fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    if let Some(source) = &args.source {
        named(config, source)?;
    }
    let explanation = Explanation::of(config, args);
    if args.json {
        say(&serde_json::to_string_pretty(&explanation)?)?;
        return Ok(());
    }
    if explanation.sinks.is_empty() {
        say("the source feeds no sink")?;
    }
    for decision in &explanation.sinks {
        say(&decision.line())?;
    }
    Ok(())
}

/// An event such as the arguments describe. Destinations are made of nothing else.
fn event(args: &Args) -> Event {
    Event {
        seq: 1,
        id: Uuid::nil(),
        event_type: args.event_type.clone(),
        aggregate_type: args.aggregate_type.clone(),
        aggregate_id: args.aggregate_id.clone(),
        payload: Payload::Json(Bytes::from_static(b"null")),
        headers: args.headers.clone(),
        created_at: DateTime::default(),
        flaw: None,
    }
}

impl Explanation {
    fn of(config: &Config, args: &Args) -> Self {
        let event = event(args);
        let fed = |sink: &&Sink| {
            let source = args.source.as_ref();
            source.is_none_or(|source| sink.is_fed_by(source))
        };
        let sinks = config.sinks.values().filter(fed);
        Self {
            event_type: args.event_type.clone(),
            sinks: sinks
                .map(|sink| Decision::of(config, sink, &event))
                .collect(),
        }
    }
}

impl Decision {
    fn of(config: &Config, sink: &Sink, event: &Event) -> Self {
        let router = Router::new(sink, config.routing.as_ref());
        let route = router.deciding_route(&event.event_type);
        let overruled_route = router.overruled_route(&event.event_type);
        let (outcome, destination, reason) = match router.resolve(event) {
            Ok(Resolution::Send(destination)) => {
                (Outcome::Sent, Some(destination.to_string()), String::new())
            }
            Ok(Resolution::Skip) => (Outcome::Skipped, None, String::new()),
            Err(error) => (Outcome::DeadLetter, None, error.chain()),
        };
        let route_event_types = route.and_then(|route| event_types(config, route));
        let mut decision = Self {
            sink: sink.name.clone(),
            outcome,
            destination,
            route,
            route_event_types,
            overruled_route,
            reason,
        };
        if decision.reason.is_empty() {
            decision.reason = decision.why(config);
        }
        decision
    }

    fn why(&self, config: &Config) -> String {
        let mut why = match (&self.route, &config.routing) {
            (_, None) => "there are no [[routes]]: the sink's default destination".to_owned(),
            (None, Some(routing)) => {
                let unrouted = match routing.unrouted {
                    Unrouted::Skip => "skip",
                    Unrouted::DeadLetter => "dead-letter",
                };
                format!("no route matches, and [routing] unrouted = \"{unrouted}\"")
            }
            (Some(_), Some(_)) if self.outcome == Outcome::Skipped => {
                format!("{} matches first and doesn't name this sink", self.named())
            }
            (Some(_), Some(_)) => format!("{} matches first", self.named()),
        };
        if let Some(overruled) = self.overruled_route
            && self.outcome == Outcome::Skipped
        {
            why.push_str(&format!(
                "; routes[{overruled}] would send it here and comes too late"
            ));
        }
        why
    }

    /// The route that decides, with what it is for.
    fn named(&self) -> String {
        let types = self.route_event_types.as_deref().unwrap_or_default();
        let quoted: Vec<String> = types.iter().map(|text| format!("{text:?}")).collect();
        format!(
            "routes[{}] ({})",
            self.route.unwrap_or_default(),
            quoted.join(", ")
        )
    }

    fn line(&self) -> String {
        let Self { sink, reason, .. } = self;
        let reason = printable(reason);
        match (self.outcome, self.destination.as_deref()) {
            (Outcome::Sent, Some("-") | None) => format!("sink {sink}: sent ({reason})"),
            (Outcome::Sent, Some(destination)) => {
                format!("sink {sink}: sent to {} ({reason})", printable(destination))
            }
            (Outcome::Skipped, _) => format!("sink {sink}: nothing ({reason})"),
            (Outcome::DeadLetter, _) if self.route.is_some() => {
                format!(
                    "sink {sink}: a dead letter ({}: {reason})",
                    printable(&self.named())
                )
            }
            (Outcome::DeadLetter, _) => format!("sink {sink}: a dead letter ({reason})"),
        }
    }
}

fn event_types(config: &Config, route: usize) -> Option<Vec<String>> {
    let route = config.routing.as_ref()?.routes.get(route)?;
    Some(route.event_types.iter().map(ToString::to_string).collect())
}

//! The decision for one sink: whether it takes an event, and where the event goes there.

use super::{Dialect, Pattern};
use crate::config::{DestinationTemplate, Routing, Sink, Unrouted};
use crate::error::PublishError;
use crate::event::Event;
use crate::excerpt::Excerpt;
use crate::sink::Destination;

/// The rules of one sink. The same event resolves the same way each time, so that a retry never changes where
/// an event goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    sink: String,
    dialect: Dialect,
    /// The first that matches wins.
    rules: Vec<Rule>,
    /// For events that no rule matches.
    otherwise: Outcome,
}

/// What becomes of an event at one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It is sent there.
    Send(Destination),
    /// It doesn't concern this sink, and counts as delivered there.
    Skip,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    event_types: Vec<Pattern>,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Send(DestinationTemplate),
    Skip,
    /// Dead letters, because no route matches.
    Unrouted,
    /// Dead letters, because the sink has no default destination and no route names another. Validation of the
    /// configuration refuses that; skipping would lose events.
    NoDestination,
}

impl Router {
    /// The rules of `sink`: those of `routing` seen from it, or, without routing, its default destination for
    /// every event.
    #[must_use]
    pub fn new(sink: &Sink, routing: Option<&Routing>) -> Self {
        let dialect = Dialect::of(&sink.kind);
        let (rules, otherwise) = match routing {
            None => (Vec::new(), default_outcome(sink, dialect)),
            Some(routing) => (rules(sink, routing), unrouted_outcome(routing.unrouted)),
        };
        Self {
            sink: sink.name.clone(),
            dialect,
            rules,
            otherwise,
        }
    }

    /// Where `event` goes at this sink, if anywhere.
    ///
    /// # Errors
    ///
    /// [`PublishError::invalid`] if no route matches and such events are dead letters, if the event lacks a
    /// value that its destination needs, or if the broker would not take the destination's name.
    pub fn resolve(&self, event: &Event) -> Result<Resolution, PublishError> {
        match self.outcome(&event.event_type) {
            Outcome::Send(template) => self.render(template, event).map(Resolution::Send),
            Outcome::Skip => Ok(Resolution::Skip),
            Outcome::Unrouted => Err(PublishError::invalid(format!(
                "no route matches event type {}; add one to [[routes]], or set [routing] unrouted = \"skip\"",
                Excerpt(&event.event_type)
            ))),
            Outcome::NoDestination => Err(PublishError::invalid(format!(
                "[sinks.{}] has no default destination",
                self.sink
            ))),
        }
    }

    /// Which route decides about events of this type, counted from 0 in the order of the file; `None`: none of them,
    /// and so the sink's default destination if there are no routes at all, else `[routing] unrouted`.
    #[must_use]
    pub fn deciding_route(&self, event_type: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(event_type))
    }

    /// The first route that matches the type and would send such events to this sink, if another before it decides.
    #[must_use]
    pub fn overruled_route(&self, event_type: &str) -> Option<usize> {
        let sends =
            |rule: &Rule| matches!(rule.outcome, Outcome::Send(_)) && rule.matches(event_type);
        let first = self.rules.iter().position(sends);
        first.filter(|first| self.deciding_route(event_type) != Some(*first))
    }

    /// Rules are few and matching them takes nanoseconds each: nothing is remembered per event type.
    fn outcome(&self, event_type: &str) -> &Outcome {
        match self.deciding_route(event_type) {
            Some(route) => &self.rules[route].outcome,
            None => &self.otherwise,
        }
    }

    fn render(
        &self,
        template: &DestinationTemplate,
        event: &Event,
    ) -> Result<Destination, PublishError> {
        let destination = match template {
            DestinationTemplate::Implicit => Destination::Implicit,
            DestinationTemplate::Name(name) => Destination::Name(name.render(event)?),
            DestinationTemplate::Exchange {
                exchange,
                routing_key,
            } => Destination::Exchange {
                exchange: exchange.clone(),
                routing_key: routing_key.render(event)?,
            },
        };
        self.dialect
            .check_destination(&destination)
            .map_err(PublishError::invalid)?;
        Ok(destination)
    }
}

impl Rule {
    fn matches(&self, event_type: &str) -> bool {
        self.event_types.iter().any(|p| p.matches(event_type))
    }
}

fn rules(sink: &Sink, routing: &Routing) -> Vec<Rule> {
    let routes = routing.routes.iter();
    routes
        .map(|route| Rule {
            event_types: route.event_types.clone(),
            outcome: match route.to.get(&sink.name) {
                Some(template) => Outcome::Send(template.clone()),
                None => Outcome::Skip,
            },
        })
        .collect()
}

fn default_outcome(sink: &Sink, dialect: Dialect) -> Outcome {
    match (&sink.default_destination, dialect) {
        (Some(template), _) => Outcome::Send(template.clone()),
        // Sinks without rules for names have one place only and need not name it.
        (None, Dialect::Any) => Outcome::Send(DestinationTemplate::Implicit),
        (None, Dialect::Nats | Dialect::Kafka | Dialect::Amqp) => Outcome::NoDestination,
    }
}

fn unrouted_outcome(unrouted: Unrouted) -> Outcome {
    match unrouted {
        Unrouted::DeadLetter => Outcome::Unrouted,
        Unrouted::Skip => Outcome::Skip,
    }
}

#[cfg(test)]
mod tests;

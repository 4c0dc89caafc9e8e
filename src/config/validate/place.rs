//! The text of a destination: a template that its broker could take.

use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::route::{Dialect, Template};

/// What a destination is at a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Subject,
    Topic,
    RoutingKey,
    Queue,
}

/// The template; `None` if it can't be parsed, which is reported. Unless `unconfined`, it must begin with literal text.
pub(super) fn template(
    path: &KeyPath,
    place: Place,
    text: &str,
    unconfined: bool,
    report: &mut Report,
) -> Option<Template> {
    if text.is_empty() {
        report.error(path, "is empty: write where events go");
        return None;
    }
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(error) => {
            report.is_no(path, text, "template", &error);
            return None;
        }
    };
    if !unconfined && !template.begins_with_literal() {
        report.error(
            path,
            "begins with a placeholder, so that an event's data alone would choose where it goes: begin with literal \
             text, or set unconfined = true for this sink",
        );
    }
    if let Err(complaint) = place.dialect().check_template(&template) {
        report.is_refused(path, &complaint);
    }
    Some(template)
}

impl Place {
    /// The rules that its names have, of which events' names are checked again.
    fn dialect(self) -> Dialect {
        match self {
            Self::Subject => Dialect::Nats,
            Self::Topic => Dialect::Kafka,
            Self::RoutingKey | Self::Queue => Dialect::Amqp,
        }
    }
}

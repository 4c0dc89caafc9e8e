//! The text of a destination: a template that its broker could take.

use crate::config::finding::KeyPath;
use crate::config::report::Report;
use crate::route::Template;

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
    if let Some(complaint) = complaint(place, &literal_text(text)) {
        report.error(path, complaint);
    }
    Some(template)
}

/// The text with an `x` for each placeholder.
fn literal_text(text: &str) -> String {
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        literal.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('{') {
            literal.push('{');
            rest = escaped;
        } else {
            literal.push('x');
            rest = after.split_once('}').map_or("", |(_, tail)| tail);
        }
    }
    literal.push_str(rest);
    literal
}

/// Why no broker would take the literal text.
fn complaint(place: Place, literal: &str) -> Option<&'static str> {
    if literal.contains(char::is_control) {
        return Some("holds a control character");
    }
    match place {
        Place::Subject if literal.contains(char::is_whitespace) => {
            Some("holds a space, which no subject may have")
        }
        Place::Subject if literal.contains(['*', '>']) => {
            Some("holds a wildcard (`*` or `>`): events are published to one subject each")
        }
        Place::Subject if literal.split('.').any(str::is_empty) => {
            Some("has an empty part: dots stand between parts only")
        }
        Place::Topic if literal.len() > 249 => Some("is longer than the 249 characters of a topic"),
        Place::Topic
            if !literal
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) =>
        {
            Some("is no topic: use letters, digits, `.`, `_` and `-`")
        }
        Place::RoutingKey | Place::Queue if literal.len() > 255 => {
            Some("is longer than the 255 bytes that AMQP allows")
        }
        _ => None,
    }
}

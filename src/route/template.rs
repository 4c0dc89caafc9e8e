//! Destination templates.

use std::borrow::Cow;
use std::fmt;

use super::placeholder::{Placeholder, PlaceholderError};
use crate::error::PublishError;
use crate::event::Event;

/// Literal text with `{placeholders}`: `{event_type}`, `{aggregate_type}`, `{aggregate_id}` and
/// `{header.NAME}`, each with filters if wanted: `{event_type|kebab}`. `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

/// Why a text is no template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {problem}")]
pub struct TemplateError {
    position: usize,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("`{{` is never closed; close the placeholder with `}}`, or write `{{{{` for a brace")]
    Unclosed,
    #[error("`}}` closes nothing; write `}}}}` for a brace")]
    Unopened,
    #[error(transparent)]
    Placeholder(#[from] PlaceholderError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(Placeholder),
}

impl Template {
    /// Parses `source`. The empty text is a template too: whether its broker takes it is for the
    /// [`Dialect`](super::Dialect) to say.
    ///
    /// # Errors
    ///
    /// If a brace has no partner, or a placeholder or filter is unknown.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let parts = parse_parts(source).map_err(|(from_brace, problem)| TemplateError {
            position: source[..source.len() - from_brace.len()].chars().count() + 1,
            problem,
        })?;
        let source = source.to_owned();
        Ok(Self { source, parts })
    }

    /// Whether the first character of every destination is the template's own, so that data alone never
    /// chooses where an event goes.
    #[must_use]
    pub fn begins_with_literal(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Literal(_)))
    }

    /// The one destination of all events, if the template has no placeholder.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// The destination of `event`. Whether a broker takes it is not checked here.
    ///
    /// # Errors
    ///
    /// [`PublishError::invalid`] if the event lacks the value of a placeholder or has an empty one there: a
    /// destination with a gap in it is never what was meant.
    pub fn render(&self, event: &Event) -> Result<String, PublishError> {
        self.fill(|placeholder| {
            let value = placeholder.value(event);
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                PublishError::invalid(format!(
                    "the event has no value for `{{{}}}` in the destination `{}`",
                    placeholder.name(),
                    self.source
                ))
            })
        })
    }

    /// The template with `value` for each placeholder: the shape of its destinations, for checks that have
    /// no event.
    pub(super) fn fill_with(&self, value: &'static str) -> String {
        let filled: Result<String, std::convert::Infallible> = self.fill(|_| Ok(value.into()));
        match filled {
            Ok(text) => text,
        }
    }

    fn fill<'a, E>(
        &'a self,
        value: impl Fn(&'a Placeholder) -> Result<Cow<'a, str>, E>,
    ) -> Result<String, E> {
        let mut text = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Value(placeholder) => text.push_str(&value(placeholder)?),
            }
        }
        Ok(text)
    }
}

/// The parts of `source`; adjacent literals are one. An error comes with the rest of the source from the brace at
/// fault on.
fn parse_parts(source: &str) -> Result<Vec<Part>, (&str, Problem)> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, from_brace) = rest.split_at(at);
        literal.push_str(text);
        let (brace, after) = from_brace.split_at(1);
        if let Some(unescaped) = after.strip_prefix(brace) {
            literal.push_str(brace);
            rest = unescaped;
            continue;
        }
        if brace == "}" {
            return Err((from_brace, Problem::Unopened));
        }
        let Some((inside, behind)) = after.split_once('}') else {
            return Err((from_brace, Problem::Unclosed));
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        let placeholder = Placeholder::parse(inside).map_err(|e| (from_brace, e.into()))?;
        parts.push(Part::Value(placeholder));
        rest = behind;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// The text that it was parsed from.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    fn template(source: &str) -> Template {
        Template::parse(source).expect("a template")
    }

    #[test]
    fn placeholders_filters_and_braces() {
        for (source, expected) in [
            ("draft.{event_type}", "draft.PickMade"),
            ("{aggregate_type}/{aggregate_id}", "Draft/draft-1"),
            ("t-{header.traceparent}", "t-00-ab-cd-01"),
            ("{event_type|kebab}.x", "pick-made.x"),
            ("{event_type|snake|upper}", "PICK_MADE"),
            ("{event_type|lower}{event_type|upper}", "pickmadePICKMADE"),
            ("{{{event_type}}}", "{PickMade}"),
            ("{{event_type}}", "{event_type}"),
            ("é{aggregate_id}é", "édraft-1é"),
            ("plain", "plain"),
            ("", ""),
        ] {
            let rendered = template(source).render(&fixture::event());
            assert_eq!(
                rendered.expect("all values are there"),
                expected,
                "{source}"
            );
        }
    }

    #[test]
    fn errors_name_the_place_and_what_is_allowed() {
        for (source, message) in [
            (
                "é.{agg}",
                "at character 3: unknown placeholder \"agg\"; there are {event_type}, {aggregate_type}, {aggregate_id} and {header.NAME}",
            ),
            (
                "{event_type|camel}",
                "at character 1: unknown filter \"camel\"; there are lower, upper, kebab and snake",
            ),
            (
                "a{event_type",
                "at character 2: `{` is never closed; close the placeholder with `}`, or write `{{` for a brace",
            ),
            (
                "a}b",
                "at character 2: `}` closes nothing; write `}}` for a brace",
            ),
            (
                "{event_type}}",
                "at character 13: `}` closes nothing; write `}}` for a brace",
            ),
            (
                "{header.}",
                "at character 1: \"\" can't be the name of a header; letters, digits, `-`, `_` and `.` are allowed",
            ),
        ] {
            let error = Template::parse(source).expect_err(source);
            assert_eq!(error.to_string(), message, "{source}");
        }
        for source in [
            "{}",
            "{ event_type }",
            "{event_type|}",
            "{header.a b}",
            "{a{event_type}}",
        ] {
            assert!(Template::parse(source).is_err(), "{source}");
        }
    }

    #[test]
    fn a_missing_or_empty_value_is_named() {
        let mut event = fixture::event();
        event.aggregate_id = None;
        event.aggregate_type = Some(String::new());
        event.event_type = "--".to_owned();
        for (source, placeholder) in [
            ("a.{aggregate_id}", "{aggregate_id}"),
            ("a.{aggregate_type|lower}", "{aggregate_type}"),
            ("a.{header.tenant}", "{header.tenant}"),
            ("a.{event_type|kebab}", "{event_type}"),
        ] {
            let error = template(source).render(&event).expect_err(source);
            assert_eq!(error.meaning(), Meaning::Invalid);
            assert_eq!(
                error.to_string(),
                format!("the event has no value for `{placeholder}` in the destination `{source}`")
            );
        }
    }

    #[test]
    fn who_chooses_the_beginning() {
        assert!(template("draft.{event_type}").begins_with_literal());
        assert!(template("{{{event_type}").begins_with_literal());
        assert!(!template("{event_type}.draft").begins_with_literal());
        assert!(!template("").begins_with_literal());
    }

    /// A piece of a template and what it renders to.
    fn piece() -> impl Strategy<Value = (String, String)> {
        let literal = "[a-z.é{}]{1,4}".prop_map(|text| {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            (escaped, text)
        });
        let placeholder = prop_oneof![
            Just(("{event_type}", "PickMade")),
            Just(("{aggregate_id|upper}", "DRAFT-1")),
            Just(("{header.traceparent}", "00-ab-cd-01")),
        ];
        let placeholder = placeholder.prop_map(|(a, b)| (a.to_owned(), b.to_owned()));
        prop_oneof![literal, placeholder]
    }

    proptest! {
        #[test]
        fn renders_piece_by_piece(pieces in prop::collection::vec(piece(), 0..8)) {
            let (source, expected): (Vec<String>, Vec<String>) = pieces.into_iter().unzip();
            let source = source.concat();
            let parsed = template(&source);
            prop_assert_eq!(parsed.render(&fixture::event()).expect("all values"), expected.concat());
            prop_assert_eq!(parsed.to_string(), source);
        }

        #[test]
        fn parsing_never_panics(source in ".{0,24}|[{}|a-z.é]{0,24}") {
            if let Err(error) = Template::parse(&source) {
                prop_assert!(error.position >= 1 && error.position <= source.chars().count());
            }
        }
    }
}

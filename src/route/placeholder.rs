//! Placeholders of templates: which value of an event, and how it is spelled.

use std::borrow::Cow;

use super::filter::Filter;
use crate::event::Event;

/// What stands between two braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placeholder {
    field: Field,
    /// Applied from left to right.
    filters: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    EventType,
    AggregateType,
    AggregateId,
    Header(String),
}

/// Why a text is no placeholder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceholderError {
    #[error(
        "unknown placeholder {0:?}; there are {{event_type}}, {{aggregate_type}}, {{aggregate_id}} and {{header.NAME}}"
    )]
    Unknown(String),
    #[error("{0:?} can't be the name of a header; letters, digits, `-`, `_` and `.` are allowed")]
    HeaderName(String),
    #[error("unknown filter {0:?}; there are {names}", names = Filter::NAMES)]
    Filter(String),
}

impl Placeholder {
    /// Parses what stands between the braces.
    pub(super) fn parse(inside: &str) -> Result<Self, PlaceholderError> {
        let mut words = inside.split('|');
        let field = Field::parse(words.next().unwrap_or_default())?;
        let filters = words
            .map(|name| {
                Filter::by_name(name).ok_or_else(|| PlaceholderError::Filter(name.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { field, filters })
    }

    /// What it is called in a template, without its filters.
    pub(super) fn name(&self) -> Cow<'static, str> {
        match &self.field {
            Field::EventType => "event_type".into(),
            Field::AggregateType => "aggregate_type".into(),
            Field::AggregateId => "aggregate_id".into(),
            Field::Header(name) => format!("header.{name}").into(),
        }
    }

    /// The event's value behind all filters; `None` if the event has none.
    pub(super) fn value<'a>(&self, event: &'a Event) -> Option<Cow<'a, str>> {
        let stored = Cow::Borrowed(self.field.value(event)?);
        Some(
            self.filters
                .iter()
                .fold(stored, |value, filter| Cow::Owned(filter.apply(&value))),
        )
    }
}

impl Field {
    fn parse(name: &str) -> Result<Self, PlaceholderError> {
        match (name, name.strip_prefix("header.")) {
            ("event_type", _) => Ok(Self::EventType),
            ("aggregate_type", _) => Ok(Self::AggregateType),
            ("aggregate_id", _) => Ok(Self::AggregateId),
            (_, Some(header)) if is_header_name(header) => Ok(Self::Header(header.to_owned())),
            (_, Some(header)) => Err(PlaceholderError::HeaderName(header.to_owned())),
            (_, None) => Err(PlaceholderError::Unknown(name.to_owned())),
        }
    }

    /// The event's value. A header's name is compared as it is written, for that is how it is stored.
    fn value<'a>(&self, event: &'a Event) -> Option<&'a str> {
        match self {
            Self::EventType => Some(&event.event_type),
            Self::AggregateType => event.aggregate_type.as_deref(),
            Self::AggregateId => event.aggregate_id.as_deref(),
            Self::Header(name) => {
                let mut headers = event.headers.iter();
                headers
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| &**value)
            }
        }
    }
}

/// Fewer characters than a header's name may have, but those that names do have; `|` begins a filter.
fn is_header_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(allowed)
}

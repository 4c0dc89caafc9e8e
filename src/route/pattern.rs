//! Patterns of event types.

/// An event type, exact or with `*` for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

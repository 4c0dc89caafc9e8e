//! Patterns of event types.

/// An event type, exact or with `*` for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, thiserror::Error)]
#[error("the pattern is empty")]
pub struct PatternError;

impl Pattern {
    /// Parses `text`.
    ///
    /// # Errors
    /// If it is empty.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError);
        }
        Ok(Self(text.to_owned()))
    }
}

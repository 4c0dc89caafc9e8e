//! Destination templates.

/// Literal text with `{placeholders}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

/// Why a text is no template.
#[derive(Debug, thiserror::Error)]
#[error("`{{` is not closed")]
pub struct TemplateError;

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// If a brace is not closed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.matches('{').count() != text.matches('}').count() {
            return Err(TemplateError);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the first character does not come from the event.
    #[must_use]
    pub fn begins_with_literal(&self) -> bool {
        !self.0.is_empty() && (!self.0.starts_with('{') || self.0.starts_with("{{"))
    }
}

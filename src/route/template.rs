//! Destination templates.

/// Literal text with `{placeholders}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

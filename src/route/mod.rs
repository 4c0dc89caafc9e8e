//! Routing: which events a sink takes, and where it sends them.

mod pattern;
mod template;

pub use pattern::{Pattern, PatternError};
pub use template::{Template, TemplateError};

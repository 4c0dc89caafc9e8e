//! Routing: which events a sink takes, and where it sends them.
//!
//! Owns patterns of event types, templates of destinations, the rules that brokers have for names, and the
//! decision for one sink. Knows nothing of connections: the dialect is all it knows of a broker.

mod dialect;
mod filter;
mod overlooked;
mod pattern;
mod placeholder;
mod router;
mod template;

pub use dialect::Dialect;
pub use overlooked::Overlooked;
pub use pattern::{Pattern, PatternError};
pub use router::{Resolution, Router};
pub use template::{Template, TemplateError};

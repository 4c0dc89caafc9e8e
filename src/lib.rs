//! A transactional outbox relay.

pub mod admin;
mod backoff;
pub mod cli;
pub mod config;
pub mod enqueue;
pub mod envelope;
pub mod error;
pub mod event;
mod excerpt;
pub mod exit;
#[cfg(test)]
mod fixture;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod pipeline;
pub mod relay;
pub mod route;
pub mod sink;
pub mod source;
pub mod status;

pub use crate::config::Config;
pub use crate::enqueue::NewEvent;
#[cfg(feature = "postgres")]
pub use crate::enqueue::enqueue;
pub use crate::relay::Relay;
pub use crate::sink::publisher::EventPublisher;

//! A transactional outbox relay.

pub mod config;
pub mod error;
pub mod event;
pub mod ledger;
pub mod route;
pub mod sink;
pub mod source;

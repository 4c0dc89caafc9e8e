//! A transactional outbox relay.

pub mod config;
pub mod error;
pub mod event;
pub mod route;
pub mod sink;

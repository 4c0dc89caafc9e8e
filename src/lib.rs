//! A transactional outbox relay: publishes every event that a service commits in its database to its message
//! brokers, in order per key, at least once.
//!
//! Three ways to use it: the program (`outbox-relay`, see [`cli`]), the relay inside a program of your own
//! ([`Relay::builder`], with sinks of your own by [`EventPublisher`]), and [`enqueue()`], which writes an event in
//! the transaction of the business rows. `README.md` says what is promised, `ARCHITECTURE.md` how it is kept.
//!
//! # The map
//!
//! ```text
//! source ──▶ pump ──▶ retry ▶ measure ▶ timeout ▶ routing ▶ sink
//!   ▲          │
//!   └─ ledger ─┘        one pipeline per source and sink, all of them under one relay
//! ```
//!
//! | module | what it owns | what it must not know |
//! |---|---|---|
//! | [`event`] | a row of the outbox table | brokers, envelopes, databases |
//! | [`source`] | the contract of a database; PostgreSQL and SQLite behind it; all SQL | brokers |
//! | [`pipeline`] | the tower stack, order per key, reading ahead, flushing | SQL, any broker's client |
//! | [`route`], [`envelope`] | where an event goes, and the bytes that go there | connections |
//! | [`sink`] | the contract of a broker; JetStream, standard output and mock behind it | databases, ledgers |
//! | [`error`] | what a failed publish means for its event | any client's error type |
//! | [`ledger`], [`lease`] | the sets of delivered `seq`; until when this process may publish | events, databases |
//! | [`relay`] | sessions: lease, pipelines, settling, from start to stop | SQL, what a message looks like |
//! | [`config`] | TOML and environment to one validated [`Config`], all errors at once | connections |
//! | [`metrics`], [`status`], [`admin`] | names of metrics, what probes see, the HTTP endpoints | what they watch |
//! | [`cli`], [`exit`] | one file per command, exit codes | how anything works |
//! | [`mod@enqueue`] | writing events | the relay |

pub mod admin;
mod backoff;
pub mod cli;
pub mod config;
mod dead_letters;
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
mod sabotage;
pub mod sink;
pub mod source;
pub mod status;

pub use crate::config::Config;
pub use crate::enqueue::NewEvent;
#[cfg(feature = "postgres")]
pub use crate::enqueue::enqueue;
pub use crate::relay::Relay;
pub use crate::sink::publisher::EventPublisher;

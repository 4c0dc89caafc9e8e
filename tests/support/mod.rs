//! What the tests are made of: servers, the relay as a process, writers that keep a record of what they
//! committed, and a checker that compares the record with what the broker holds.

pub(crate) mod browser;
pub(crate) mod certs;
pub(crate) mod checker;
pub(crate) mod database;
pub(crate) mod eventually;
pub(crate) mod http;
pub(crate) mod kafka;
pub(crate) mod message;
pub(crate) mod nats;
pub(crate) mod pgbouncer;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod private_rabbitmq;
pub(crate) mod private_server;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod rabbitmq;
pub(crate) mod relay;
pub(crate) mod report;
pub(crate) mod settings;
pub(crate) mod stream;
pub(crate) mod temporary;
pub(crate) mod writers;

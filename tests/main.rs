//! Tests of the program from outside: the built binary between real servers, one module per promise.
//!
//! `tests/run` starts what they need; see `support` for the pieces.

mod adopt;
mod cli;
mod dead_letters;
mod delivery;
mod demo;
mod documents;
mod environment;
mod examples;
mod fanout;
mod faults;
mod full;
mod guard;
mod interleavings;
mod jetstream;
mod kafka;
mod lease;
mod ledger;
mod message;
mod nats;
mod notify;
mod observability;
mod order;
mod page;
mod plans;
mod queries;
mod rabbitmq;
mod reload;
mod replay;
mod route;
mod rows;
mod security;
mod settle;
mod sources;
mod sqlite;
mod status;
mod support;
mod tls;
mod upgrade;

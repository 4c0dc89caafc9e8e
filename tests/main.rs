//! Tests of the program from outside: the built binary between real servers, one module per promise.
//!
//! `tests/run` starts what they need; see `support` for the pieces.

mod cli;
mod delivery;
mod demo;
mod examples;
mod faults;
mod guard;
mod lease;
mod ledger;
mod message;
mod notify;
mod order;
mod queries;
mod settle;
mod sqlite;
mod status;
mod support;
mod tls;

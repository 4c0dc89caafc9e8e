//! Tests of the program from outside: the built binary between real servers, one module per promise.
//!
//! `tests/run` starts what they need; see `support` for the pieces.

mod cli;
mod delivery;
mod faults;
mod guard;
mod lease;
mod message;
mod notify;
mod order;
mod queries;
mod status;
mod support;
mod tls;

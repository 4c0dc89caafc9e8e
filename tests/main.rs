//! Tests of the program from outside: the built binary between real servers, one module per promise.
//!
//! `tests/run` starts what they need; see `support` for the pieces.

mod support;

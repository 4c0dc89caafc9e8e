//! Ports for servers that the tests start.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports are handed out from here on: below those that the kernel gives to clients, so that a server can come
/// back on its port.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;

static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that nobody listens on, and that this process hands out once.
pub(crate) fn free() -> u16 {
    // Two test processes at a time start at different places.
    let start = std::process::id() as u16 % 100 * 100;
    for _ in 0..COUNT {
        let n = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(n) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

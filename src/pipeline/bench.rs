//! For `benches/micro.rs` alone: parts of a pipeline that are private, and stay so. No part of the library's interface.

use std::sync::Arc;

use super::{flush, order};
use crate::event::Event;
use crate::ledger::RangeSet;
use crate::sink::KeyOrder;
use crate::source::{Flush, StoredLedger};

/// A gate that keeps order.
#[derive(Debug)]
pub struct Gate(order::Gate);

/// The gate of a sink that doesn't.
#[must_use]
pub fn gate() -> Gate {
    Gate(order::Gate::new(KeyOrder::Gated))
}

impl Gate {
    /// An event was read.
    pub fn admit(&mut self, event: &Arc<Event>) {
        self.0.admit(Arc::clone(event));
    }

    /// It is acknowledged.
    pub fn release(&mut self, event: &Arc<Event>) {
        self.0.release(event);
    }
}

/// The ledger of a running pipeline.
#[derive(Debug)]
pub struct Ledger(flush::Ledger);

/// An empty one.
#[must_use]
pub fn ledger() -> Ledger {
    Ledger(flush::Ledger::new(StoredLedger {
        sink: "bench".to_owned(),
        delivered: RangeSet::new(),
        closed: RangeSet::new(),
    }))
}

impl Ledger {
    /// An event is acknowledged.
    pub fn delivered(&mut self, seq: i64) {
        self.0.delivered(seq);
    }

    /// What is to be stored now.
    pub fn flush(&mut self) -> Flush {
        self.0.begin_flush().flush
    }
}

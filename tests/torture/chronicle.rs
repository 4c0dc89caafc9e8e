//! What was done to whom, and when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// One fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) victim: &'static str,
    pub(crate) name: &'static str,
    pub(crate) began: SystemTime,
    /// When the victim was well again.
    pub(crate) ended: SystemTime,
}

/// All faults of a run, in the order of their ends. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chronicle(Arc<Mutex<Vec<Fault>>>);

impl Chronicle {
    /// Does it, and takes note.
    pub(crate) async fn note(
        &self,
        victim: &'static str,
        name: &'static str,
        fault: impl Future<Output = ()>,
    ) {
        let began = SystemTime::now();
        fault.await;
        let ended = SystemTime::now();
        self.0.lock().expect("nobody panics with it").push(Fault {
            victim,
            name,
            began,
            ended,
        });
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    /// How often each fault was inflicted.
    pub(crate) fn counts(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for fault in self.faults() {
            *counts.entry((fault.victim, fault.name)).or_default() += 1;
        }
        counts
    }
}

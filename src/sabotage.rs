//! Breaks one promise on purpose, so that the torture test can show that it would notice. Nothing of it is in a normal
//! build: only the feature `sabotage` reads the variable `OUTBOX_SABOTAGE`.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "sabotage"), allow(dead_code))]
pub(crate) enum Sabotage {
    /// The ledger has an event when it is handed to the sink, and not when the broker acknowledged it.
    EarlyLedger,
    /// `seq > cursor`, and nothing else.
    NoHoles,
    /// A new id for each attempt but the first.
    FreshIds,
    /// A publish counts when it is sent.
    NoConfirms,
    /// Flushes don't ask whose the ledger is.
    NoFence,
    /// Holes and forward rows are read one after the other.
    TwoReads,
    /// What was read of one server is believed of the next.
    LongMemory,
}

#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is_on(_: Sabotage) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub(crate) use self::switched::{is_on, other_time, read_apart};

#[cfg(feature = "sabotage")]
mod switched {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use uuid::Uuid;

    use super::Sabotage;

    static WANTED: LazyLock<Option<Sabotage>> = LazyLock::new(|| {
        let name = std::env::var("OUTBOX_SABOTAGE").ok()?;
        Some(match name.as_str() {
            "" => return None,
            "early-ledger" => Sabotage::EarlyLedger,
            "no-holes" => Sabotage::NoHoles,
            "fresh-ids" => Sabotage::FreshIds,
            "no-confirms" => Sabotage::NoConfirms,
            "no-fence" => Sabotage::NoFence,
            "two-reads" => Sabotage::TwoReads,
            "long-memory" => Sabotage::LongMemory,
            other => panic!("OUTBOX_SABOTAGE={other} is not known"),
        })
    });

    pub(crate) fn is_on(sabotage: Sabotage) -> bool {
        *WANTED == Some(sabotage)
    }

    /// Leaves one of the parts of a read, now the first and now the second.
    pub(crate) fn read_apart(parts: &mut Vec<String>) {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        if is_on(Sabotage::TwoReads) && parts.len() == 2 {
            parts.remove(TURN.fetch_add(1, Ordering::Relaxed) % 2);
        }
    }

    /// Whether this id was asked for before.
    pub(crate) fn other_time(id: Uuid) -> bool {
        static SEEN: LazyLock<Mutex<HashSet<Uuid>>> = LazyLock::new(Mutex::default);
        !SEEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id)
    }
}

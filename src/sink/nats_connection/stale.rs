//! Messages that nobody waits for any more, and that may be under way still.
//!
//! What is queued for the connection's writer survives the connection, and goes out over the next one. If a server then
//! meets a message that is larger than it allows, it may be one of these, and no one that waits is to blame.

/// Sizes that are remembered, the largest: more than the writer's queue can hold, which is all that survives.
const MAX_SIZES: usize = 2 * super::WRITER_QUEUE;

/// The sizes of these messages.
///
/// There are never fewer sizes above the server's limit here than such messages under way: each violation takes one of
/// the messages, and at most one of the sizes, the largest. So a message that is as large as the largest size, and is
/// the largest that waits, is too large for certain when the server says that one was.
#[derive(Debug, Default)]
pub(in crate::sink) struct Stale {
    /// Ascending.
    sizes: Vec<usize>,
    /// What began with this number or a later one was queued behind all of these.
    until: u64,
}

impl Stale {
    /// Nobody waits any more for a message of `size` bytes. What begins next has the number `next`.
    pub(in crate::sink) fn add(&mut self, size: usize, next: u64) {
        self.until = next;
        let place = self.sizes.partition_point(|known| *known < size);
        self.sizes.insert(place, size);
        if self.sizes.len() > MAX_SIZES {
            self.sizes.remove(0);
        }
    }

    /// The server has answered what began with this number: it handles messages in their order.
    pub(in crate::sink) fn answered(&mut self, number: u64) {
        if number >= self.until {
            self.sizes.clear();
        }
    }

    /// The server has met a message that is too large. Whether the largest one that is waited for, of `size` bytes, is
    /// so for certain.
    pub(in crate::sink) fn convicts(&mut self, size: Option<usize>) -> bool {
        match self.sizes.last() {
            Some(stale) if size.is_none_or(|size| size < *stale) => {
                self.sizes.pop();
            }
            _ if size.is_some() => return true,
            _ => (),
        }
        tracing::warn!(
            "NATS closed the connection because a message was larger than it allows this user; it may be one that is no longer waited for, and none is blamed"
        );
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_waits_is_convicted_when_no_larger_one_may_be_under_way() {
        let mut stale = Stale::default();
        assert!(!stale.convicts(None), "nobody waits");
        assert!(stale.convicts(Some(1)));
        stale.add(40, 7);
        stale.add(50, 8);
        stale.add(30, 9);
        assert!(stale.convicts(Some(50)), "as large as the largest");
        stale.answered(8);
        // Each violation has taken one of them from the queue.
        assert!(!stale.convicts(Some(35)));
        assert!(!stale.convicts(Some(35)));
        assert!(stale.convicts(Some(35)));
        assert!(!stale.convicts(Some(20)));
        stale.add(40, 10);
        stale.answered(10);
        assert!(stale.convicts(Some(20)), "all are through");
    }

    #[test]
    fn the_largest_sizes_are_kept() {
        let mut stale = Stale::default();
        (0..=MAX_SIZES).for_each(|size| stale.add(size, 1));
        assert_eq!(stale.sizes.len(), MAX_SIZES);
        assert_eq!(stale.sizes.first(), Some(&1));
    }
}

//! Settling, as far as it is the same at every database: which rows come next, and when to look again. How they are
//! found, marked and deleted is the database's own.

use std::time::Duration;

use tokio::time::Instant;

use super::Settled;
use crate::config::AfterDelivery;
use crate::ledger::{MAX_STORED_RANGES, RangeSet};

/// The longest pause between two looks for rows that have become too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Ranges remembered in memory at most. They only save looking twice at what the database has no room for.
const MAX_SETTLED_RANGES: usize = 10 * MAX_STORED_RANGES;

/// What to do with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Set `sent_at` where it is not set.
    Mark,
    /// Delete.
    Delete,
    /// Delete those older than this.
    Expire(Duration),
}

/// How far settling has come, as the database has it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What every ledger has.
    pub(super) everywhere: RangeSet,
    /// The same without the rows of open dead letters, which a retry may still need.
    pub(super) deletable: RangeSet,
    /// What was recorded as marked.
    pub(super) marked: RangeSet,
    /// What was recorded as deleted.
    pub(super) deleted: RangeSet,
}

/// What one step did.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Rows marked or deleted.
    pub(super) rows: u64,
    /// What needs no further step.
    pub(super) covered: RangeSet,
    /// Whether there is something left.
    pub(super) more: bool,
}

/// What one settler is to do, and remembers of what it did.
#[derive(Debug)]
pub(super) struct Agenda {
    after_delivery: AfterDelivery,
    retention: Option<Duration>,
    /// What this session has settled, whether the database had room to remember it or not.
    settled: RangeSet,
    expire_at: Instant,
}

impl Agenda {
    pub(super) fn new(after_delivery: AfterDelivery, retention: Option<Duration>) -> Self {
        Self {
            after_delivery,
            retention,
            settled: RangeSet::new(),
            expire_at: Instant::now(),
        }
    }

    /// What there is to do now.
    pub(super) fn due(&self) -> Vec<Action> {
        let delivered = match self.after_delivery {
            AfterDelivery::Mark => Some(Action::Mark),
            AfterDelivery::Delete => Some(Action::Delete),
            AfterDelivery::Keep => None,
        };
        let expiry = self.retention.filter(|_| Instant::now() >= self.expire_at);
        delivered
            .into_iter()
            .chain(expiry.map(Action::Expire))
            .collect()
    }

    /// What every ledger has and nobody has settled.
    pub(super) fn pending(&self, action: Action, progress: &Progress) -> RangeSet {
        let mut pending = match action {
            Action::Mark => progress.everywhere.clone(),
            Action::Delete | Action::Expire(_) => progress.deletable.clone(),
        };
        pending.subtract(&progress.deleted);
        if action == Action::Mark {
            pending.subtract(&progress.marked);
        }
        // What was too young may have come of age.
        if !matches!(action, Action::Expire(_)) {
            pending.subtract(&self.settled);
        }
        pending
    }

    /// A step was taken, or the default one if nothing was pending.
    pub(super) fn has_done(&mut self, action: Action, step: &Step, done: &mut Settled) {
        let mut more = step.more;
        match action {
            Action::Mark => done.marked = step.rows,
            Action::Delete => done.deleted = step.rows,
            Action::Expire(retention) => {
                done.expired = step.rows;
                // Rows come in the order of `seq`, and so nearly in that of their age: it ends where a step finds none.
                more &= step.rows > 0;
                if !more {
                    self.expire_at = Instant::now() + EXPIRY_INTERVAL.min(retention / 10);
                }
            }
        }
        if !matches!(action, Action::Expire(_)) && !step.covered.is_empty() {
            if self.settled.len() > MAX_SETTLED_RANGES {
                self.settled = RangeSet::new();
            }
            self.settled.extend(&step.covered);
        }
        done.more |= more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn ranges(text: &str) -> RangeSet {
        RangeSet::parse(text).expect("a multirange")
    }

    fn progress() -> Progress {
        Progress {
            everywhere: ranges("{[1,11)}"),
            deletable: ranges("{[1,5),[6,11)}"),
            marked: ranges("{[1,4)}"),
            deleted: ranges("{[1,3)}"),
        }
    }

    #[test]
    fn what_is_pending_depends_on_what_is_done_with_it() {
        let mut agenda = Agenda::new(AfterDelivery::Mark, Some(DAY));
        let pending = |agenda: &Agenda, action| agenda.pending(action, &progress()).to_string();
        assert_eq!(pending(&agenda, Action::Mark), "{[4,11)}");
        assert_eq!(pending(&agenda, Action::Delete), "{[3,5),[6,11)}");
        let step = Step {
            rows: 5,
            covered: ranges("{[4,9)}"),
            more: true,
        };
        let mut done = Settled::default();
        agenda.has_done(Action::Mark, &step, &mut done);
        assert_eq!((done.marked, done.more), (5, true));
        assert_eq!(pending(&agenda, Action::Mark), "{[9,11)}");
        assert_eq!(pending(&agenda, Action::Expire(DAY)), "{[3,5),[6,11)}");
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_are_too_young_are_looked_at_again_later() {
        let mut agenda = Agenda::new(AfterDelivery::Keep, Some(DAY));
        assert_eq!(agenda.due(), [Action::Expire(DAY)]);
        let mut step = Step {
            rows: 1,
            covered: ranges("{[1,2)}"),
            more: true,
        };
        let mut done = Settled::default();
        agenda.has_done(Action::Expire(DAY), &step, &mut done);
        assert_eq!((done.expired, done.more), (1, true));
        assert_eq!(agenda.due(), [Action::Expire(DAY)], "at once");
        step.rows = 0;
        let mut done = Settled::default();
        agenda.has_done(Action::Expire(DAY), &step, &mut done);
        assert!(!done.more, "the rest is too young");
        assert!(agenda.due().is_empty());
        tokio::time::advance(EXPIRY_INTERVAL).await;
        assert_eq!(agenda.due(), [Action::Expire(DAY)]);
    }

    #[test]
    fn nothing_is_due_where_everything_is_kept() {
        assert!(Agenda::new(AfterDelivery::Keep, None).due().is_empty());
        assert_eq!(
            Agenda::new(AfterDelivery::Delete, None).due(),
            [Action::Delete]
        );
    }
}

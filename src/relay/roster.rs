//! Named tasks, each with the settings that it runs by and a stop of its own.
//!
//! The sources of a relay are one roster, the pipelines of a session another. Stopping a task is asking it, and
//! aborting it if it has not ended in time; its name is free again once it has ended, never before.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::thread::OwnThread;

/// Tasks by name. Dropped, it aborts all of them.
#[derive(Debug)]
pub(super) struct Roster<S, T> {
    /// Stops all of them.
    stop: CancellationToken,
    tasks: JoinSet<T>,
    entries: BTreeMap<String, Entry<S>>,
}

#[derive(Debug)]
struct Entry<S> {
    id: Id,
    settings: S,
    stop: CancellationToken,
    abort: AbortHandle,
    /// Set once it was told to stop.
    abort_at: Option<Instant>,
    /// Where it runs, unless that is where everybody does.
    thread: Option<OwnThread>,
}

/// A task that has ended.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) name: String,
    /// Whether it was told to stop.
    pub(super) stopped: bool,
    pub(super) outcome: Outcome<T>,
}

/// How a task has ended.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// By itself, or soon after it was told to.
    Returned(T),
    /// It did not stop in time.
    Aborted,
    /// It panicked.
    Died(JoinError),
}

impl<S: PartialEq, T: Send + 'static> Roster<S, T> {
    /// Nobody yet. `stop` tells all of them to stop, and has no deadline.
    pub(super) fn new(stop: &CancellationToken) -> Self {
        Self {
            stop: stop.clone(),
            tasks: JoinSet::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Starts a task under a name that is free, on its own thread if it has one; `task` is given its stop.
    pub(super) fn start<F>(
        &mut self,
        name: &str,
        settings: S,
        thread: Option<OwnThread>,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = T> + Send + 'static,
    {
        debug_assert!(!self.entries.contains_key(name), "{name} runs already");
        let stop = self.stop.child_token();
        let task = task(stop.clone());
        let abort = match &thread {
            Some(thread) => self.tasks.spawn_on(task, thread.handle()),
            None => self.tasks.spawn(task),
        };
        let entry = Entry {
            id: abort.id(),
            settings,
            stop,
            abort,
            abort_at: None,
            thread,
        };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Tells every task to stop that has no place in `wanted` or other settings there; each is aborted if it takes
    /// longer than `limit`. Returns the names that are free and wanted.
    pub(super) fn make_room(
        &mut self,
        wanted: &BTreeMap<String, S>,
        limit: Duration,
    ) -> Vec<String> {
        for (name, entry) in &mut self.entries {
            if wanted.get(name) != Some(&entry.settings) {
                entry.told(limit);
            }
        }
        let free = wanted
            .keys()
            .filter(|name| !self.entries.contains_key(*name));
        free.cloned().collect()
    }

    /// All have been told to stop by the stop of the whole; each is aborted if it takes longer than `limit`.
    pub(super) fn limit_stop(&mut self, limit: Duration) {
        for entry in self.entries.values_mut() {
            entry.told(limit);
        }
    }

    /// Whether nobody is left.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nobody is still to end.
    pub(super) fn is_settled(&self) -> bool {
        self.entries.values().all(|entry| entry.abort_at.is_none())
    }

    /// The next task that ends; for ever if there is none. Aborts those whose time is up. Nothing is lost if the
    /// future is dropped.
    pub(super) async fn ended(&mut self) -> Ended<T> {
        loop {
            let abort_at = self
                .entries
                .values()
                .filter_map(|entry| entry.abort_at)
                .min();
            let due = async {
                match abort_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(joined) = self.tasks.join_next_with_id() => {
                    if let Some(ended) = self.take_out(joined) {
                        return ended;
                    }
                }
                () = due => self.abort_due(),
            }
        }
    }

    /// Ends all of them at once.
    pub(super) async fn abort_all(mut self) {
        self.tasks.shutdown().await;
    }

    fn abort_due(&mut self) {
        let now = Instant::now();
        for entry in self.entries.values_mut() {
            if entry.abort_at.is_some_and(|at| at <= now) {
                entry.abort.abort();
                // It ends at its next await; until then there is nothing to wait for but that.
                entry.abort_at = Some(now + FAR);
            }
        }
    }

    fn take_out(&mut self, joined: Result<(Id, T), JoinError>) -> Option<Ended<T>> {
        let (id, outcome) = match joined {
            Ok((id, value)) => (id, Outcome::Returned(value)),
            Err(error) if error.is_cancelled() => (error.id(), Outcome::Aborted),
            Err(error) => (error.id(), Outcome::Died(error)),
        };
        let mut named = self.entries.iter().filter(|(_, entry)| entry.id == id);
        let name = named.next()?.0.clone();
        let mut entry = self.entries.remove(&name)?;
        if let Some(thread) = entry.thread.take() {
            tokio::spawn(thread.leave());
        }
        Some(Ended {
            name,
            stopped: entry.stop.is_cancelled(),
            outcome,
        })
    }
}

/// Longer than any task takes to notice that it was aborted.
const FAR: Duration = Duration::from_secs(3_600);

impl<S> Entry<S> {
    /// Once: a second word gives no more time.
    fn told(&mut self, limit: Duration) {
        self.stop.cancel();
        self.abort_at.get_or_insert_with(|| Instant::now() + limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn wanted(settings: &[(&str, u32)]) -> BTreeMap<String, u32> {
        let pairs = settings.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    /// Starts what is free and wanted: tasks that end when told, but for those with odd settings.
    fn follow(roster: &mut Roster<u32, ()>, settings: &[(&str, u32)]) -> Vec<String> {
        let wanted = wanted(settings);
        let free = roster.make_room(&wanted, LIMIT);
        for name in &free {
            let value = wanted[name];
            roster.start(name, value, None, |stop| async move {
                stop.cancelled().await;
                if value % 2 == 1 {
                    std::future::pending::<()>().await;
                }
            });
        }
        free
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_changes_is_stopped_and_its_name_is_free_afterwards() {
        let mut roster = Roster::new(&CancellationToken::new());
        assert_eq!(
            follow(&mut roster, &[("a", 2), ("b", 2), ("c", 2)]),
            ["a", "b", "c"]
        );
        let next = [("a", 2), ("b", 4), ("d", 2)];
        assert_eq!(follow(&mut roster, &next), ["d"], "b has not ended yet");
        assert!(!roster.is_settled());
        let (first, second) = (roster.ended().await, roster.ended().await);
        let mut names = [first.name, second.name];
        names.sort();
        assert_eq!(names, ["b", "c"]);
        assert!(first.stopped && second.stopped && roster.is_settled());
        assert_eq!(follow(&mut roster, &next), ["b"]);
        assert!(
            follow(&mut roster, &next).is_empty(),
            "the same changes nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_stop_in_time_is_aborted_and_no_word_prolongs_it() {
        let mut roster = Roster::new(&CancellationToken::new());
        follow(&mut roster, &[("stuck", 1)]);
        let begun = Instant::now();
        follow(&mut roster, &[]);
        tokio::time::advance(LIMIT / 2).await;
        follow(&mut roster, &[("stuck", 2)]);
        let ended = roster.ended().await;
        assert!(matches!(ended.outcome, Outcome::Aborted), "{ended:?}");
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
        assert!(roster.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_stop_of_the_whole_reaches_everybody() {
        let stop = CancellationToken::new();
        let mut roster = Roster::new(&stop);
        follow(&mut roster, &[("a", 2), ("stuck", 1)]);
        stop.cancel();
        roster.limit_stop(LIMIT);
        assert_eq!(roster.ended().await.name, "a");
        assert_eq!(roster.ended().await.name, "stuck");
        assert!(roster.is_empty());
    }
}

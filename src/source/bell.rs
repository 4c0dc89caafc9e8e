//! The bell: how idle pipelines of a source learn that there may be something to read.
//!
//! A source without one (`mode = "poll"`) has its pipelines read every now and then. One that has a bell tells
//! them all how to wait; they tell it when they found something, so that it stays awake while there is traffic.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How an idle pipeline waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody rings: it reads this often.
    Polling {
        /// The time between two reads.
        every: Duration,
    },
    /// Writers ring. A pipeline whose last read began before `since` reads once more, for what was committed
    /// before that rang nobody; then it waits for the bell.
    Armed {
        /// Every event that was committed in silence is visible to reads from now on.
        since: Instant,
    },
}

/// A pipeline's end of the bell.
#[derive(Debug, Clone)]
pub struct Bell {
    waiting: watch::Receiver<Waiting>,
    active_at: watch::Sender<Instant>,
    trouble: watch::Receiver<Option<String>>,
}

/// The source's end of the bell.
#[derive(Debug)]
pub struct Ringer {
    waiting: watch::Sender<Waiting>,
    active_at: watch::Receiver<Instant>,
    trouble: watch::Sender<Option<String>>,
}

impl Bell {
    /// A bell that is polled `every` now and then until its ringer says otherwise.
    #[must_use]
    pub fn new(every: Duration) -> (Self, Ringer) {
        let (waiting, waiting_receiver) = watch::channel(Waiting::Polling { every });
        let (active_at, active_receiver) = watch::channel(Instant::now());
        let (trouble, trouble_receiver) = watch::channel(None);
        let bell = Self {
            waiting: waiting_receiver,
            active_at,
            trouble: trouble_receiver,
        };
        let ringer = Ringer {
            waiting,
            active_at: active_receiver,
            trouble,
        };
        (bell, ringer)
    }

    /// How to wait now.
    #[must_use]
    pub fn waiting(&mut self) -> Waiting {
        *self.waiting.borrow_and_update()
    }

    /// Until the way to wait is another than [`Bell::waiting`] said; for ever if the ringer is gone.
    pub async fn changed(&mut self) {
        if self.waiting.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Why nobody can ring, so that the table is polled; `None`: nothing is wrong.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// A read found something.
    pub fn active(&self) {
        self.active_at.send_replace(Instant::now());
    }
}

impl Ringer {
    /// Tells the pipelines how to wait.
    pub fn tell(&self, waiting: Waiting) {
        self.waiting.send_if_modified(|now| {
            let modified = *now != waiting;
            *now = waiting;
            modified
        });
    }

    /// Says why nobody can ring; `None`: it is in order again.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.trouble.send_replace(trouble);
    }

    /// How long no pipeline has found anything.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        self.active_at.borrow().elapsed()
    }

    /// Until a pipeline finds something; for ever if all of them are gone.
    pub async fn activity(&mut self) {
        self.active_at.borrow_and_update();
        if self.active_at.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

//! Destinations that take nothing now although the broker answers: full queues and streams.
//!
//! Each of their events waits for a retry with its key, and everything else goes on for as long as there is room to
//! read. Where what waits fills `max_parked` or the limit of weight, reading stops, and with it all that the sink has
//! to do: that is the bound, and it is said as loudly as an outage.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Pump;
use crate::error::PublishError;
use crate::event::Event;
use crate::status;

/// How often the log says that there still are such destinations.
const REMINDER: Duration = Duration::from_secs(60);

/// They are said to take events again when none was refused for so long: a queue that is emptied slowly is full again
/// a moment after each message.
const CALM: Duration = Duration::from_secs(10);

/// Events whose destination takes nothing now.
#[derive(Debug)]
pub(super) struct Busy {
    events: BTreeSet<i64>,
    /// What the broker said last, and when.
    error: String,
    told_at: Instant,
    /// Since when there are such events, as the log has it; `None`: there are none.
    since: Option<Instant>,
    remind_at: Instant,
    /// When the broker took something last.
    taken_at: Instant,
    blocks_reading: bool,
}

impl Busy {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            events: BTreeSet::new(),
            error: String::new(),
            told_at: now,
            since: None,
            remind_at: now,
            taken_at: now,
            blocks_reading: false,
        }
    }

    /// An attempt has ended: whether its event still waits for its destination is what it says.
    pub(super) fn ends(&mut self, event: &Event) {
        self.events.remove(&event.seq);
    }

    /// The broker has taken a message.
    pub(super) fn taken(&mut self) {
        self.taken_at = Instant::now();
    }

    /// The destination of `event` takes nothing.
    pub(super) fn refused(&mut self, event: &Event, error: &PublishError) {
        self.told_at = Instant::now();
        self.error = error.chain();
        self.events.insert(event.seq);
        if self.since.is_none() {
            self.since = Some(self.told_at);
            self.remind_at = self.told_at + REMINDER;
            tracing::warn!(
                error = self.error,
                "a destination takes nothing now: its events wait with their keys, everything else goes on"
            );
        }
    }

    /// What others see; `None`: every destination takes what comes.
    pub(super) fn shown(&self) -> Option<status::Busy> {
        let since = self.since.filter(|_| !self.events.is_empty())?;
        Some(status::Busy {
            events: self.events.len(),
            since,
            idle_since: since.max(self.taken_at),
            error: self.error.clone(),
            blocks_reading: self.blocks_reading,
        })
    }
}

impl Pump {
    /// Says, at each tick, what has changed.
    pub(super) fn look_at_busy(&mut self, now: Instant) {
        let Some(since) = self.busy.since else {
            return;
        };
        let blocks = !self.busy.events.is_empty() && self.is_full_of_parked();
        if blocks && !self.busy.blocks_reading {
            tracing::warn!(
                events = self.busy.events.len(),
                error = self.busy.error,
                "events for destinations that take nothing leave no room: nothing more is read, and everything for \
                 this sink waits (max_parked, max_in_flight_bytes)"
            );
        } else if !blocks && self.busy.blocks_reading {
            tracing::info!("there is room again, reading goes on");
        }
        self.busy.blocks_reading = blocks;
        if self.busy.events.is_empty() {
            if now - self.busy.told_at >= CALM {
                self.busy.since = None;
                tracing::info!(after = ?(now - since), "every destination takes events again");
            }
        } else if now >= self.busy.remind_at {
            self.busy.remind_at = now + REMINDER;
            tracing::warn!(
                events = self.busy.events.len(),
                since = ?(now - since),
                error = self.busy.error,
                "destinations still take nothing"
            );
        }
    }
}

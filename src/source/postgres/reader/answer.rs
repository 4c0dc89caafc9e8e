//! What a reader is answered: the facts about the server, and the rows that go with them.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::super::rows;
use crate::event::Event;

/// The rows of one read, cut off where they exceed the bytes.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) events: Vec<Arc<Event>>,
    /// Whether the server is still the one of the lease.
    pub(super) unchanged: bool,
    /// Whether a transaction has ended that may own a hole which was not looked up.
    pub(super) ended: bool,
    pub(super) last_value: i64,
    pub(super) weight: usize,
    pub(super) cut_off: bool,
}

impl Rows {
    /// Takes one row, the facts or an event. Events beyond `bytes` are thrown away as they arrive, so that memory stays
    /// bounded whatever their size; the first is always kept.
    pub(super) fn take(
        &mut self,
        row: &PgRow,
        payload: rows::PayloadType,
        bytes: usize,
    ) -> Result<(), sqlx::Error> {
        if !rows::has_event(row)? {
            return self.take_facts(row);
        }
        if self.cut_off {
            return Ok(());
        }
        let event = rows::event(row, payload)?;
        if self.events.last().is_some_and(|last| last.seq >= event.seq) {
            // Taken as they come, they would be delivered so.
            return Err(sqlx::Error::Protocol("rows out of order".to_owned()));
        }
        let weight = event.weight();
        if !self.events.is_empty() && self.weight + weight > bytes {
            self.cut_off = true;
            return Ok(());
        }
        self.weight += weight;
        self.events.push(Arc::new(event));
        Ok(())
    }

    fn take_facts(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        // NULL where the sequence is gone.
        self.unchanged = row
            .try_get::<Option<bool>, _>("unchanged")?
            .unwrap_or(false);
        self.ended = row.try_get("ended")?;
        self.last_value = row.try_get("last_value")?;
        Ok(())
    }
}

//! Writing events, for trying out: each in a transaction of its own, as an application would.

use async_trait::async_trait;
use uuid::Uuid;

use super::SourceError;
use crate::enqueue::NewEvent;

/// Inserts events into an outbox table.
#[async_trait]
pub trait EventWriter: Send {
    /// Inserts one event and commits; returns its id.
    ///
    /// # Errors
    /// If the database can't be reached, or refuses the event: its payload is not JSON, for example.
    async fn write(&mut self, event: &NewEvent) -> Result<Uuid, SourceError>;
}

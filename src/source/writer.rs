//! Writing events, for trying out: each in a transaction of its own, as an application would.

use async_trait::async_trait;
use uuid::Uuid;

use super::SourceError;

/// An event to be written.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What happened.
    pub event_type: String,
    /// The kind of thing it happened to.
    pub aggregate_type: Option<String>,
    /// The ordering key.
    pub aggregate_id: Option<String>,
    /// JSON text.
    pub payload: String,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
}

/// Inserts events into an outbox table.
#[async_trait]
pub trait EventWriter: Send {
    /// Inserts one event and commits; returns its id.
    ///
    /// # Errors
    /// If the database can't be reached, or refuses the event: its payload is not JSON, for example.
    async fn write(&mut self, event: &NewEvent) -> Result<Uuid, SourceError>;
}

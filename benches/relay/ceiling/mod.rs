//! The ceiling: what a bare loop reaches that reads pages and publishes them with acknowledgements. No ledger, no order
//! across a failure, no routing, no metrics, no envelope; and it knows nothing of holes.

mod jetstream;
mod kafka;
mod pages;
mod rabbitmq;

use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::Result;
use crate::check::{Checker, Name};
use crate::target::Target;

/// A row, as much as a message needs.
#[derive(Debug)]
struct Row {
    id: Uuid,
    event_type: String,
    key: String,
    payload: Bytes,
}

type Pages = mpsc::Receiver<Vec<Row>>;

/// Publishes everything that the outbox holds to one target. `begun` is called at the first event.
pub(crate) async fn run(
    database: &str,
    target: Target,
    events: u64,
    begun: impl FnOnce(),
) -> Result<Option<Checker>> {
    let mut pages = pages::read(database).await?;
    match target {
        Target::Null => return count(&mut pages, events, begun).await.map(Some),
        Target::Jetstream { url, prefix } => {
            jetstream::publish(&mut pages, &url, &prefix, events).await?;
        }
        Target::Rabbitmq { url, queue } => {
            rabbitmq::publish(&mut pages, &url, &queue, events).await?;
        }
        Target::Kafka { brokers, topic } => {
            kafka::publish(&mut pages, &brokers, &topic, events).await?;
        }
    }
    Ok(None)
}

/// The null sink: reading alone, and the same check as the relay's null sink makes.
async fn count(pages: &mut Pages, events: u64, begun: impl FnOnce()) -> Result<Checker> {
    let mut checker = Checker::default();
    let mut begun = Some(begun);
    while checker.distinct() < events {
        let page = pages.recv().await.ok_or("the reader has ended")?;
        if let Some(begun) = begun.take() {
            begun();
        }
        for row in page {
            checker.take(Name::of(&row.payload)?);
        }
    }
    Ok(checker)
}

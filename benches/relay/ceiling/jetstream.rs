//! JetStream: one connection, and acknowledgements counted as they come.

use std::sync::Arc;

use async_nats::{HeaderMap, header};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

use super::Pages;
use crate::Result;

/// Messages without an acknowledgement: enough that the server never waits for us.
const WINDOW: usize = 4_096;

pub(super) async fn publish(pages: &mut Pages, url: &str, prefix: &str, events: u64) -> Result {
    let client = async_nats::connect(url).await?;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await?;
    let room = Arc::new(Semaphore::new(WINDOW));
    let acknowledged = tokio::spawn({
        let room = Arc::clone(&room);
        async move {
            for _ in 0..events {
                let reply = replies.next().await.ok_or("the connection is lost")?;
                if reply
                    .payload
                    .windows(7)
                    .any(|window| window == b"\"error\"")
                {
                    return Err(format!("refused: {:?}", reply.payload).into());
                }
                room.add_permits(1);
            }
            Result::Ok(())
        }
    });
    while let Some(page) = pages.recv().await {
        for row in page {
            room.acquire().await?.forget();
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_MESSAGE_ID, row.id.to_string());
            headers.insert("aggregate_id", row.key);
            let subject = format!("{prefix}.{}", row.event_type);
            client
                .publish_with_reply_and_headers(subject, inbox.clone(), headers, row.payload)
                .await?;
        }
    }
    acknowledged.await?
}

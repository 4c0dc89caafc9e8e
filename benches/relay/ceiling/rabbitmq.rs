//! RabbitMQ: one channel, persistent and mandatory messages, and confirms awaited in their order.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use tokio::sync::mpsc;

use super::Pages;
use crate::Result;

/// Messages without a confirm: enough that the broker never waits for us.
const WINDOW: usize = 1_024;

pub(super) async fn publish(pages: &mut Pages, url: &str, queue: &str, events: u64) -> Result {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let (sender, mut confirms) = mpsc::channel::<lapin::PublisherConfirm>(WINDOW);
    let confirmed = tokio::spawn(async move {
        for _ in 0..events {
            let confirm = confirms.recv().await.ok_or("the publisher has ended")?;
            if !matches!(confirm.await?, Confirmation::Ack(None)) {
                return Err("a message was not taken".into());
            }
        }
        Result::Ok(())
    });
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    while let Some(page) = pages.recv().await {
        for row in page {
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_message_id(row.id.to_string().into())
                .with_type(row.event_type.into());
            let confirm = channel
                .basic_publish("".into(), queue.into(), options, &row.payload, properties)
                .await?;
            sender.send(confirm).await?;
        }
    }
    confirmed.await?
}

//! A stream in files, with the settings that a stream has by default.

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Context};
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use super::{Receipts, receipt};
use crate::Result;
use crate::target::Target;

pub(crate) struct Stream {
    url: String,
    name: String,
    context: Context,
    stream: jetstream::stream::Stream,
}

impl Stream {
    pub(super) async fn create(url: &str, name: &str) -> Result<Self> {
        let context = jetstream::new(async_nats::connect(url).await?);
        let stream = context
            .create_stream(jetstream::stream::Config {
                name: name.to_owned(),
                subjects: vec![format!("{name}.>")],
                ..Default::default()
            })
            .await?;
        Ok(Self {
            url: url.to_owned(),
            name: name.to_owned(),
            context,
            stream,
        })
    }

    pub(super) fn target(&self) -> Target {
        Target::Jetstream {
            url: self.url.clone(),
            prefix: self.name.clone(),
        }
    }

    pub(super) async fn count(&mut self) -> Result<u64> {
        Ok(self.stream.info().await?.state.messages)
    }

    pub(super) async fn consume(&self, receipts: Receipts) -> Result<JoinHandle<()>> {
        let consumer = self
            .stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::All,
                ..Default::default()
            })
            .await?;
        let mut messages = consumer.messages().await?;
        Ok(tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let taken = match message {
                    Ok(message) => receipt(&message.payload),
                    Err(error) => Err(error.into()),
                };
                if receipts.send(taken).is_err() {
                    return;
                }
            }
        }))
    }

    pub(super) async fn remove(self) -> Result {
        self.context.delete_stream(&self.name).await?;
        Ok(())
    }
}

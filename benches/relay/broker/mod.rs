//! Where a run publishes to, as its consumer sees it.

mod jetstream;
mod kafka;
mod rabbitmq;

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::Result;
use crate::check::{Checker, Name};
use crate::sink::Sink;
use crate::target::Target;

/// How long a consumer may go without a message before what is still missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream, queue or topic of one run's own.
pub(crate) enum Broker {
    Jetstream(jetstream::Stream),
    Rabbitmq(rabbitmq::Queue),
    Kafka(kafka::Topic),
}

/// An event that came, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub(crate) name: Name,
    pub(crate) at: SystemTime,
}

/// Receives what a broker holds and gets.
pub(crate) struct Consumer {
    receipts: mpsc::UnboundedReceiver<Result<Receipt>>,
    _task: AbortOnDropHandle<()>,
}

type Receipts = mpsc::UnboundedSender<Result<Receipt>>;

fn receipt(body: &[u8]) -> Result<Receipt> {
    Ok(Receipt {
        name: Name::of(body)?,
        at: SystemTime::now(),
    })
}

impl Broker {
    /// Makes it, empty.
    pub(crate) async fn create(sink: Sink, url: &str, name: &str) -> Result<Self> {
        Ok(match sink {
            Sink::Null => return Err("the null sink is no broker".into()),
            Sink::Jetstream => Self::Jetstream(jetstream::Stream::create(url, name).await?),
            Sink::Rabbitmq => Self::Rabbitmq(rabbitmq::Queue::create(url, name).await?),
            Sink::Kafka => Self::Kafka(kafka::Topic::create(url, name).await?),
        })
    }

    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Jetstream(stream) => stream.target(),
            Self::Rabbitmq(queue) => queue.target(),
            Self::Kafka(topic) => topic.target(),
        }
    }

    /// Messages that it holds.
    pub(crate) async fn count(&mut self) -> Result<u64> {
        match self {
            Self::Jetstream(stream) => stream.count().await,
            Self::Rabbitmq(queue) => queue.count().await,
            Self::Kafka(topic) => topic.count(),
        }
    }

    /// Begins with the first message that it holds.
    pub(crate) async fn consume(&self) -> Result<Consumer> {
        let (sender, receipts) = mpsc::unbounded_channel();
        let task = match self {
            Self::Jetstream(stream) => stream.consume(sender).await?,
            Self::Rabbitmq(queue) => queue.consume(sender).await?,
            Self::Kafka(topic) => topic.consume(sender)?,
        };
        Ok(Consumer {
            receipts,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Takes it away with all that it holds.
    pub(crate) async fn remove(self) -> Result {
        match self {
            Self::Jetstream(stream) => stream.remove().await,
            Self::Rabbitmq(queue) => queue.remove().await,
            Self::Kafka(topic) => topic.remove().await,
        }
    }
}

impl Consumer {
    pub(crate) async fn next(&mut self) -> Result<Receipt> {
        timeout_at(Instant::now() + PATIENCE, self.receipts.recv())
            .await
            .map_err(|_| format!("no message for {PATIENCE:?}"))?
            .ok_or("the consumer has ended")?
    }

    /// Checks the next `count` messages.
    pub(crate) async fn check(&mut self, count: u64) -> Result<Checker> {
        let mut checker = Checker::default();
        for _ in 0..count {
            checker.take(self.next().await?.name);
        }
        Ok(checker)
    }
}

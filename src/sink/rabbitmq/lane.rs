//! A channel on which publishes are pipelined: one task publishes, collects confirms and hands out verdicts.
//!
//! A channel that the broker closes is opened anew; what was in flight on it is told so, and what comes next waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt;
use futures::future::poll_fn;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, Error};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::judge::{Judge, Return, Stray, Verdict};
use super::parcel::Parcel;
use super::refusal::Failure;

/// Publishes that may wait for the task: the usual window, so that few callers wait in line.
const QUEUE: usize = 1_024;

/// Publishes without a verdict, those that nobody waits for any more included: twice the largest window. Beyond
/// it nothing is published, and callers run into their timeout.
const MAX_UNRESOLVED: usize = 131_072;

/// Each publish must reach a queue, or it comes back.
pub(super) const MANDATORY: BasicPublishOptions = BasicPublishOptions {
    mandatory: true,
    immediate: false,
};

/// What the caller of a publish is told.
pub(super) type Outcome = Result<Verdict, Failure>;

/// The lane's end that callers have. The task ends with it.
#[derive(Debug)]
pub(super) struct Lane {
    requests: mpsc::Sender<Request>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Request {
    parcel: Parcel,
    reply: oneshot::Sender<Outcome>,
}

impl Lane {
    /// Opens the first channel. `dead` is cancelled when the task finds that the connection is.
    pub(super) async fn open(
        connection: Arc<Connection>,
        dead: CancellationToken,
    ) -> Result<Self, Error> {
        let channel = confirming(&connection).await?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            run(&connection, channel, requests).await;
            dead.cancel();
        });
        Ok(Self {
            requests: sender,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Publishes and awaits the verdict. If this is dropped, the message may have been published.
    pub(super) async fn publish(&self, parcel: Parcel) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request { parcel, reply };
        self.requests
            .send(request)
            .await
            .map_err(|_| Failure::Disconnected)?;
        outcome.await.unwrap_or(Err(Failure::Disconnected))
    }
}

/// A channel on which the broker confirms each publish.
pub(super) async fn confirming(connection: &Connection) -> Result<Channel, Error> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Serves requests on one channel after the other, until the connection or the callers are gone.
async fn run(connection: &Connection, mut channel: Channel, mut requests: mpsc::Receiver<Request>) {
    loop {
        let mut flight = Flight::new(channel);
        let Some(failure) = flight.serve(&mut requests).await else {
            return;
        };
        flight.fail(&failure);
        channel = match confirming(connection).await {
            Ok(channel) => channel,
            // The connection is gone. What is queued is told so when the receiver goes.
            Err(_) => return,
        };
    }
}

type Confirm = Pin<Box<dyn Future<Output = (u64, Result<Confirmation, Error>)> + Send>>;

/// One channel and all that is in flight on it.
struct Flight {
    channel: Channel,
    confirms: FuturesUnordered<Confirm>,
    judge: Judge<oneshot::Sender<Outcome>>,
}

impl Flight {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            confirms: FuturesUnordered::new(),
            judge: Judge::new(),
        }
    }

    /// Returns what ended the channel; `None`: nobody wants anything any more.
    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<Failure> {
        loop {
            let has_room = self.judge.len() < MAX_UNRESOLVED;
            tokio::select! {
                biased;
                batch = next_batch(&mut self.confirms), if !self.confirms.is_empty() => {
                    if let Some(failure) = self.take(batch) {
                        return Some(failure);
                    }
                }
                request = requests.recv(), if has_room => self.publish(request?),
            }
        }
    }

    fn publish(&mut self, request: Request) {
        // Whoever asked has given up while this was queued.
        if request.reply.is_closed() {
            return;
        }
        let parcel = request.parcel;
        let place = self.judge.published(parcel.id, request.reply);
        let channel = self.channel.clone();
        let mut confirm: Confirm =
            Box::pin(async move { (place, publish(&channel, parcel).await) });
        // The first poll takes the message's number among the channel's publishes: here, in the judge's order.
        match confirm
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Pending => self.confirms.push(confirm),
            Poll::Ready(ended) => self.confirms.push(Box::pin(std::future::ready(ended))),
        }
    }

    /// Takes note of all confirms that have come, and tells those who wait.
    fn take(&mut self, batch: Vec<(u64, Result<Confirmation, Error>)>) -> Option<Failure> {
        let mut ended = None;
        for (place, result) in batch {
            let (nacked, returned) = match result {
                Ok(Confirmation::Ack(returned)) => (false, returned),
                Ok(Confirmation::Nack(returned)) => (true, returned),
                Ok(Confirmation::NotRequested) => {
                    return Some(Failure::Confused(
                        "RabbitMQ confirms nothing although it was asked to",
                    ));
                }
                Err(error) => {
                    ended.get_or_insert(Failure::Channel(error));
                    continue;
                }
            };
            let returned = returned.map(|message| returned_of(&message));
            if self.judge.confirmed(place, nacked, returned) == Err(Stray) {
                return Some(Failure::Confused(
                    "RabbitMQ returned a message that is not in flight",
                ));
            }
        }
        for (reply, verdict) in self.judge.verdicts() {
            // Nobody may wait any more.
            reply.send(Ok(verdict)).ok();
        }
        ended
    }

    /// Tells everyone in flight that the channel is gone.
    fn fail(&mut self, failure: &Failure) {
        for reply in self.judge.give_up() {
            reply.send(Err(failure.clone())).ok();
        }
    }
}

/// Publishes one message on a channel and awaits its confirm.
pub(super) async fn publish(channel: &Channel, parcel: Parcel) -> Result<Confirmation, Error> {
    let Parcel {
        exchange,
        routing_key,
        properties,
        body,
        ..
    } = parcel;
    channel
        .basic_publish(exchange, routing_key, MANDATORY, &body, properties)
        .await?
        .await
}

pub(super) fn returned_of(message: &lapin::message::BasicReturnMessage) -> Return {
    let id = message.properties.message_id().as_ref();
    Return {
        id: id.and_then(|id| Uuid::parse_str(id.as_str()).ok()),
        reason: format!("{} {}", message.reply_code, message.reply_text),
    }
}

/// Waits for a confirm, and returns it with all others that have come by then: whatever was resolved before any
/// of them is among them or was returned before.
async fn next_batch<F: Future + Unpin>(confirms: &mut FuturesUnordered<F>) -> Vec<F::Output> {
    let mut batch = Vec::new();
    poll_fn(|cx| {
        // The stream may pause although more is ready, to be fair to others; it wakes itself then. It is empty
        // only if nothing woke it since it was asked.
        let alarm = Arc::new(Alarm {
            rang: AtomicBool::new(false),
            task: cx.waker().clone(),
        });
        let waker = Waker::from(Arc::clone(&alarm));
        loop {
            alarm.rang.store(false, Ordering::SeqCst);
            match confirms.poll_next_unpin(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(confirm)) => batch.push(confirm),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if alarm.rang.load(Ordering::SeqCst) => {}
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
    batch
}

/// Wakes a task, and remembers that it did.
struct Alarm {
    rang: AtomicBool,
    task: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::SeqCst);
        self.task.wake_by_ref();
    }
}

//! Somebody who is subscribed, and keeps what comes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::eventually::eventually;
use crate::support::stream::Delivery;

#[derive(Debug)]
pub(crate) struct Subscriber {
    heard: Arc<Mutex<Vec<Delivery>>>,
    _task: AbortOnDropHandle<()>,
}

impl Subscriber {
    /// Subscribed at the server of this URL once it returns.
    pub(crate) async fn start(url: &str, subject: &str) -> Self {
        let client = async_nats::connect(url).await.expect("connect to NATS");
        let mut messages = client
            .subscribe(subject.to_owned())
            .await
            .expect("subscribe");
        // The answer to a request comes after the subscription was taken.
        let probe = client.request("nobody.there", "".into()).await;
        probe.expect_err("nobody is there");
        let heard = Arc::<Mutex<Vec<Delivery>>>::default();
        let task = tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Some(message) = messages.next().await {
                    let mut heard = heard.lock().expect("nobody panics with it");
                    let place = heard.len() as u64;
                    heard.push(delivery(place, message));
                }
            }
        });
        Self {
            heard,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// All that has come, in its order.
    pub(crate) fn heard(&self) -> Vec<Delivery> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn ids(&self) -> HashSet<Uuid> {
        self.heard().iter().map(|delivery| delivery.id).collect()
    }

    /// Waits until all of these have come.
    pub(crate) async fn await_ids(&self, ids: &HashSet<Uuid>, within: Duration) {
        eventually("the events have come", within, async || {
            ids.is_subset(&self.ids()).then_some(())
        })
        .await;
    }
}

fn delivery(place: u64, message: async_nats::Message) -> Delivery {
    let headers: Vec<(String, String)> = message
        .headers
        .iter()
        .flat_map(async_nats::HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let id = headers
        .iter()
        .find(|(name, _)| name == "Nats-Msg-Id")
        .and_then(|(_, value)| value.parse().ok());
    Delivery {
        place,
        at: SystemTime::now(),
        subject: message.subject.to_string(),
        // A fence has none.
        id: id.unwrap_or_default(),
        headers,
        body: message.payload,
    }
}

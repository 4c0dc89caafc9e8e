//! Exchanges that route to a full queue.
//!
//! RabbitMQ takes nothing back: where one of several queues refuses a message, the others have got it, and get it again
//! with each attempt. So while a queue is full one message at a time asks for all of the same exchange and routing key,
//! and the others are put off unsent. The default exchange routes to one queue only; there each asks for itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::judge::Verdict;
use super::parcel::Parcel;
use crate::backoff::delay;

/// How long nobody asks after a refusal: doubled with each. The longest is also how late it is noticed that there is room.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Exchanges and routing keys at most; for what comes beyond it each message asks for itself.
const MAX_FULL: usize = 1_000;

/// The exchanges and routing keys that a queue refused a message for, over all connections of a sink.
#[derive(Debug, Default)]
pub(super) struct Full {
    inner: Mutex<HashMap<Route, Pause>>,
}

/// Exchange and routing key.
type Route = (String, String);

#[derive(Debug)]
struct Pause {
    /// Refusals in a row, without the first.
    failures: u32,
    until: Instant,
    /// The message that asks, or asked last.
    asks: Option<Uuid>,
}

/// A message that may ask.
#[derive(Debug)]
pub(super) struct Request<'a> {
    full: &'a Full,
    route: Route,
    id: Uuid,
}

impl Full {
    /// `None`: a queue has refused another message a moment ago, or one asks just now.
    pub(super) fn ask(&self, parcel: &Parcel) -> Option<Request<'_>> {
        let route = (parcel.exchange.to_string(), parcel.routing_key.to_string());
        let id = parcel.id;
        if let Some(pause) = self.lock().get_mut(&route) {
            let now = Instant::now();
            if now < pause.until {
                return None;
            }
            pause.asks = Some(id);
            pause.until = now + pause.next();
        }
        let full = self;
        Some(Request { full, route, id })
    }

    /// No code that may panic runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, HashMap<Route, Pause>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request<'_> {
    /// The broker has answered it.
    pub(super) fn answered(self, verdict: &Verdict) {
        let Self { full, route, id } = self;
        let mut pauses = full.lock();
        if !matches!(verdict, Verdict::Nacked) {
            pauses.remove(&route);
            return;
        }
        // One of those that were on their way when the first was refused tells nothing new.
        if let Some(pause) = pauses.get_mut(&route) {
            if pause.asks == Some(id) {
                pause.failures = pause.failures.saturating_add(1);
                pause.until = Instant::now() + pause.next();
            }
            return;
        }
        let now = Instant::now();
        if pauses.len() >= MAX_FULL {
            pauses.retain(|_, pause| pause.until > now);
        }
        if pauses.len() < MAX_FULL && !route.0.is_empty() {
            let mut pause = Pause {
                failures: 0,
                until: now,
                asks: None,
            };
            pause.until += pause.next();
            pauses.insert(route, pause);
        }
    }
}

impl Pause {
    fn next(&self) -> Duration {
        delay(FIRST_PAUSE, LONGEST_PAUSE, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::BasicProperties;

    use super::*;

    fn parcel(exchange: &str, key: &str, id: u128) -> Parcel {
        Parcel {
            id: Uuid::from_u128(id),
            exchange: exchange.into(),
            routing_key: key.into(),
            properties: BasicProperties::default(),
            body: Bytes::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_asks_for_all() {
        let full = Full::default();
        let ask = |id| full.ask(&parcel("e", "k", id));
        let [first, second, third] = [1, 2, 3].map(|id| ask(id).expect("nothing is known"));
        first.answered(&Verdict::Nacked);
        second.answered(&Verdict::Nacked);
        assert!(ask(4).is_none());
        assert!(full.ask(&parcel("e", "l", 4)).is_some(), "another key");
        tokio::time::advance(FIRST_PAUSE).await;
        let probe = ask(4).expect("a pause is over");
        assert!(ask(5).is_none(), "one asks");
        probe.answered(&Verdict::Nacked);
        tokio::time::advance(FIRST_PAUSE / 2).await;
        assert!(ask(5).is_none(), "the pause grows");
        // What is given up without an answer leaves room for the next.
        for id in 5..20 {
            tokio::time::advance(LONGEST_PAUSE).await;
            drop(ask(id).expect("a pause is over"));
        }
        third.answered(&Verdict::Taken);
        assert!(ask(1).is_some() && ask(2).is_some(), "all may ask again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_never_the_default_exchange() {
        let full = Full::default();
        let refuse = |exchange: &str, key: &str| {
            let parcel = parcel(exchange, key, 1);
            let request = full.ask(&parcel).expect("nothing is known");
            request.answered(&Verdict::Nacked);
        };
        refuse("", "q");
        assert!(full.lock().is_empty());
        (0..MAX_FULL + 9).for_each(|n| refuse("e", &n.to_string()));
        assert_eq!(full.lock().len(), MAX_FULL);
        tokio::time::advance(LONGEST_PAUSE).await;
        refuse("e", "new");
        assert_eq!(full.lock().len(), 1);
    }
}

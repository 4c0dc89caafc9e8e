//! The stack as a whole, in paused time: what its layers promise one another.

use std::sync::Mutex;

use tower::{Service as _, ServiceExt as _};

use super::*;
use crate::config::{Config, Environment};
use crate::event::Event;
use crate::fixture::{event, numbered};
use crate::sink::Message;

const TIMEOUT: Duration = Duration::from_secs(2);

/// The sink `b`, and the routes if there are any.
fn config(more: &str) -> Config {
    let text = format!(
        "[sources.a]\ntype = 'sqlite'\npath = 'x'\n\
         [sinks.b]\ntype = 'mock'\ntimeout = '2s'\n\
         [retry]\nmax_retries = 2\ninitial_delay = '1s'\nmax_delay = '8s'\n{more}"
    );
    let loaded = Config::from_toml(&text, &Environment::default());
    loaded.expect("valid").config
}

/// The stack over a sink.
fn over(sink: Connected, more: &str) -> Stack {
    let config = config(more);
    let metrics = Arc::new(PipelineMetrics::new("a", "b"));
    stack(sink, &config.sinks["b"], config.routing.as_ref(), metrics)
}

async fn verdict(stack: &Stack, event: Arc<Event>) -> Verdict {
    stack.clone().oneshot(event).await.expect("infallible")
}

/// What a sink was given, in turn. Clones share it.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<Message>>>);

impl Seen {
    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }

    /// A sink that answers so, at once.
    fn answering(&self, answer: fn(i64) -> Result<(), PublishError>) -> Connected {
        let seen = self.clone();
        Connected::gated(tower::service_fn(move |message: Message| {
            let answer = answer(message.event.seq);
            seen.0.lock().expect("nobody panics with it").push(message);
            std::future::ready(answer)
        }))
    }
}

/// Answers after so many seconds as the event's `seq` says.
fn slow(message: Message) -> impl Future<Output = Result<(), PublishError>> + Send {
    let pause = Duration::from_secs(message.event.seq.unsigned_abs());
    async move {
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_in_time_is_an_outage() {
    let stack = over(Connected::gated(tower::service_fn(slow)), "");
    let began = tokio::time::Instant::now();
    assert!(matches!(
        verdict(&stack, numbered(1)).await,
        Verdict::Published
    ));
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let late = verdict(&stack, numbered(100)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1) + TIMEOUT);
    let Verdict::Outage { error, .. } = late else {
        panic!("{late:?}");
    };
    assert!(error.chain().contains("2s"), "{}", error.chain());
    // As often as it happens: no attempts are used up.
    for _ in 0..5 {
        let late = verdict(&stack, numbered(100)).await;
        assert!(matches!(late, Verdict::Outage { .. }), "{late:?}");
    }
}

/// Given up while its client still holds it, an event would be sent once more behind its successors.
#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_order_is_waited_for() {
    let stack = over(Connected::in_order(tower::service_fn(slow), || {}), "");
    let began = tokio::time::Instant::now();
    assert!(matches!(
        verdict(&stack, numbered(100)).await,
        Verdict::Published
    ));
    assert_eq!(began.elapsed(), Duration::from_secs(100));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_order_has_no_second_attempt() {
    let refusing = |_: Message| std::future::ready(Err(PublishError::rejected("no")));
    let stack = over(Connected::in_order(tower::service_fn(refusing), || {}), "");
    let verdict = verdict(&stack, numbered(1)).await;
    assert!(
        matches!(verdict, Verdict::Dead { attempts: 1, .. }),
        "{verdict:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_same_bytes_under_the_same_id() {
    let seen = Seen::default();
    let stack = over(seen.answering(|_| Err(PublishError::rejected("no"))), "");
    for attempt in 1..=3 {
        let verdict = verdict(&stack, Arc::new(event())).await;
        match verdict {
            Verdict::Retry { .. } => assert!(attempt < 3),
            Verdict::Dead { attempts: 3, .. } => assert_eq!(attempt, 3),
            other => panic!("{other:?}"),
        }
    }
    let sent = seen.take();
    assert_eq!(sent.len(), 3);
    for message in &sent {
        assert_eq!(message.event.id, event().id);
        assert_eq!(message.body, sent[0].body);
        assert_eq!(message.headers, sent[0].headers);
        assert_eq!(message.destination, sent[0].destination);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_routed_here_or_cannot_be_read_never_reaches_the_sink() {
    let seen = Seen::default();
    let routes =
        "[routing]\nunrouted = 'skip'\n[[routes]]\nevent_type = 'Other*'\nto = { b = true }\n";
    let stack = over(seen.answering(|_| Ok(())), routes);
    assert!(matches!(
        verdict(&stack, Arc::new(event())).await,
        Verdict::Skipped
    ));
    // Before the routes: its type may be what could not be read.
    let flawed = Event {
        flaw: Some("headers are no object".to_owned()),
        ..event()
    };
    let dead = verdict(&stack, Arc::new(flawed)).await;
    let Verdict::Dead {
        attempts: 0, error, ..
    } = dead
    else {
        panic!("{dead:?}");
    };
    assert!(error.chain().contains("headers are no object"));
    assert!(seen.take().is_empty());
    let other = Event {
        event_type: "OtherThing".to_owned(),
        ..event()
    };
    assert!(matches!(
        verdict(&stack, Arc::new(other)).await,
        Verdict::Published
    ));
    assert_eq!(seen.take().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_one_event_says_nothing_of_another() {
    let seen = Seen::default();
    let sink = seen.answering(|seq| match seq {
        1 => Err(PublishError::rejected("no")),
        _ => Ok(()),
    });
    let mut stack = over(sink, "");
    for attempt in 1..=3 {
        stack.ready().await.expect("infallible");
        let refused = stack.call(numbered(1));
        stack.ready().await.expect("infallible");
        let taken = stack.call(numbered(2));
        let (refused, taken) = tokio::join!(refused, taken);
        assert!(matches!(taken, Ok(Verdict::Published)), "{taken:?}");
        let is_dead = matches!(refused, Ok(Verdict::Dead { attempts: 3, .. }));
        assert_eq!(is_dead, attempt == 3, "{refused:?}");
    }
}

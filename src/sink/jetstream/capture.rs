//! Tells "no stream captures this subject" from "JetStream is away": a publish ends the same way in both.
//!
//! JetStream itself is asked. If it knows no stream for the subject, the message is refused; if it knows one, or
//! doesn't answer, this is an outage. One question is under way at a time and answers are remembered for a
//! second, so an outage costs one question a second, and a wrong subject one per second and subject.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::GetStreamByNameErrorKind;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::stream;
use crate::config::JetstreamStream;
use crate::error::{PublishError, chain};

/// How long an answer holds.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How long to wait for an answer before JetStream counts as away: less than a publish's own timeout usually is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Subjects remembered at most; the rest are asked for again.
const MAX_SUBJECTS: usize = 1_024;

/// Explains why nobody answered.
#[derive(Debug)]
pub(super) struct Capture {
    context: Context,
    /// The stream to create anew should it have vanished.
    stream: Option<JetstreamStream>,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    since: Instant,
    subjects: HashMap<String, Verdict>,
    /// Set when JetStream itself didn't answer: that holds for every subject.
    away: Option<Verdict>,
}

/// What JetStream says about a subject.
#[derive(Debug, Clone)]
enum Verdict {
    /// No stream captures it.
    Uncaptured,
    /// This stream captures it, and did not answer a moment ago.
    Silent(String),
    /// The configured stream captured it, was gone, and has been created again.
    CreatedAgain(String),
    /// JetStream gave no answer.
    Away(String),
}

impl Capture {
    pub(super) fn new(context: Context, stream: Option<JetstreamStream>) -> Self {
        Self {
            context,
            stream,
            memory: Mutex::new(Memory {
                since: Instant::now(),
                subjects: HashMap::new(),
                away: None,
            }),
        }
    }

    /// Says what it means that nobody answered a publish to `subject`.
    pub(super) async fn explain(&self, subject: &str) -> PublishError {
        // Held while asking: whoever comes meanwhile wants the same answer.
        let mut memory = self.memory.lock().await;
        memory.forget_what_is_old();
        if let Some(verdict) = memory.recall(subject) {
            return verdict.error(subject);
        }
        let verdict = self.ask(subject).await;
        let error = verdict.error(subject);
        memory.keep(subject, verdict);
        error
    }

    async fn ask(&self, subject: &str) -> Verdict {
        let question = self.context.stream_by_subject(subject);
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(stream)) => Verdict::Silent(stream),
            Ok(Err(error)) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                self.restore(subject).await
            }
            Ok(Err(error)) => Verdict::Away(chain(&error)),
            Err(_) => Verdict::Away(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// A stream in memory is gone after a restart of the server. If it is ours to create, that is no reason to
    /// refuse events.
    async fn restore(&self, subject: &str) -> Verdict {
        let ours = self.stream.as_ref().filter(|stream| {
            let mut subjects = stream.subjects.iter();
            subjects.any(|pattern| stream::covers(pattern, subject))
        });
        let Some(wanted) = ours else {
            return Verdict::Uncaptured;
        };
        tracing::warn!(
            stream = wanted.name,
            "jetstream stream is gone, creating it again"
        );
        match stream::ensure(&self.context, wanted).await {
            Ok(()) => Verdict::CreatedAgain(wanted.name.clone()),
            Err(error) => Verdict::Away(chain(&error)),
        }
    }
}

impl Memory {
    fn forget_what_is_old(&mut self) {
        if self.since.elapsed() >= REMEMBERED || self.subjects.len() >= MAX_SUBJECTS {
            self.subjects.clear();
            self.away = None;
            self.since = Instant::now();
        }
    }

    fn recall(&self, subject: &str) -> Option<&Verdict> {
        self.away.as_ref().or_else(|| self.subjects.get(subject))
    }

    fn keep(&mut self, subject: &str, verdict: Verdict) {
        // The time is that of the answer, which may have been long in coming.
        if self.subjects.is_empty() {
            self.since = Instant::now();
        }
        if matches!(verdict, Verdict::Away(_)) {
            self.away = Some(verdict);
        } else {
            self.subjects.insert(subject.to_owned(), verdict);
        }
    }
}

impl Verdict {
    fn error(&self, subject: &str) -> PublishError {
        match self {
            Self::Uncaptured => PublishError::rejected(format!(
                "no JetStream stream captures the subject {subject}; create one, or set [….stream]"
            )),
            Self::Silent(stream) => PublishError::unavailable(format!(
                "the JetStream stream {stream}, which captures {subject}, does not answer"
            )),
            Self::CreatedAgain(stream) => PublishError::unavailable(format!(
                "the JetStream stream {stream} was gone and has been created again"
            )),
            Self::Away(reason) => {
                PublishError::unavailable(format!("JetStream does not answer: {reason}"))
            }
        }
    }
}

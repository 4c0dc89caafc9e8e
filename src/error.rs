//! What a failed publish means for its event.
//!
//! Every sink maps its client's errors to a [`PublishError`] in one function; the retry layer and the pump
//! act on the [`Meaning`] alone and never look at a client's error type.

use std::borrow::Cow;

/// Any error, kept as the source of ours.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a failed attempt says about the event and the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The broker is away, overloaded or did not answer: retried for as long as it takes, and no attempt of
    /// any event is used up.
    Unavailable,
    /// The broker is there, and this message's destination takes nothing now, such as a queue that is full: retried
    /// for as long as it takes, and no attempt is used up. The event's key waits; other keys, and so other
    /// destinations, go on.
    Busy,
    /// The broker is there and refused this very message: `max_retries` further attempts, then a dead letter.
    Rejected,
    /// The relay itself can't make a message of the event (no route, a subject with a space in it), or its client
    /// doesn't take it: another attempt would end the same, so it is a dead letter at once. No broker was asked, so
    /// that it says nothing of whether one is there.
    Invalid,
}

/// A publish that did not end in the broker's acknowledgement.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct PublishError {
    meaning: Meaning,
    /// Whether the broker answered.
    is_answer: bool,
    context: Cow<'static, str>,
    #[source]
    source: Option<BoxError>,
}

impl PublishError {
    /// The broker is away, overloaded or did not answer. `context` says what was tried.
    pub fn unavailable(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Meaning::Unavailable, context.into())
    }

    /// The destination takes nothing now, and others may. `context` says which, and why.
    pub fn busy(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Meaning::Busy, context.into())
    }

    /// The broker refused this message. `context` says why, in words for an operator.
    pub fn rejected(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Meaning::Rejected, context.into())
    }

    /// No message can be made of this event. `context` says why, in words for an operator.
    pub fn invalid(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Meaning::Invalid, context.into())
    }

    /// Keeps the client's own error as the source.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The broker gave no answer to this message, whatever is done with it: nothing tells that it is there.
    #[cfg(any(feature = "rabbitmq", test))]
    #[must_use]
    pub(crate) fn unanswered(mut self) -> Self {
        self.is_answer = false;
        self
    }

    /// Whether the broker answered, and so is there.
    pub(crate) fn is_answer(&self) -> bool {
        self.is_answer
    }

    /// What the failure means.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        self.meaning
    }

    /// The message and those of its sources, joined by colons: for dead letters and logs.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }

    fn new(meaning: Meaning, context: Cow<'static, str>) -> Self {
        Self {
            meaning,
            is_answer: matches!(meaning, Meaning::Busy | Meaning::Rejected),
            context,
            source: None,
        }
    }
}

/// An error's message and those of its sources, joined by colons; a source whose text its parent repeats is
/// left out.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

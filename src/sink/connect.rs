//! Why a sink could not be made: something that the operator must change, or a broker that is away.

use std::borrow::Cow;

use crate::error::BoxError;

/// A sink that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration can't work as it is: waiting doesn't help, the operator must change `key`.
    #[error("{key}: {problem}")]
    Config {
        /// The key below `[sinks.NAME]`, for example `tls.ca`.
        key: &'static str,
        /// What is wrong with its value, without any secret.
        problem: Cow<'static, str>,
        /// The error beneath.
        #[source]
        source: Option<BoxError>,
    },
    /// The broker is away or not ready: worth another attempt after a while.
    #[error("{context}")]
    Unavailable {
        /// What was tried, and what came of it.
        context: Cow<'static, str>,
        /// The error beneath.
        #[source]
        source: Option<BoxError>,
    },
}

impl ConnectError {
    /// The operator must change `key`; `problem` says what is wrong and what to do.
    pub fn config(key: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::Config {
            key,
            problem: problem.into(),
            source: None,
        }
    }

    /// The broker is away or not ready; `context` says what was tried.
    pub fn unavailable(context: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable {
            context: context.into(),
            source: None,
        }
    }

    /// Keeps the error beneath as the source.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<BoxError>) -> Self {
        match &mut self {
            Self::Config { source, .. } | Self::Unavailable { source, .. } => {
                *source = Some(cause.into());
            }
        }
        self
    }

    /// Whether another attempt, with the configuration unchanged, may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

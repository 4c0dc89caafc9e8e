//! What the configuration refers to by name: sources by commands, and by the sinks that they feed.

use super::{Config, Sink, Source};

/// A source was named that the configuration lacks.
#[derive(Debug, thiserror::Error)]
#[error("there is no source {name} in the configuration, only {}", .known.join(", "))]
pub(crate) struct NoSource {
    name: String,
    known: Vec<String>,
}

impl Config {
    /// The source of this name.
    pub(crate) fn source(&self, name: &str) -> Result<&Source, NoSource> {
        self.sources.get(name).ok_or_else(|| NoSource {
            name: name.to_owned(),
            known: self.sources.keys().cloned().collect(),
        })
    }

    /// The sinks that a source feeds, by name.
    pub(crate) fn fed_by<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Sink> {
        let fed = move |sink: &&Sink| sink.is_fed_by(source);
        self.sinks.values().filter(fed)
    }

    /// Whether there is such a sink and the source feeds it.
    pub(crate) fn feeds(&self, source: &str, sink: &str) -> bool {
        let sink = self.sinks.get(sink);
        sink.is_some_and(|sink| sink.is_fed_by(source))
    }
}

impl Sink {
    /// Whether the source is one of its inputs.
    pub(crate) fn is_fed_by(&self, source: &str) -> bool {
        self.inputs.iter().any(|input| input == source)
    }
}

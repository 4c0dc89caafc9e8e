//! Which sources feed which sinks: a sink names its `inputs`.

use super::{Config, Sink};

impl Config {
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

//! Which dead letters a command is about.

use std::time::Duration;

use clap::Args as ClapArgs;

use crate::cli::named;
use crate::config::{self, Config};
use crate::error::BoxError;
use crate::relay;
use crate::route::Pattern;
use crate::source::SourceError;
use crate::source::dead_letters::{DeadLetters, Letter, Selection, Span};

/// Letters looked at per statement, and changed per transaction.
const STEP: usize = 1_000;

/// The options that select something; what changes letters wants at least one of them.
pub(super) const GIVEN: [&str; 7] = [
    "ids",
    "sink",
    "source",
    "event_types",
    "older_than",
    "newer_than",
    "all",
];

/// Letters that satisfy everything that is given.
#[derive(Debug, ClapArgs)]
pub(super) struct Which {
    /// This one; may be repeated.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<i64>,
    /// Those of this sink.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Those of this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Those of this event type, exact or with `*`, as routes have it; may be repeated.
    #[arg(long = "type", value_name = "PATTERN", value_parser = Pattern::parse)]
    event_types: Vec<Pattern>,
    /// Those that have been dead letters for longer than this, such as 7d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Those that have become dead letters since, such as 30m.
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<Duration>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["ids", "sink", "event_types", "older_than", "newer_than"])]
    all: bool,
}

/// The selected letters of one source that were there when the command began: those that a retry brings back are not
/// retried once more.
pub(super) struct Pile {
    pub(super) source: String,
    pub(super) letters: Box<dyn DeadLetters>,
    selection: Selection,
    /// What is still to be looked at; `None`: nothing.
    rest: Option<Span>,
    last_id: i64,
}

impl Which {
    /// The piles of the sources that are meant.
    pub(super) async fn piles(&self, config: &Config) -> Result<Vec<Pile>, BoxError> {
        if !self.ids.is_empty() && self.source.is_none() && config.sources.len() > 1 {
            return Err("--id: each source counts its own letters, say which by --source".into());
        }
        let mut piles = Vec::new();
        for name in sources(config, self.source.as_deref())? {
            let letters = relay::dead_letters(config, name)?;
            let last_id = letters.last_id().await?;
            let mut pile = Pile {
                source: name.to_owned(),
                letters,
                selection: self.selection(),
                rest: None,
                last_id,
            };
            pile.rewind();
            piles.push(pile);
        }
        Ok(piles)
    }

    /// The ids that were asked for by name.
    pub(super) fn ids(&self) -> &[i64] {
        &self.ids
    }

    fn selection(&self) -> Selection {
        Selection {
            ids: self.ids.clone(),
            sink: self.sink.clone(),
            event_types: self.event_types.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

impl Pile {
    /// The next letters, some of them or none; `None`: there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Letter>>, SourceError> {
        let Some(span) = self.rest else {
            return Ok(None);
        };
        let page = self.letters.page(&self.selection, span, STEP).await?;
        self.rest = page.looked_through.map(|after| Span { after, ..span });
        Ok(Some(page.letters))
    }

    /// Begins anew.
    pub(super) fn rewind(&mut self) {
        self.rest = Some(Span {
            after: 0,
            through: self.last_id,
        });
    }
}

/// The names of the configured sources, or this one.
pub(super) fn sources<'a>(
    config: &'a Config,
    source: Option<&str>,
) -> Result<Vec<&'a str>, BoxError> {
    match source {
        Some(source) => Ok(vec![&named(config, source)?.name]),
        None => Ok(config.sources.keys().map(String::as_str).collect()),
    }
}

fn age(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|error| format!("{text:?} {error}"))
}

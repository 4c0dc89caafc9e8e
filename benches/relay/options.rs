//! What to measure.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::sink::Sink;

/// Measures the relay against a bare loop, on servers of its own.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench relay --")]
pub(crate) struct Options {
    /// Sinks to publish to.
    #[arg(long, value_delimiter = ',', default_values_t = Sink::ALL)]
    pub(crate) sinks: Vec<Sink>,
    /// Cases to run.
    #[arg(long, value_delimiter = ',', default_values_t = Case::DEFAULT)]
    pub(crate) cases: Vec<Case>,
    /// Events in a backlog [default: 200000, with --quick 20000].
    #[arg(long)]
    pub(crate) events: Option<u64>,
    /// How often relay and ceiling take turns [default: 3, with --quick 1].
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// For how long writers write [default: 10, with --quick 3].
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Everything in two minutes; figures are rough.
    #[arg(long, conflicts_with = "full")]
    pub(crate) quick: bool,
    /// Growth to the largest sizes, and the large backlog into each sink.
    #[arg(long)]
    pub(crate) full: bool,
    /// Writes everything there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What this process is to do for another one.
    #[arg(long, hide = true)]
    pub(crate) task: Option<String>,
    /// From cargo.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// 1 KiB payloads, 1,000 keys.
    Base,
    /// 200 B payloads.
    Small,
    /// One key.
    Hot,
    /// 2,000,000 events, into the null sink.
    Large,
    /// Rows are marked after delivery.
    Settle,
    /// Three brokers at once.
    Three,
    /// Following live writers: 20/s, 5,000/s, and the most that it keeps up with.
    Live,
    /// Cost per event as things grow, into the null sink.
    Growth,
}

impl Case {
    const DEFAULT: [Self; 7] = [
        Self::Base,
        Self::Small,
        Self::Hot,
        Self::Settle,
        Self::Three,
        Self::Live,
        Self::Growth,
    ];
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Options {
    pub(crate) fn events(&self) -> u64 {
        self.events
            .unwrap_or(if self.quick { 20_000 } else { 200_000 })
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 3 } else { 10 })
    }
}

//! `dead-letters retry` and `dead-letters discard`.

use std::collections::{BTreeMap, BTreeSet};

use super::selection::{Pile, Which};
use crate::cli::progress::Progress;
use crate::cli::{number_of, say};
use crate::config::Config;
use crate::dead_letters::{check_delivered, retried};
use crate::error::BoxError;
use crate::source::dead_letters::Letter;

/// What is done with the selected letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Retry,
    Discard,
}

/// Letters by sink.
type Counts = BTreeMap<String, u64>;

/// What became of the letters of a source.
#[derive(Debug, Default)]
struct Done {
    acted: Counts,
    /// Letters whose rows are gone.
    gone: u64,
}

/// Letters stay although they were selected.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
struct SomeStay(Vec<String>);

pub(super) async fn run(
    config: &Config,
    which: &Which,
    act: Act,
    dry_run: bool,
) -> Result<(), BoxError> {
    let mut stay = Vec::new();
    let mut missing: BTreeSet<i64> = which.ids().iter().copied().collect();
    let mut nothing = true;
    for mut pile in which.piles(config).await? {
        let counts = counted(&mut pile, &mut missing).await?;
        nothing &= counts.is_empty();
        if act == Act::Retry {
            for sink in counts.keys() {
                check_delivered(config, &pile.source, sink)?;
            }
        }
        if dry_run {
            tell(act, &pile.source, &counts, true)?;
            continue;
        }
        let done = through(&mut pile, act, counts.values().sum()).await;
        let (done, stopped) = match done {
            Ok(done) => (done, None),
            Err((done, error)) => (done, Some(error)),
        };
        tell(act, &pile.source, &done.acted, false)?;
        if done.gone > 0 {
            stay.push(gone(&pile.source, done.gone));
        }
        if let Some(error) = stopped {
            return Err(error);
        }
    }
    if nothing {
        say("no dead letter is selected")?;
    }
    if !missing.is_empty() {
        let ids: Vec<String> = missing.iter().map(i64::to_string).collect();
        stay.push(format!(
            "there is no dead letter {}: `outbox-relay dead-letters list` has their ids",
            ids.join(", ")
        ));
    }
    if stay.is_empty() {
        Ok(())
    } else {
        Err(SomeStay(stay).into())
    }
}

/// How many letters there are, by sink. Those that are found are no longer `missing`.
async fn counted(pile: &mut Pile, missing: &mut BTreeSet<i64>) -> Result<Counts, BoxError> {
    let mut counts = Counts::new();
    while let Some(letters) = pile.next().await? {
        for letter in letters {
            missing.remove(&letter.id);
            *counts.entry(letter.sink).or_default() += 1;
        }
    }
    pile.rewind();
    Ok(counts)
}

/// Acts on every letter of the pile; an error comes with what was done before it.
async fn through(pile: &mut Pile, act: Act, total: u64) -> Result<Done, (Done, BoxError)> {
    let mut done = Done::default();
    let progress = Progress::of(total, "dead letters");
    loop {
        let letters = match pile.next().await {
            Ok(Some(letters)) => letters,
            Ok(None) => return Ok(done),
            Err(error) => return Err((done, error.into())),
        };
        let count = letters.len();
        for (sink, ids) in by_sink(letters) {
            let acted = match act {
                Act::Retry => retry(pile, &sink, &ids, &mut done.gone).await,
                Act::Discard => pile.letters.discard(&sink, &ids).await.map_err(Into::into),
            };
            match acted {
                Ok(0) => {}
                Ok(acted) => *done.acted.entry(sink).or_default() += acted,
                Err(error) => return Err((done, error)),
            }
        }
        progress.steps(count as u64);
    }
}

fn by_sink(letters: Vec<Letter>) -> BTreeMap<String, Vec<i64>> {
    let mut ids: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for letter in letters {
        ids.entry(letter.sink).or_default().push(letter.id);
    }
    ids
}

async fn retry(pile: &Pile, sink: &str, ids: &[i64], gone: &mut u64) -> Result<u64, BoxError> {
    let outcome = pile.letters.retry(sink, ids).await?;
    let (retried, without_row) = retried(outcome, &pile.source, sink)?;
    *gone += without_row;
    Ok(retried)
}

fn tell(act: Act, source: &str, counts: &Counts, dry_run: bool) -> Result<(), BoxError> {
    for (sink, count) in counts {
        let letters = number_of(*count, "dead letter");
        let what = match (act, dry_run) {
            (Act::Retry, false) => "to be delivered again",
            (Act::Retry, true) => "would be delivered again",
            (Act::Discard, false) => "discarded",
            (Act::Discard, true) => "would be discarded",
        };
        say(&format!("sink {sink} (source {source}): {letters} {what}"))?;
    }
    Ok(())
}

fn gone(source: &str, count: u64) -> String {
    format!(
        "{count} of source {source} stay, for somebody has deleted their rows from the outbox table: \
         `dead-letters show ID --payload` has their content, to be inserted as new events"
    )
}

//! `dead-letters list`.

use chrono::SecondsFormat;
use serde::Serialize;

use super::selection::Which;
use crate::cli::columns::{Side, aligned};
use crate::cli::look::Look;
use crate::cli::say;
use crate::config::Config;
use crate::dead_letters::LetterLine;
use crate::error::BoxError;
use crate::excerpt::printable;

const HEADER: [&str; 9] = [
    "ID", "SOURCE", "SINK", "SEQ", "TYPE", "KEY", "ATTEMPTS", "SINCE", "REASON",
];

const SIDES: [Side; 9] = [
    Side::Right,
    Side::Left,
    Side::Left,
    Side::Right,
    Side::Left,
    Side::Left,
    Side::Right,
    Side::Left,
    Side::Left,
];

/// What `--json` prints. Field names are part of the interface: fields may be added, none is renamed.
#[derive(Debug, Serialize)]
struct Listing {
    /// Oldest first, source by source.
    dead_letters: Vec<LetterLine>,
    /// Whether there are more than were asked for.
    more: bool,
}

pub(super) async fn run(
    config: &Config,
    which: &Which,
    limit: u64,
    json: bool,
) -> Result<(), BoxError> {
    let listing = listing(config, which, limit).await?;
    if json {
        say(&serde_json::to_string_pretty(&listing)?)?;
        return Ok(());
    }
    if listing.dead_letters.is_empty() {
        say("no dead letters")?;
        return Ok(());
    }
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(listing.dead_letters.iter().map(cells));
    for line in aligned(Look::of(&std::io::stdout()), SIDES, &rows) {
        say(&line)?;
    }
    if listing.more {
        tracing::warn!("there are more than these {limit}: see --limit");
    }
    Ok(())
}

async fn listing(config: &Config, which: &Which, limit: u64) -> Result<Listing, BoxError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut dead_letters = Vec::new();
    for mut pile in which.piles(config).await? {
        while let Some(letters) = pile.next().await? {
            let lines = letters
                .into_iter()
                .map(|letter| LetterLine::of(&pile.source, letter));
            dead_letters.extend(lines);
            if dead_letters.len() > limit {
                dead_letters.truncate(limit);
                return Ok(Listing {
                    dead_letters,
                    more: true,
                });
            }
        }
    }
    Ok(Listing {
        dead_letters,
        more: false,
    })
}

fn cells(letter: &LetterLine) -> [String; 9] {
    [
        letter.id.to_string(),
        letter.source.clone(),
        letter.sink.clone(),
        letter.seq.to_string(),
        printable(&letter.event_type),
        letter
            .aggregate_id
            .as_deref()
            .map_or_else(|| "-".to_owned(), printable),
        letter.attempts.to_string(),
        letter.dead_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        printable(&letter.reason),
    ]
}

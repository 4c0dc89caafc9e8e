//! Says which ledgers hold settling back although no relay keeps them: of a relay or a source that was renamed, or is
//! gone. They count until somebody drops them, and nobody else would ever say so. The gauge counts those of sinks that
//! the configuration lacks, too; the session has named them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::session::Following;
use crate::error::chain;
use crate::metrics::SourceGauge;
use crate::source::bookkeeping::{Abandoned, LedgerName};
use crate::source::{Source, SourceError};

/// How often ledgers are looked at. One that nobody keeps at two looks running is no relay's that just restarts.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often a ledger is named.
const WARN_INTERVAL: Duration = Duration::from_secs(3_600);

/// Looks for ever, or for as long as the future is polled.
pub(super) async fn watch_abandoned(source: &Arc<dyn Source>, name: &str, config: &Following) {
    let gauge = SourceGauge::abandoned_ledgers(name);
    // When each was last named; `None`: seen once so far. As many as the source names at a time.
    let mut seen: HashMap<Abandoned, Option<Instant>> = HashMap::new();
    loop {
        match look(source, name, config).await {
            Ok((abandoned, strangers)) => {
                gauge.set(abandoned.len() + strangers);
                seen.retain(|ledger, _| abandoned.contains(ledger));
                for ledger in abandoned {
                    let named = seen.get(&ledger).copied();
                    let due =
                        named.is_some_and(|at| at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL));
                    if due {
                        warn(name, &ledger);
                    }
                    let at = if due {
                        Some(Instant::now())
                    } else {
                        named.flatten()
                    };
                    seen.insert(ledger, at);
                }
            }
            Err(error) => tracing::debug!(
                source = name,
                error = chain(&error),
                "ledgers that no relay keeps could not be looked for"
            ),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The ledgers that no relay keeps, and how many of this source have no sink in the configuration.
async fn look(
    source: &Arc<dyn Source>,
    name: &str,
    config: &Following,
) -> Result<(Vec<Abandoned>, usize), SourceError> {
    let abandoned = source.abandoned().await?;
    let stored = source.settling_sinks().await?;
    let config = Arc::clone(&config.borrow());
    let is_stranger = |stored: &&String| !config.fed_by(name).any(|sink| sink.name == **stored);
    Ok((abandoned, stored.iter().filter(is_stranger).count()))
}

fn warn(source: &str, ledger: &Abandoned) {
    let LedgerName {
        relay,
        source: their_source,
        sink,
    } = &ledger.name;
    if ledger.halted {
        tracing::warn!(
            source,
            "the ledger of sink {sink} (relay {relay}, source {their_source}) speaks of another sequence than the \
             table's: that relay is halted, and no event is settled, until \
             `outbox-relay ledger reset --source {their_source}` by its configuration"
        );
        return;
    }
    tracing::warn!(
        source,
        "no relay keeps the ledger of sink {sink} (relay {relay}, source {their_source}), and events that it lacks are \
         never settled; if that relay is gone for good: \
         `outbox-relay ledger drop --relay {relay} --source {their_source} --sink {sink}`"
    );
}

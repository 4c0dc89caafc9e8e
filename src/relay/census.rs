//! What no pipeline knows of its source by itself: the metrics of its holes and of the dead letters in its table, and
//! ledgers that nobody keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::abandoned::watch_abandoned;
use super::session::Following;
use crate::error::chain;
use crate::metrics::{DeadLetterGauges, SourceGauge};
use crate::source::Source;
use crate::source::bell::Bell;
use crate::status::Status;

/// How often the pipelines' own figures are looked at.
const TICK: Duration = Duration::from_millis(200);

/// How often dead letters are counted although no pipeline has stored one: somebody may have discarded some.
const RECOUNT: Duration = Duration::from_secs(10);

/// How long after a count that failed the next one comes.
const RETRY: Duration = Duration::from_secs(5);

/// The shortest pause between two counts; also this many times the time that a count took, so that a flood of dead
/// letters doesn't end in a flood of counts.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_PER_COUNT: u32 = 20;

/// The census of one session.
#[derive(Debug)]
pub(super) struct Census {
    source: Arc<dyn Source>,
    name: String,
    /// Its sinks have a figure even if there is nothing to count.
    config: Following,
    /// What may be out of order.
    bell: Option<Bell>,
    status: Status,
}

impl Census {
    pub(super) fn new(
        source: &Arc<dyn Source>,
        name: &str,
        config: Following,
        bell: Option<Bell>,
        status: &Status,
    ) -> Self {
        Self {
            source: Arc::clone(source),
            name: name.to_owned(),
            config,
            bell,
            status: status.clone(),
        }
    }

    /// Counts for ever, or for as long as the future is polled.
    pub(super) async fn run(self) {
        // A count takes its time, and holes go on meanwhile.
        tokio::join!(
            self.watch_session(),
            self.watch_dead_letters(),
            watch_abandoned(&self.source, &self.name, &self.config),
        );
    }

    async fn watch_session(&self) {
        let gauge = SourceGauge::holes(&self.name);
        loop {
            gauge.set(self.status.holes(&self.name));
            let trouble = self.bell.as_ref().and_then(Bell::trouble);
            self.status.set_doorbell(&self.name, trouble);
            tokio::time::sleep(TICK).await;
        }
    }

    async fn watch_dead_letters(&self) {
        let mut gauges = DeadLetterGauges::new(&self.name);
        let mut failed = false;
        loop {
            let began = Instant::now();
            // Taken before the count: what is stored during it is counted once more.
            self.status.take_uncounted_letters(&self.name);
            let recount_at = match self.source.dead_letters().await {
                Ok(Some(counts)) => {
                    let counts = self.completed(counts);
                    gauges.set(&counts);
                    self.status.set_dead_letters(&self.name, &counts);
                    failed = false;
                    began + RECOUNT
                }
                // This kind of source can't tell.
                Ok(None) => return,
                Err(error) => {
                    if !failed {
                        tracing::warn!(
                            source = self.name,
                            error = chain(&error),
                            "the dead letters could not be counted, it is tried again"
                        );
                    }
                    failed = true;
                    began + RETRY
                }
            };
            tokio::time::sleep(PAUSE.max(began.elapsed() * PAUSE_PER_COUNT)).await;
            while Instant::now() < recount_at && !self.status.take_uncounted_letters(&self.name) {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    fn completed(&self, mut counts: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        for sink in self.config.borrow().fed_by(&self.name) {
            counts.entry(sink.name.clone()).or_insert(0);
        }
        counts
    }
}

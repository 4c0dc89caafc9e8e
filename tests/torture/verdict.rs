//! What came of it: the record against what each broker holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::chronicle::Chronicle;
use crate::odd::Oddities;
use crate::pooled;
use crate::support::checker::{Figures, compare};
use crate::support::stream::Delivery;
use crate::support::writers::Record;
use crate::torment::FAIL_OVER;
use crate::watch::Seen;
use crate::world::World;

/// What a relay may grow to in a debug build, in MiB.
const MAX_MEMORY: u64 = 400;

/// The most that one fault may repeat at a sink: what was in flight (`max_in_flight`), and what was acknowledged since
/// a flush was last stored, which waits while the database is away as the sink's confirms of that time do.
const REPEATED_PER_FAULT: usize = 3 * 1_024;

pub(crate) struct Verdict {
    sinks: BTreeMap<&'static str, Result<Sink, Vec<String>>>,
    counts: BTreeMap<(&'static str, &'static str), usize>,
    /// The most that a relay which is still there had in memory, in MiB.
    memory: u64,
    /// Dead letters of events that nothing is wrong with.
    dead_letters: usize,
    /// Odd events that a sink neither got nor refused.
    lost_oddities: usize,
    /// Large events that a sink judged by another limit than its broker's.
    misjudged: usize,
    /// What writers waited for.
    watched: Seen,
    /// Events that were dead letters until they were retried.
    excused: usize,
    /// Events that JetStream was to get again and did not.
    not_replayed: usize,
    /// Events that the stored ledgers still lack.
    unsettled: i64,
    /// How often a stored ledger lost something that it had.
    forgotten: i64,
}

/// What a sink came to.
struct Sink {
    figures: Figures,
    /// Duplicates before the first fault.
    unprovoked: usize,
    /// From the end of each fault until something committed after it has arrived; none of a broker that doesn't say
    /// when it took a message.
    recovery: Vec<Duration>,
}

impl Verdict {
    pub(crate) async fn of(world: &mut World, record: &Record, chronicle: &Chronicle) -> Self {
        let deliveries = world.deliveries().await;
        let not_replayed = deliveries["jetstream"]
            .iter()
            .fold(twice(&world.replayed), |mut missing, delivery| {
                missing.entry(delivery.id).and_modify(|times| *times -= 1);
                missing
            })
            .into_values()
            .filter(|times| *times > 0)
            .count();
        let oddities = Oddities::of(&world.database).await;
        let lost = deliveries
            .iter()
            .map(|(name, deliveries)| oddities.lost(name, deliveries));
        let lost_oddities = lost.sum();
        let misjudged = deliveries.keys().map(|name| oddities.misjudged(name)).sum();
        let mended = mended(record, chronicle);
        let strict = Record {
            excused: HashSet::new(),
            ..record.clone()
        };
        let sinks = deliveries
            .iter()
            .map(|(name, deliveries)| (*name, Oddities::without(deliveries)))
            .map(|(name, ordinary)| {
                let is_mended = name.starts_with(pooled::SOURCE);
                let record = if is_mended { &mended } else { &strict };
                (name, Sink::judge(record, &ordinary, chronicle))
            })
            .collect();
        Self {
            sinks,
            counts: chronicle.counts(),
            memory: world.relays.memory(),
            dead_letters: oddities.innocent(),
            lost_oddities,
            misjudged,
            watched: world.watch.seen(),
            excused: record.excused.len(),
            not_replayed,
            unsettled: world.unsettled().await,
            forgotten: world.database.value("SELECT count(*) FROM forgotten").await,
        }
    }

    /// A sentence for each promise that was broken.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let disturbances: usize = self.counts.values().sum();
        for (name, sink) in &self.sinks {
            match sink {
                Err(broken) => faults.extend(broken.iter().map(|fault| format!("{name}: {fault}"))),
                Ok(sink) => {
                    if sink.unprovoked > 0 {
                        let count = sink.unprovoked;
                        faults.push(format!("{name}: {count} duplicates before any fault"));
                    }
                    let repeated = sink.figures.duplicates;
                    if repeated > disturbances * REPEATED_PER_FAULT {
                        faults.push(format!("{name}: {repeated} duplicates"));
                    }
                }
            }
        }
        if self.unsettled > 0 {
            let count = self.unsettled;
            faults.push(format!("the ledgers still lack {count} events"));
        }
        if self.not_replayed > 0 {
            let count = self.not_replayed;
            faults.push(format!("{count} events were not sent again"));
        }
        if self.forgotten > 0 {
            let count = self.forgotten;
            faults.push(format!("a stored ledger forgot {count} times what it had"));
        }
        if self.dead_letters > 0 {
            let count = self.dead_letters;
            faults.push(format!("{count} dead letters of innocent events"));
        }
        if self.lost_oddities > 0 {
            let count = self.lost_oddities;
            faults.push(format!("{count} times an odd event was lost"));
        }
        if self.misjudged > 0 {
            let count = self.misjudged;
            faults.push(format!(
                "{count} times a payload was measured by another limit"
            ));
        }
        if let [first, ..] = &self.watched.blocked[..] {
            let count = self.watched.blocked.len();
            faults.push(format!(
                "writers waited for a relay {count} times, first: {first}"
            ));
        }
        if self.memory > MAX_MEMORY {
            faults.push(format!("a relay took {} MiB", self.memory));
        }
        faults
    }
}

impl Sink {
    fn judge(
        record: &Record,
        deliveries: &[Delivery],
        chronicle: &Chronicle,
    ) -> Result<Self, Vec<String>> {
        let figures = compare(record, deliveries)?;
        let faults = chronicle.faults();
        let first_fault = faults.iter().map(|fault| fault.began).min();
        let timed = deliveries
            .iter()
            .any(|delivery| delivery.at > SystemTime::UNIX_EPOCH);
        let mut seen = HashSet::new();
        let unprovoked = deliveries
            .iter()
            .filter(|delivery| timed && first_fault.is_none_or(|began| delivery.at < began))
            .filter(|delivery| !seen.insert(delivery.id))
            .count();
        let mut recovery: Vec<Duration> = faults
            .iter()
            .filter(|_| timed)
            .filter_map(|fault| recovery(record, deliveries, fault.ended))
            .collect();
        recovery.sort_unstable();
        Ok(Self {
            figures,
            unprovoked,
            recovery,
        })
    }
}

/// The record for sinks that refuse events at times: what was refused, and retried in the end, may come late. A fail-over
/// may have taken a dead letter back, and nobody knows of which event.
fn mended(record: &Record, chronicle: &Chronicle) -> Record {
    let mut faults = chronicle.faults().into_iter();
    let excused = match faults.any(|fault| fault.name == FAIL_OVER) {
        true => record.ids(),
        false => record.excused.clone(),
    };
    Record {
        excused,
        ..record.clone()
    }
}

/// How often each of these must be delivered.
fn twice(replayed: &[Uuid]) -> HashMap<Uuid, i32> {
    replayed.iter().map(|id| (*id, 2)).collect()
}

/// How long after `ended` the first of the events that were committed later arrived.
fn recovery(record: &Record, deliveries: &[Delivery], ended: SystemTime) -> Option<Duration> {
    let is_later = |id: &Uuid| {
        let written = record.committed.get(id);
        written.is_some_and(|written| written.committed_at > ended)
    };
    let arrivals = deliveries.iter().filter(|delivery| is_later(&delivery.id));
    let first = arrivals.map(|delivery| delivery.at).min()?;
    Some(first.duration_since(ended).unwrap_or_default())
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((victim, name), count) in &self.counts {
            writeln!(f, "  {count:>3} × {victim}: {name}")?;
        }
        writeln!(f, "  relay's memory: {} MiB at most", self.memory)?;
        let Seen { looks, blocked } = &self.watched;
        let blocked = blocked.len();
        writeln!(
            f,
            "  writers looked at {looks} times, waiting for a relay: {blocked}"
        )?;
        let excused = self.excused;
        writeln!(
            f,
            "  refused while a destination was missing or forbidden, and retried: {excused}"
        )?;
        for (name, sink) in &self.sinks {
            match sink {
                Err(faults) => writeln!(f, "  {name}: {}", faults.join("; "))?,
                Ok(sink) => {
                    writeln!(f, "  {name}: {}", sink.figures)?;
                    if let [.., worst] = sink.recovery[..] {
                        let at =
                            |share: usize| sink.recovery[(sink.recovery.len() - 1) * share / 100];
                        writeln!(
                            f,
                            "  {name}: recovered after p50 {:.1?}, p99 {:.1?}, at most {worst:.1?}",
                            at(50),
                            at(99),
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

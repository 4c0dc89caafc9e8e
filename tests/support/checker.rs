//! Compares what the writers know with what the broker holds.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::report::report;
use super::stream::Delivery;
use super::writers::Record;

/// What came of the comparison, when nothing was wrong.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) committed: usize,
    pub(crate) rolled_back: usize,
    pub(crate) transactions: u64,
    pub(crate) delivered: usize,
    /// Deliveries after an event's first.
    pub(crate) duplicates: usize,
    /// From the commit to the broker, of first deliveries.
    pub(crate) median: Duration,
    pub(crate) worst: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            committed,
            rolled_back,
            transactions,
            delivered,
            duplicates,
            median,
            worst,
        } = self;
        write!(
            f,
            "{transactions} transactions, {committed} events committed, {rolled_back} rolled back; \
             {delivered} delivered, {duplicates} duplicates; commit to broker: median {median:.1?}, worst {worst:.1?}"
        )
    }
}

/// Compares, prints the figures, and panics with every kind of fault found.
pub(crate) fn check(name: &str, record: &Record, deliveries: &[Delivery]) -> Figures {
    match compare(record, deliveries) {
        Ok(figures) => {
            report!("{name}: {figures}");
            figures
        }
        Err(faults) => panic!("{name}: {}", faults.join("\n")),
    }
}

/// The figures, or what is wrong: a sentence for each kind of fault, with how often and the first.
pub(crate) fn compare(record: &Record, deliveries: &[Delivery]) -> Result<Figures, Vec<String>> {
    assert!(
        record.unknown.is_empty(),
        "settle the record first: some commits are unknown"
    );
    let mut phantoms = Vec::new();
    let mut reordered = Vec::new();
    let mut altered = Vec::new();
    let mut first: HashMap<Uuid, &Bytes> = HashMap::new();
    let mut newest: HashMap<u32, i64> = HashMap::new();
    let mut latencies = Vec::new();
    for delivery in deliveries {
        let Some(written) = record.committed.get(&delivery.id) else {
            if record.taken_back.contains(&delivery.id) {
                continue;
            }
            phantoms.push(format!("{} at {}", delivery.id, delivery.place));
            continue;
        };
        if let Some(body) = first.get(&delivery.id) {
            if **body != delivery.body {
                altered.push(format!("{} at {}", delivery.id, delivery.place));
            }
            continue;
        }
        first.insert(delivery.id, &delivery.body);
        latencies.push(
            delivery
                .at
                .duration_since(written.committed_at)
                .unwrap_or_default(),
        );
        if !record.excused.contains(&delivery.id) {
            let before = newest.insert(written.key, written.counter).unwrap_or(0);
            if before > written.counter {
                reordered.push(format!(
                    "key {}: {} after {before} at {}",
                    written.key, written.counter, delivery.place
                ));
            }
        }
        if delivery.number("counter") != written.counter {
            altered.push(format!("{} at {}", delivery.id, delivery.place));
        }
    }
    let arrived: HashSet<Uuid> = first.keys().copied().collect();
    let missing: Vec<String> = record
        .committed
        .iter()
        .filter(|(id, _)| !arrived.contains(id))
        .map(|(id, written)| format!("{id} (key {}, {})", written.key, written.counter))
        .collect();
    let faults: Vec<String> = [
        ("committed events are missing", missing),
        ("events that were never committed arrived", phantoms),
        ("first deliveries are out of their key's order", reordered),
        ("deliveries are not what was written", altered),
    ]
    .into_iter()
    .filter(|(_, found)| !found.is_empty())
    .map(|(fault, found)| format!("{} {fault}, first {}", found.len(), found[0]))
    .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    latencies.sort_unstable();
    let delivered = deliveries
        .iter()
        .filter(|delivery| first.contains_key(&delivery.id))
        .count();
    Ok(Figures {
        committed: record.committed.len(),
        rolled_back: record.rolled_back.len(),
        transactions: record.transactions,
        delivered,
        duplicates: delivered - first.len(),
        median: latencies
            .get(latencies.len() / 2)
            .copied()
            .unwrap_or_default(),
        worst: latencies.last().copied().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::support::writers::Written;

    /// Three events of one key, committed and delivered in order.
    fn sound() -> (Record, Vec<Delivery>) {
        let mut record = Record::default();
        let mut deliveries = Vec::new();
        for counter in 1..=3 {
            let id = Uuid::new_v4();
            let now = SystemTime::now();
            let written = Written {
                key: 7,
                counter,
                committed_at: now,
            };
            record.committed.insert(id, written);
            deliveries.push(Delivery {
                place: counter.unsigned_abs(),
                at: now,
                subject: String::new(),
                id,
                headers: Vec::new(),
                body: format!(r#"{{"payload":{{"counter":{counter}}}}}"#).into(),
            });
        }
        (record, deliveries)
    }

    fn fault(record: &Record, deliveries: &[Delivery]) -> String {
        compare(record, deliveries)
            .expect_err("the checker must object")
            .join("; ")
    }

    #[test]
    fn passes_what_is_sound_and_counts_duplicates() {
        let (record, mut deliveries) = sound();
        deliveries.push(deliveries[0].clone());
        let figures = compare(&record, &deliveries).expect("nothing is wrong");
        assert_eq!((figures.committed, figures.duplicates), (3, 1));
    }

    #[test]
    fn sees_a_missing_event() {
        let (record, mut deliveries) = sound();
        deliveries.remove(1);
        assert!(fault(&record, &deliveries).starts_with("1 committed events are missing"));
    }

    #[test]
    fn sees_a_phantom() {
        let (mut record, deliveries) = sound();
        record.committed.remove(&deliveries[2].id);
        record.rolled_back.insert(deliveries[2].id);
        assert!(fault(&record, &deliveries).contains("never committed"));
    }

    #[test]
    fn sees_a_wrong_order() {
        let (record, mut deliveries) = sound();
        deliveries.swap(0, 1);
        assert!(fault(&record, &deliveries).contains("order"));
    }

    #[test]
    fn excuses_what_was_refused_and_no_other() {
        let (mut record, mut deliveries) = sound();
        deliveries.rotate_left(1);
        record.excused.insert(deliveries[2].id);
        compare(&record, &deliveries).expect("the first came last, as it may");
        deliveries.swap(0, 1);
        assert!(fault(&record, &deliveries).contains("order"));
    }

    #[test]
    fn sees_other_bytes_under_the_same_id() {
        let (record, mut deliveries) = sound();
        let mut again = deliveries[0].clone();
        again.body = "{}".into();
        deliveries.push(again);
        assert!(fault(&record, &deliveries).contains("not what was written"));
    }
}

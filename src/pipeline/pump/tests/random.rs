//! Whatever happens, first deliveries are in order and nothing is lost.

use proptest::prelude::*;

use super::*;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..10).prop_map(Step::Acknowledge),
        1 => Just(Step::Refuse),
        1 => Just(Step::Decline),
        2 => (0usize..10).prop_map(Step::BreakDown),
        1 => (0u64..5).prop_map(Step::Silence),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the broker does, and however late an event shows whose key is its own: each key's events are stored
    /// first in their order, each one is stored or a dead letter, and the ledger says so.
    #[test]
    fn first_deliveries_are_in_order(
        keys in prop::collection::vec(0u8..4, 1..60),
        late in prop::collection::btree_set(0usize..60, 0..4),
        size in 1usize..30,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let all: Vec<_> = (1..).zip(&keys).enumerate().map(|(index, (seq, key))| {
            let key = if late.contains(&index) { format!("late {index}") } else { key.to_string() };
            keyed(seq, &key)
        }).collect();
        let (shown_late, shown): (Vec<_>, Vec<_>) = all.iter().cloned().enumerate().partition(|(index, _)| late.contains(index));
        let mut batches: Vec<Vec<_>> = shown.chunks(size).map(|chunk| chunk.iter().map(|(_, event)| Arc::clone(event)).collect()).collect();
        batches.push(shown_late.into_iter().map(|(_, event)| event).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let (stored, dead, delivered) = runtime.block_on(async {
            let running = Running::start(batches);
            for step in steps {
                tokio::time::sleep(Duration::from_millis(20)).await;
                running.line.step(step).await;
            }
            let (line, table) = (running.line.clone(), running.table.clone());
            running.until("every event is in the ledger", || {
                line.answer(usize::MAX);
                all.iter().all(|event| table.delivered().contains(event.seq))
            }).await;
            running.stop().await;
            (line.stored(), table.dead(), table.delivered())
        });
        let mut seen = BTreeSet::new();
        let first: Vec<i64> = stored.into_iter().filter(|seq| seen.insert(*seq)).collect();
        for event in &all {
            let same_key = |seq: &&i64| all[usize::try_from(**seq - 1).expect("from 1")].aggregate_id == event.aggregate_id;
            let of_key: Vec<i64> = first.iter().filter(same_key).copied().collect();
            prop_assert!(of_key.is_sorted(), "{:?}", of_key);
            prop_assert!(seen.contains(&event.seq) || dead.contains(&event.seq), "{} is lost", event.seq);
            prop_assert!(delivered.contains(event.seq), "{} is not in the ledger", event.seq);
        }
    }
}

//! The judge in each of its cases, and before a model of the broker and the client.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn id(place: u64) -> Uuid {
    Uuid::from_u128(place.into())
}

fn returned(place: u64) -> Return {
    Return {
        id: Some(id(place)),
        reason: "312 NO_ROUTE".to_owned(),
    }
}

fn judge(count: u64) -> Judge<u64> {
    let mut judge = Judge::new();
    for place in 0..count {
        assert_eq!(judge.published(id(place), place), place);
    }
    judge
}

fn taken(judge: &mut Judge<u64>) -> Vec<(u64, bool)> {
    let verdicts = judge.verdicts().into_iter();
    verdicts
        .map(|(place, verdict)| (place, verdict == Verdict::Taken))
        .collect()
}

#[test]
fn one_alone_is_judged_at_once() {
    let mut judge = judge(3);
    judge.confirmed(0, false, None).expect("ours");
    assert_eq!(taken(&mut judge), [(0, true)]);
    judge.confirmed(1, true, None).expect("ours");
    assert_eq!(judge.verdicts(), [(1, Verdict::Nacked)]);
    judge.confirmed(2, false, Some(returned(2))).expect("ours");
    assert_eq!(judge.verdicts(), [(2, Verdict::Returned(returned(2)))]);
    assert_eq!(judge.len(), 0);
}

#[test]
fn a_return_that_came_with_another_confirm_finds_its_message() {
    // 1 is returned; the confirm of 0 takes what came back, that of 1 comes without.
    let mut judge = judge(2);
    judge.confirmed(0, false, Some(returned(1))).expect("ours");
    assert_eq!(taken(&mut judge), [(0, true)]);
    judge.confirmed(1, false, None).expect("ours");
    assert_eq!(taken(&mut judge), [(1, false)]);
}

#[test]
fn what_is_uncertain_waits_and_slow_queues_hold_nothing_up() {
    // 1 and 2 are returned, and 2 is confirmed first: its own return may still be in the queue.
    let mut judge = judge(3);
    judge.confirmed(2, false, Some(returned(1))).expect("ours");
    assert_eq!(taken(&mut judge), []);
    // The confirm of 1 brings the return of 2. That of 0 never comes.
    judge.confirmed(1, false, Some(returned(2))).expect("ours");
    let mut verdicts = taken(&mut judge);
    verdicts.sort_unstable();
    assert_eq!(verdicts, [(1, false), (2, false)]);
    assert_eq!(judge.give_up().collect::<Vec<_>>(), [0]);
}

#[test]
fn an_empty_confirm_settles_what_was_seen_before_it_was_published() {
    let mut judge = judge(3);
    judge.confirmed(2, false, Some(returned(1))).expect("ours");
    assert_eq!(taken(&mut judge), []);
    let later = judge.published(id(3), 3);
    judge.confirmed(later, false, None).expect("ours");
    let mut verdicts = taken(&mut judge);
    verdicts.sort_unstable();
    assert_eq!(verdicts, [(2, true), (3, true)]);
}

#[test]
fn of_two_with_one_id_both_count_as_returned() {
    let mut judge = Judge::new();
    judge.published(id(7), 'a');
    judge.published(id(7), 'b');
    judge.confirmed(0, false, Some(returned(7))).expect("ours");
    judge.confirmed(1, false, None).expect("ours");
    let verdicts = judge.verdicts();
    assert_eq!(verdicts.len(), 2);
    for (_, verdict) in verdicts {
        assert!(matches!(verdict, Verdict::Returned(_)), "{verdict:?}");
    }
    assert_eq!(judge.confirmed(9, false, Some(returned(7))), Err(Stray));
}

/// The broker and the client, as far as they matter here.
#[derive(Default)]
struct Model {
    unroutable: Vec<bool>,
    /// Published, and not handled by the broker yet.
    sent: VecDeque<u64>,
    /// Handled, and not confirmed yet.
    open: Vec<u64>,
    /// What the client has of returned messages.
    queue: VecDeque<u64>,
}

impl Model {
    fn publish(&mut self, unroutable: bool) -> u64 {
        let place = self.unroutable.len() as u64;
        self.unroutable.push(unroutable);
        self.sent.push_back(place);
        place
    }

    /// The broker handles one: it returns it, or routes it.
    fn handle(&mut self) {
        if let Some(place) = self.sent.pop_front() {
            if self.unroutable[usize::try_from(place).expect("small")] {
                self.queue.push_back(place);
            }
            self.open.push(place);
        }
    }

    /// The broker confirms any of those that it has handled.
    fn confirm(&mut self, choice: usize) -> Option<(u64, Option<Return>)> {
        if self.open.is_empty() {
            return None;
        }
        let place = self.open.swap_remove(choice % self.open.len());
        Some((place, self.queue.pop_front().map(returned)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the order of confirms, and whoever takes the returned messages along: every verdict is right,
    /// and in the end there is one on each message.
    #[test]
    fn every_verdict_is_right(steps in prop::collection::vec((0_u8..8, any::<usize>()), 1..200)) {
        let mut model = Model::default();
        let mut judge = Judge::new();
        let mut judged = HashMap::new();
        let mut batch = Vec::new();
        let mut settle = |judge: &mut Judge<u64>, batch: &mut Vec<(u64, Option<Return>)>, model: &Model| {
            // The order within a batch is not the order of the confirms.
            for (place, returned) in batch.drain(..).rev() {
                judge.confirmed(place, false, returned).expect("ours");
            }
            for (place, verdict) in judge.verdicts() {
                let unroutable = model.unroutable[usize::try_from(place).expect("small")];
                assert_eq!(verdict != Verdict::Taken, unroutable, "{place}: {verdict:?}");
                assert!(judged.insert(place, ()).is_none(), "{place} twice");
            }
        };
        for (step, choice) in steps {
            match step {
                0..=2 => {
                    let place = model.publish(choice.is_multiple_of(3));
                    judge.published(id(place), place);
                }
                3 | 4 => model.handle(),
                5 | 6 => batch.extend(model.confirm(choice)),
                _ => settle(&mut judge, &mut batch, &model),
            }
        }
        while !model.sent.is_empty() {
            model.handle();
        }
        while let Some(confirm) = model.confirm(0) {
            batch.push(confirm);
        }
        settle(&mut judge, &mut batch, &model);
        prop_assert_eq!(judge.len(), 0);
        prop_assert_eq!(judged.len(), model.unroutable.len());
    }
}

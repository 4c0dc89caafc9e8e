//! Brokers that are away, as a whole or for some events only.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_a_break_down_the_first_goes_alone_and_then_the_others_in_order() {
    let running = Running::start(vec![events(1..7, "a")]);
    running.waits(6).await;
    running.line.answer(2);
    running.line.step(Step::BreakDown(0)).await;
    running.waits(1).await;
    running.line.answer(1);
    running.waits(3).await;
    running.line.answer(3);
    running
        .until("all", || running.line.stored().len() == 6)
        .await;
    assert_eq!(running.line.stored(), [1, 2, 3, 4, 5, 6]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_stuck_stops_no_others() {
    let mut all = events(1..2, "stuck");
    all.extend(events(2..21, "a"));
    let running = Running::start(vec![all]);
    running.waits(8).await;
    running.line.step(Step::BreakDown(0)).await;
    running.waits(1).await;
    // The others follow it, and what fails with it goes behind it once more.
    running.waits(8).await;
    running.line.step(Step::BreakDown(0)).await;
    running.waits(1).await;
    running.waits(8).await;
    running
        .until("all others", || {
            running.line.answer_others();
            running.line.stored().len() == 19
        })
        .await;
    assert_eq!(running.line.stored(), (2..21).collect::<Vec<_>>());
    assert_eq!(running.status.report().pipelines[0].sink_state, "connected");
    running.line.answer(1);
    running
        .until("all", || running.line.stored().len() == 20)
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silence_shows_as_an_outage_and_sends_nothing_twice() {
    let running = Running::start(vec![events(1..4, "a")]);
    running.waits(3).await;
    running.line.step(Step::Silence(70)).await;
    let obstacles = running.status.obstacles();
    assert_eq!(obstacles.len(), 1);
    assert!(
        obstacles[0].contains("no acknowledgement within 2s"),
        "{obstacles:?}"
    );
    assert_eq!(running.line.lock().waiting.len(), 3);
    running.line.answer(1);
    running
        .until("it is back", || running.status.obstacles().is_empty())
        .await;
    running.line.answer(2);
    running
        .until("all", || running.line.stored().len() == 3)
        .await;
    assert_eq!(running.line.stored(), [1, 2, 3]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_without_the_broker_is_no_silence_of_it() {
    let running = Running::start(vec![events(1..2, "a")]);
    running.waits(1).await;
    running.line.step(Step::Silence(1)).await;
    running.line.step(Step::Decline).await;
    running.line.step(Step::Silence(70)).await;
    running.shows(events(2..3, "a"));
    running.waits(1).await;
    running.line.step(Step::Silence(1)).await;
    assert_eq!(running.status.report().pipelines[0].sink_state, "connected");
    // It is one now, and over when that event has ended without the broker, too.
    running.line.step(Step::Silence(3)).await;
    assert_eq!(running.status.report().pipelines[0].sink_state, "away");
    running.line.step(Step::Decline).await;
    let back = || running.status.report().pipelines[0].sink_state == "connected";
    running.until("the sink is back", back).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_client_does_not_take_ends_no_outage() {
    let running = Running::start(vec![events(1..3, "a")]);
    running.waits(2).await;
    running.line.step(Step::BreakDown(0)).await;
    running.waits(1).await;
    // Long enough for the outage to show.
    running.line.step(Step::Silence(70)).await;
    assert_eq!(running.status.obstacles().len(), 1);
    running.line.step(Step::Decline).await;
    running
        .until("a dead letter", || running.table.dead() == [1].into())
        .await;
    assert_eq!(running.status.obstacles().len(), 1);
    running.waits(1).await;
    assert_eq!(running.status.obstacles().len(), 1);
    running.line.answer(1);
    running
        .until("it is back", || running.status.obstacles().is_empty())
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_while_others_are_answered_is_overdue() {
    let mut all = events(1..2, "stuck");
    all.extend(events(2..1_000, "a"));
    let running = Running::start(vec![all]);
    let overdue = || {
        let report = running.status.report().pipelines.remove(0);
        assert_eq!(report.sink_state, "connected");
        report
            .activity
            .is_some_and(|now| now.overdue_since.is_some())
    };
    running.waits(8).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.line.answer_others();
    }
    assert!(!overdue(), "within three times the timeout of 2 s");
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.line.answer_others();
    }
    assert!(overdue());
    running.line.answer(1);
    running
        .until("none is overdue", || {
            running.line.answer(8);
            !overdue()
        })
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_through_a_silence_is_not_overdue_at_once() {
    let running = Running::start(vec![events(1..7, "a")]);
    running.waits(6).await;
    running.line.step(Step::Silence(70)).await;
    running.line.answer(1);
    running.line.step(Step::Silence(1)).await;
    let report = running.status.report().pipelines.remove(0);
    assert_eq!(report.sink_state, "connected");
    assert_eq!(report.activity.and_then(|now| now.overdue_since), None);
    running.stop().await;
}

/// An event that is put off ends no outage. Were nothing read until one ends, there would be nobody else to end it.
#[tokio::test(start_paused = true)]
async fn while_the_only_event_is_put_off_others_are_read_and_show_that_the_broker_is_back() {
    let running = Running::start(vec![events(1..2, "suspect")]);
    running.waits(1).await;
    running.line.step(Step::BreakDown(0)).await;
    running.waits(1).await;
    running.shows(events(2..3, "a"));
    let put_off_the_suspect = || {
        let mut wire = running.line.lock();
        while let Some((event, answer)) = wire.waiting.pop_front() {
            let is_suspect = event.seq == 1;
            let put_off = PublishError::busy("it may be to blame").unanswered();
            answer
                .send(if is_suspect { Err(put_off) } else { Ok(()) })
                .ok();
            wire.stored.extend((!is_suspect).then_some(event));
        }
    };
    running
        .until("the other", || {
            put_off_the_suspect();
            running.line.stored() == [2]
        })
        .await;
    running
        .until("it is back", || {
            running.status.report().pipelines[0].sink_state == "connected"
        })
        .await;
    running.stop().await;
}

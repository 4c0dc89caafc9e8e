//! The promise under torture: writers with a record of their own, three brokers, two relays and more, and whatever can
//! go wrong with any of them at once, drawn by a seed.
//!
//! ```text
//! cargo test --test torture                    under tests/run --keep, for OUTBOX_TORTURE_SECONDS (60)
//! OUTBOX_TORTURE_SEED=7 …                      draws others
//! ```

#[allow(dead_code, reason = "this program uses a part of what the tests share")]
#[path = "../support/mod.rs"]
mod support;

mod chronicle;
#[cfg(feature = "sabotage")]
mod controls;
mod odd;
mod pooled;
mod torment;
mod verdict;
mod watch;
mod world;

use std::time::Duration;

use crate::support::report::report;
use crate::torment::Torment;
use crate::verdict::Verdict;
use crate::world::{Brokers, World};

/// How long faults are drawn, unless the environment says otherwise.
const SECONDS: u64 = 60;

/// What faults follow from, unless the environment says otherwise.
const SEED: u64 = 1;

/// How long transactions are held open at most.
const HELD: Duration = Duration::from_secs(10);

/// Before the first fault.
const CALM: Duration = Duration::from_secs(5);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

// One thread, for the kernel ends what a thread has started when the thread ends.
#[tokio::test]
async fn nothing_is_lost_invented_or_out_of_order() {
    let seed = number("OUTBOX_TORTURE_SEED").unwrap_or(SEED);
    let seconds = number("OUTBOX_TORTURE_SECONDS").unwrap_or(SECONDS);
    report!("torture: OUTBOX_TORTURE_SEED={seed} OUTBOX_TORTURE_SECONDS={seconds}");
    let mut world = World::build(Brokers::All, "").await;
    let writers = world.write(seed, HELD).await;
    tokio::time::sleep(CALM).await;
    let torment = Torment::new(seed, Duration::from_secs(seconds));
    let chronicle = Box::pin(torment.inflict(&mut world)).await;
    let record = world.calm(writers).await;
    let verdict = Verdict::of(&mut world, &record, &chronicle).await;
    report!("{verdict}");
    let faults = verdict.faults();
    assert!(
        faults.is_empty(),
        "OUTBOX_TORTURE_SEED={seed}:\n{}",
        faults.join("\n")
    );
}

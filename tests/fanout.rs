//! One outbox to Kafka, JetStream and RabbitMQ at once: whatever becomes of one, the others go on as before (I5).
//!
//! Each is frozen once and killed once; `OUTBOX_TEST_OUTAGE` is how many seconds it is away each time. The figures
//! that are printed say something if nothing else runs on the machine: `--test-threads=1`.

mod figures;
mod outlet;
mod victim;

use std::time::{Duration, SystemTime};

use crate::support::checker::check;
use crate::support::database::Database;
use crate::support::eventually::eventually;
use crate::support::relay::{Relay, migrate};
use crate::support::report::report;
use crate::support::settings::Settings;
use crate::support::writers::{Load, Writers};
use figures::{CatchUp, Span, row};
use outlet::Outlet;
use victim::Victim;

/// How long everything may take to arrive. A machine may be busy with other tests.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Deliveries during an outage for each commit during it, at least: 1 but for what is on its way at either end, which
/// is seconds on a busy machine. Who waits for another gets next to nothing.
const KEPT_UP: f64 = 0.3;

/// So many events may be published before their writers know of the commit.
const NOT_KNOWN_YET: u64 = 100;

/// How long it is watched at most that all is well.
const CALM: Duration = Duration::from_secs(20);

fn outage() -> Duration {
    let seconds = std::env::var("OUTBOX_TEST_OUTAGE").map_or(6, |seconds| {
        seconds
            .parse()
            .expect("OUTBOX_TEST_OUTAGE is a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// A steady service, whose transactions last up to two seconds now and then.
fn load() -> Load {
    Load {
        writers: 8,
        large_every: u32::MAX,
        ..Load::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_do_not_notice_that_kafka_is_away() {
    let Some(victim) = Victim::kafka().await else {
        return;
    };
    let others = [Outlet::jetstream().await, Outlet::rabbitmq().await];
    others_do_not_notice(victim, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_do_not_notice_that_jetstream_is_away() {
    let victim = Victim::jetstream().await;
    let others = [Outlet::kafka().await, Outlet::rabbitmq().await];
    others_do_not_notice(victim, others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_do_not_notice_that_rabbitmq_is_away() {
    let victim = Victim::rabbitmq().await;
    let others = [Outlet::kafka().await, Outlet::jetstream().await];
    others_do_not_notice(victim, others).await;
}

/// A relay that feeds all three, and the writers that feed it.
struct Scene {
    relay: Relay,
    writers: Writers,
}

impl Scene {
    /// How many events a sink's broker has acknowledged.
    async fn published(&self, sink: &str) -> u64 {
        let labels = format!("sink=\"{sink}\"");
        let name = "outbox_events_published_total";
        let count = self.relay.metric(name, &[&labels]).await;
        // Far below 2^52.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        count.map_or(0, |count| count as u64)
    }

    /// Waits until a sink's broker has acknowledged this many.
    async fn await_published(&self, sink: &str, count: u64) {
        let what = format!("{count} events are published to {sink}");
        eventually(&what, ARRIVAL, async || {
            (self.published(sink).await >= count).then_some(())
        })
        .await;
    }

    /// Lets the writers write for a while.
    async fn span(&self, name: &'static str, length: Duration) -> Span {
        let from = SystemTime::now();
        tokio::time::sleep(length).await;
        Span::since(name, from)
    }

    /// A span in which the victim is away. Afterwards, while it still is, the others get all that was committed.
    async fn outage(&self, name: &'static str, victim: &str, others: &[Outlet; 2]) -> Span {
        let before = self.writers.committed();
        let span = self.span(name, outage()).await;
        let committed = self.writers.committed();
        for other in others {
            self.await_published(other.name(), committed).await;
        }
        let published = self.published(victim).await;
        assert!(
            published <= before + NOT_KNOWN_YET,
            "{victim} was away: {published} of {before}"
        );
        span
    }

    /// The victim gets all that was committed until now: it is back.
    async fn caught_up(&self, victim: &str) -> CatchUp {
        let (begun, before) = (SystemTime::now(), self.published(victim).await);
        let committed = self.writers.committed();
        self.await_published(victim, committed).await;
        CatchUp {
            events: committed.saturating_sub(before),
            took: begun.elapsed().unwrap_or_default(),
        }
    }
}

async fn others_do_not_notice(mut victim: Victim, others: [Outlet; 2]) {
    let database = Database::fresh().await;
    let mut settings = Settings::of(&database)
        .set("sources.main.mode", "notify")
        .set("retry.max_delay", "1s");
    for outlet in others.iter().chain([&victim.outlet]) {
        settings = outlet.sink(settings);
    }
    migrate(&settings);
    let relay = Relay::ready(&settings).await;
    let writers = Writers::start(&database, load()).await;
    writers.until(500).await;
    let scene = Scene { relay, writers };
    let name = victim.outlet.name();
    scene.await_published(name, 500).await;

    let before = scene.span("before", outage().min(CALM)).await;
    victim.freeze().await;
    let frozen = scene.outage("frozen", name, &others).await;
    victim.thaw();
    let after_thaw = scene.caught_up(name).await;
    victim.kill().await;
    let killed = scene.outage("killed", name, &others).await;
    victim.start_again().await;
    let after_start = scene.caught_up(name).await;

    let Scene { relay, writers } = scene;
    let record = writers.stop().await;
    let ids = record.ids();
    victim.outlet.await_ids(&ids, ARRIVAL).await;
    for other in &others {
        other.await_ids(&ids, ARRIVAL).await;
    }
    let letters = relay.metric("outbox_dead_letters", &[]).await;
    assert_eq!(letters, Some(0.0), "an outage uses up no attempts");
    relay.stop().await;

    report!("fan-out while {name} was away, {}", figures::HEADER);
    for other in &others {
        let deliveries = other.deliveries().await;
        for span in [&before, &frozen, &killed] {
            let row = row(other.name(), span, &record, &deliveries);
            report!("{row}");
            assert!(row.kept_up() > KEPT_UP, "{row}");
        }
        let figures = check(other.name(), &record, &deliveries);
        assert_eq!(
            figures.duplicates,
            0,
            "nothing was sent to {} again",
            other.name()
        );
    }
    report!("{name} caught up: {after_thaw} once thawed, {after_start} once started");
    check(name, &record, &victim.outlet.deliveries().await);
}

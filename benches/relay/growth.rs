//! Cost per event as things grow, one at a time. It should stay flat.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

use crate::Result;
use crate::dataset::Shape;
use crate::sink::Sink;
use crate::suite::Suite;

impl Suite {
    pub(crate) async fn growth(&mut self) -> Result {
        let is_full = self.options.full;
        let up_to = |all: &[u64], small: usize| -> Vec<u64> {
            let count = if is_full { all.len() } else { small };
            all[..count].to_vec()
        };
        let base = Shape {
            payload: 200,
            ..self.shape()
        };
        for events in up_to(&[10_000, 100_000, 1_000_000, 10_000_000], 2) {
            let shape = Shape { events, ..base };
            self.grown(&format!("{events} events"), shape, 1).await?;
        }
        for sinks in 1..=4 {
            self.grown(&format!("{sinks} sinks"), base, sinks).await?;
        }
        for keys in up_to(&[1, 1_000, 100_000, 1_000_000], 3) {
            let shape = Shape {
                keys,
                // Each key has an event.
                events: base.events.max(if is_full { keys } else { 0 }),
                ..base
            };
            self.grown(&format!("{keys} keys"), shape, 1).await?;
        }
        for payload in [100, 1_024, 10_240, 102_400, 1_048_576] {
            let shape = Shape {
                payload,
                // The same bytes in all, from 1 KiB on.
                events: base.events.min(base.events * 1_024 / payload as u64),
                ..base
            };
            self.grown(&format!("{payload} B"), shape, 1).await?;
        }
        let shape = Shape {
            holes: 10_000.min(base.events / 2),
            ..base
        };
        self.grown(&format!("{} holes", shape.holes), shape, 1)
            .await?;
        self.held(base).await
    }

    async fn grown(&mut self, case: &str, shape: Shape, sinks: usize) -> Result {
        let mut dataset = self.dataset(shape).await?;
        let sinks = vec![Sink::Null; sinks];
        let line = self.backlog(&sinks).compare(case, &mut dataset, 1).await;
        self.take(case, line);
        Ok(())
    }

    /// A transaction that has written an event before all others and stays open: its number is a hole throughout.
    async fn held(&mut self, shape: Shape) -> Result {
        let case = "long transaction";
        let mut dataset = self.empty().await?;
        let mut held = PgConnection::connect(&dataset.url).await?;
        held.execute("BEGIN; INSERT INTO outbox (event_type, payload) VALUES ('Held', '{}')")
            .await?;
        // Behind the hole.
        dataset.fill(shape).await?;
        let line = self
            .backlog(&[Sink::Null])
            .compare(case, &mut dataset, 1)
            .await;
        held.close().await?;
        self.take(case, line);
        Ok(())
    }
}

//! A backlog is delivered: the relay and the ceiling in turns, A B A B.

use std::time::{Duration, Instant, SystemTime};

use crate::Result;
use crate::broker::Broker;
use crate::dataset::{Counters, Dataset};
use crate::figures::{Figures, Line};
use crate::process::{Folder, Process};
use crate::servers::Servers;
use crate::sink::Sink;
use crate::target::{Target, configuration};
use crate::task::Task;
use crate::usage;

/// How often a broker is asked what it has.
const LOOK: Duration = Duration::from_millis(10);

/// Who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Relay,
    Ceiling,
}

/// One case: a dataset into sinks.
pub(crate) struct Backlog<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) folder: &'a Folder,
    pub(crate) sinks: &'a [Sink],
    pub(crate) after_delivery: &'static str,
}

/// What was used up to a moment.
struct Moment {
    at: SystemTime,
    published: u64,
    own: Duration,
    postgres: Duration,
    broker: Duration,
    counters: Counters,
}

impl Backlog<'_> {
    /// Relay and ceiling in turns, `rounds` times.
    pub(crate) async fn compare(
        &self,
        case: &str,
        dataset: &mut Dataset,
        rounds: usize,
    ) -> Result<Line> {
        let mut relay = Vec::new();
        let mut ceiling = Vec::new();
        for _ in 0..rounds {
            relay.push(self.once(Who::Relay, dataset).await?);
            ceiling.push(self.once(Who::Ceiling, dataset).await?);
        }
        let (relay, ceiling) = (Figures::medians(&relay), Figures::medians(&ceiling));
        Ok(Line {
            ratio: Some(relay.events_per_second / ceiling.events_per_second),
            ceiling: Some(ceiling),
            ..self.line(case, rounds, relay)
        })
    }

    /// The relay alone, once: what it changes is not undone.
    pub(crate) async fn relay(&self, case: &str, dataset: &mut Dataset) -> Result<Line> {
        let figures = self.once(Who::Relay, dataset).await?;
        Ok(self.line(case, 1, figures))
    }

    fn line(&self, case: &str, runs: usize, relay: Figures) -> Line {
        let sink = match self.sinks {
            [Sink::Null, .., _] => format!("null × {}", self.sinks.len()),
            [one] => one.to_string(),
            _ => "three".to_owned(),
        };
        Line {
            case: case.to_owned(),
            sink,
            runs,
            relay,
            ceiling: None,
            ratio: None,
            note: None,
        }
    }

    async fn once(&self, who: Who, dataset: &mut Dataset) -> Result<Figures> {
        dataset.forget_relays().await?;
        if self.sinks.iter().all(|sink| *sink == Sink::Null) {
            return self.into_null(who, dataset).await;
        }
        let mut brokers = Vec::new();
        for sink in self.sinks {
            let url = &self.servers.broker(*sink)?.url;
            brokers.push(Broker::create(*sink, url, &unique()).await?);
        }
        let figures = self.into_brokers(who, dataset, &mut brokers).await;
        for broker in brokers {
            broker.remove().await?;
        }
        figures
    }

    async fn into_null(&self, who: Who, dataset: &mut Dataset) -> Result<Figures> {
        let (database, events) = (dataset.url.clone(), dataset.events);
        let mut process = Process::task(&match who {
            Who::Relay => Task::Relay {
                database,
                sinks: self.sinks.len(),
                events,
                receipts: None,
            },
            Who::Ceiling => Task::Ceiling {
                database,
                targets: vec![Target::Null; self.sinks.len()],
                events,
            },
        })?;
        let first = process.await_line("first").await?;
        let begun = self.moment(process.pid, 0, dataset).await?;
        let last = process.await_line("last").await?;
        let all = events * self.sinks.len() as u64;
        let ended = self.moment(process.pid, all, dataset).await?;
        let rss = usage::peak_rss(process.pid)?;
        let duplicates = process.verdict().await?;
        // The process knows better when that was.
        let begun = Moment { at: first, ..begun };
        let ended = Moment { at: last, ..ended };
        self.figures(&begun, &ended, rss, duplicates)
    }

    async fn into_brokers(
        &self,
        who: Who,
        dataset: &mut Dataset,
        brokers: &mut [Broker],
    ) -> Result<Figures> {
        let targets: Vec<Target> = brokers.iter().map(Broker::target).collect();
        let process = match who {
            Who::Relay => {
                let toml = configuration(&dataset.url, self.after_delivery, &targets);
                Process::relay(&self.folder.write("relay.toml", &toml)?)?
            }
            Who::Ceiling => Process::task(&Task::Ceiling {
                database: dataset.url.clone(),
                targets,
                events: dataset.events,
            })?,
        };
        let published = count_at_least(brokers, 1).await?;
        let begun = self.moment(process.pid, published, dataset).await?;
        let all = dataset.events * brokers.len() as u64;
        if published > all / 2 {
            return Err(
                format!("{all} events are too few to measure: half were out at once").into(),
            );
        }
        count_at_least(brokers, all).await?;
        let mut ended = self.moment(process.pid, all, dataset).await?;
        let mut hot_share = None;
        if who == Who::Relay && self.after_delivery == "mark" {
            while !dataset.is_newest_settled().await? {
                tokio::time::sleep(LOOK * 10).await;
            }
            // How fast it delivers is known; what it costs ends with the last row that is marked.
            let settled = self.moment(process.pid, all, dataset).await?;
            ended = Moment {
                at: ended.at,
                ..settled
            };
            hot_share = dataset.hot_share().await?;
        }
        let rss = usage::peak_rss(process.pid)?;
        match who {
            Who::Relay => process.terminate().await?,
            Who::Ceiling => drop(process.verdict().await?),
        }
        let mut duplicates = 0;
        for broker in brokers {
            let count = broker.count().await?;
            let checker = broker.consume().await?.check(count).await?;
            duplicates += checker.verdict(dataset.events)?;
        }
        Ok(Figures {
            hot_share,
            ..self.figures(&begun, &ended, rss, duplicates)?
        })
    }

    async fn moment(&self, pid: u32, published: u64, dataset: &mut Dataset) -> Result<Moment> {
        let at = SystemTime::now();
        let own = usage::of_process(pid);
        let postgres = usage::of_tree(self.servers.postgres.pid)?;
        let mut broker = Duration::ZERO;
        for sink in self.sinks.iter().filter(|sink| sink.server().is_some()) {
            broker += usage::of_tree(self.servers.broker(*sink)?.pid)?;
        }
        Ok(Moment {
            at,
            published,
            own,
            postgres,
            broker,
            counters: dataset.counters().await?,
        })
    }

    fn figures(
        &self,
        begun: &Moment,
        ended: &Moment,
        rss: u64,
        duplicates: u64,
    ) -> Result<Figures> {
        let events = (ended.published - begun.published) as f64;
        let us =
            |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / events;
        let (statements, wal) = ended.counters.since(begun.counters);
        let has_broker = self.sinks.iter().any(|sink| sink.server().is_some());
        Ok(Figures {
            events_per_second: events / ended.at.duration_since(begun.at)?.as_secs_f64(),
            own_us: us(begun.own, ended.own),
            postgres_us: us(begun.postgres, ended.postgres),
            broker_us: has_broker.then(|| us(begun.broker, ended.broker)),
            peak_rss_mb: rss as f64 / 1e6,
            statements_per_1000: statements as f64 * 1e3 / events,
            wal_bytes_per_event: Some(wal as f64 / events),
            duplicates: duplicates as f64,
            latency_ms: None,
            hot_share: None,
        })
    }
}

/// Waits until the brokers hold this many messages together, and returns how many they hold.
async fn count_at_least(brokers: &mut [Broker], wanted: u64) -> Result<u64> {
    let mut last = (Instant::now(), 0);
    loop {
        let mut count = 0;
        for broker in &mut *brokers {
            count += broker.count().await?;
        }
        if count >= wanted {
            return Ok(count);
        }
        if count > last.1 {
            last = (Instant::now(), count);
        } else if last.0.elapsed() > Duration::from_secs(60) {
            return Err(format!("{count} of {wanted} messages, and none for a minute").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A name that no other run has.
pub(crate) fn unique() -> String {
    format!("bench-{}", uuid::Uuid::new_v4().simple())
}

//! The relay follows live writers.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Result;
use crate::backlog::unique;
use crate::broker::{Broker, Receipt};
use crate::check::{Checker, Name};
use crate::dataset::Dataset;
use crate::figures::{Figures, Latency, Line};
use crate::process::{Folder, Process};
use crate::servers::Servers;
use crate::sink::Sink;
use crate::target::configuration;
use crate::task::Task;
use crate::usage;
use crate::writers::{Committed, Pace, Writers};

/// Until then nothing is measured: connections are made and caches warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// Of what was written, so much may wait when the writers stop: more, and the relay doesn't keep up.
const GROWTH: f64 = 0.01;

/// Of the rate that was asked for, writers must reach so much.
const REACHED: f64 = 0.97;

/// Writers, and one sink.
pub(crate) struct Live<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) folder: &'a Folder,
    pub(crate) sink: Sink,
    pub(crate) seconds: u64,
    pub(crate) payload: usize,
}

/// What came of one pace.
pub(crate) struct Followed {
    pub(crate) figures: Figures,
    /// Events per second that were committed.
    pub(crate) written: f64,
    /// The share of what was written that waited when the writers stopped.
    pub(crate) waiting: f64,
    pace: Pace,
}

impl Followed {
    /// Whether the relay kept up with writers that kept their pace.
    pub(crate) fn is_sustained(&self) -> bool {
        self.waiting < GROWTH && self.written >= REACHED * self.pace.rate as f64
    }

    pub(crate) fn line(self, case: String, sink: Sink) -> Line {
        let note = format!(
            "written {:.0}/s, {:.2} % waiting at the end",
            self.written,
            self.waiting * 100.0
        );
        Line {
            case,
            sink: sink.to_string(),
            runs: 1,
            relay: self.figures,
            ceiling: None,
            ratio: None,
            note: Some(note),
        }
    }
}

/// The relay at work, and who receives.
enum Receiving {
    /// The process itself keeps a record, in a file.
    Null { process: Process, record: String },
    Broker {
        process: Process,
        receiving: tokio::task::JoinHandle<Result<Vec<Receipt>>>,
        counted: tokio::sync::watch::Receiver<u64>,
        last: tokio::sync::watch::Sender<Option<u64>>,
        broker: Broker,
    },
}

impl Live<'_> {
    pub(crate) async fn follow(&self, dataset: &mut Dataset, pace: Pace) -> Result<Followed> {
        let mut receiving = self.start(dataset).await?;
        let writers = Writers::start(&dataset.url, pace, self.payload).await?;
        tokio::time::sleep(WARM_UP).await;
        let backends = dataset.backends().await?;
        let pid = receiving.pid();
        let reading = || -> Duration { backends.iter().map(|pid| usage::of_process(*pid)).sum() };
        let broker = || match self.sink.server() {
            Some(_) => usage::of_tree(self.servers.broker(self.sink)?.pid),
            None => Ok(Duration::ZERO),
        };
        let warm = SystemTime::now();
        let begun = (
            Instant::now(),
            writers.committed(),
            usage::of_process(pid),
            reading(),
            broker()?,
        );
        let counters = dataset.counters().await?;
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let ended = (
            Instant::now(),
            writers.committed(),
            usage::of_process(pid),
            reading(),
            broker()?,
        );
        let (statements, _) = dataset.counters().await?.since(counters);
        let came = receiving.count().await?;
        let waiting = ended.1.saturating_sub(came) as f64 / ended.1 as f64;
        let committed = writers.stop().await?;
        let rss = usage::peak_rss(pid)?;
        let receipts = receiving.end(self, committed.len() as u64).await?;
        let (latency, duplicates) = compare(&committed, &receipts, warm)?;
        let events = (ended.1 - begun.1) as f64;
        let seconds = (ended.0 - begun.0).as_secs_f64();
        let us =
            |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / events;
        let figures = Figures {
            events_per_second: events / seconds,
            own_us: us(begun.2, ended.2),
            postgres_us: us(begun.3, ended.3),
            broker_us: self.sink.server().map(|_| us(begun.4, ended.4)),
            peak_rss_mb: rss as f64 / 1e6,
            statements_per_1000: statements as f64 * 1e3 / events,
            wal_bytes_per_event: None,
            duplicates: duplicates as f64,
            latency_ms: latency,
            hot_share: None,
        };
        Ok(Followed {
            written: events / seconds,
            figures,
            waiting,
            pace,
        })
    }

    async fn start(&self, dataset: &Dataset) -> Result<Receiving> {
        if self.sink == Sink::Null {
            let record = unique();
            let process = Process::task(&Task::Relay {
                database: dataset.url.clone(),
                sinks: 1,
                events: u64::MAX,
                receipts: Some(self.folder.path(&record)),
            })?;
            return Ok(Receiving::Null { process, record });
        }
        let url = &self.servers.broker(self.sink)?.url;
        let broker = Broker::create(self.sink, url, &unique()).await?;
        let toml = configuration(&dataset.url, "keep", &[broker.target()]);
        let process = Process::relay(&self.folder.write("relay.toml", &toml)?)?;
        let mut consumer = broker.consume().await?;
        let (count, counted) = tokio::sync::watch::channel(0);
        let (last, mut expected) = tokio::sync::watch::channel(None);
        let receiving = tokio::spawn(async move {
            let mut receipts = Vec::new();
            let mut checker = Checker::default();
            loop {
                if expected
                    .borrow()
                    .is_some_and(|all| checker.distinct() >= all)
                {
                    return Ok(receipts);
                }
                tokio::select! {
                    receipt = consumer.next() => {
                        let receipt = receipt?;
                        checker.take(receipt.name);
                        receipts.push(receipt);
                        count.send_replace(checker.distinct());
                    }
                    _ = expected.changed() => {}
                }
            }
        });
        Ok(Receiving::Broker {
            process,
            receiving,
            counted,
            last,
            broker,
        })
    }
}

impl Receiving {
    fn pid(&self) -> u32 {
        match self {
            Self::Null { process, .. } | Self::Broker { process, .. } => process.pid,
        }
    }

    /// How many events have come.
    async fn count(&mut self) -> Result<u64> {
        match self {
            Self::Null { process, .. } => process.count().await,
            Self::Broker { counted, .. } => Ok(*counted.borrow()),
        }
    }

    /// Waits for the rest, and returns all that came.
    async fn end(self, live: &Live<'_>, committed: u64) -> Result<Vec<Receipt>> {
        match self {
            Self::Null {
                mut process,
                record,
            } => {
                let deadline = Instant::now() + Duration::from_secs(60);
                while process.count().await? < committed {
                    if Instant::now() > deadline {
                        return Err("the relay has not published all within a minute".into());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                process.verdict().await?;
                read(&std::fs::read_to_string(live.folder.path(&record))?)
            }
            Self::Broker {
                process,
                receiving,
                last,
                broker,
                ..
            } => {
                last.send_replace(Some(committed));
                let receipts = receiving.await??;
                process.terminate().await?;
                broker.remove().await?;
                Ok(receipts)
            }
        }
    }
}

/// A record as the task leaves it.
fn read(record: &str) -> Result<Vec<Receipt>> {
    record
        .lines()
        .map(|line| {
            let fields: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [key, counter, micros] = fields[..] else {
                return Err("a broken record".into());
            };
            Ok(Receipt {
                name: Name { key, counter },
                at: UNIX_EPOCH + Duration::from_micros(micros),
            })
        })
        .collect()
}

/// Latencies of first deliveries of what was committed after `warm`, and how many came again. An error if one is missing or out of order.
fn compare(
    committed: &[Committed],
    receipts: &[Receipt],
    warm: SystemTime,
) -> Result<(Option<Latency>, u64)> {
    let mut checker = Checker::default();
    let mut at: HashMap<Name, SystemTime> = HashMap::with_capacity(receipts.len());
    for receipt in receipts {
        if checker.take(receipt.name) {
            at.insert(receipt.name, receipt.at);
        }
    }
    let duplicates = checker.verdict(committed.len() as u64)?;
    let times = committed
        .iter()
        .filter(|(_, committed)| *committed >= warm)
        .map(|(name, committed)| {
            let received = at
                .get(name)
                .ok_or_else(|| format!("{name:?} did not come"))?;
            // A consumer may have it before the writer has heard of its own commit.
            Ok(received.duration_since(*committed).unwrap_or_default())
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((Latency::of(times), duplicates))
}

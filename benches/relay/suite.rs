//! Which cases are run, and on what.

use crate::Result;
use crate::backlog::Backlog;
use crate::dataset::{Dataset, Shape};
use crate::figures::{self, Line, Report};
use crate::live::{Followed, Live};
use crate::options::{Case, Options};
use crate::process::{self, Folder};
use crate::servers::Servers;
use crate::sink::Sink;
use crate::target::{Target, configuration};
use crate::writers::Pace;

/// One call of the benchmark.
pub(crate) struct Suite {
    pub(crate) options: Options,
    pub(crate) servers: Servers,
    pub(crate) folder: Folder,
    lines: Vec<Line>,
    /// What went wrong, in place of a line.
    wrong: Vec<String>,
}

impl Suite {
    pub(crate) fn start(options: Options) -> Result<Self> {
        Ok(Self {
            servers: Servers::start(&options.sinks)?,
            folder: Folder::make()?,
            lines: Vec::new(),
            wrong: Vec::new(),
            options,
        })
    }

    pub(crate) async fn run(mut self) -> Result {
        let processors = std::thread::available_parallelism()?.get();
        println!(
            "{processors} processors, shared by relay, servers and consumers; fsync on\n{}",
            self.servers.versions().join("\n")
        );
        figures::print_head();
        for case in self.options.cases.clone() {
            self.case(case).await?;
        }
        self.write_json(processors)?;
        if self.wrong.is_empty() {
            return Ok(());
        }
        Err(format!("no figure for {}", self.wrong.join("; ")).into())
    }

    fn write_json(&mut self, processors: usize) -> Result {
        let Some(path) = &self.options.json else {
            return Ok(());
        };
        let report = Report {
            processors,
            versions: self.servers.versions(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            lines: std::mem::take(&mut self.lines),
        };
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
        Ok(())
    }

    async fn case(&mut self, case: Case) -> Result {
        match case {
            Case::Base => {
                self.each_sink("base", self.shape(), self.options.rounds())
                    .await
            }
            Case::Small => {
                let shape = Shape {
                    payload: 200,
                    ..self.shape()
                };
                self.each_sink("200 B", shape, self.options.rounds()).await
            }
            Case::Hot => self.hot().await,
            Case::Large => {
                let shape = Shape {
                    events: self.options.events() * 10,
                    ..self.shape()
                };
                let mut sinks = self.options.sinks.clone();
                if !self.options.full {
                    sinks.retain(|sink| *sink == Sink::Null);
                }
                self.sinks(&sinks, "10 × backlog", shape, 1).await
            }
            Case::Settle => self.settle().await,
            Case::Three => self.three().await,
            Case::Live => self.live().await,
            Case::Growth => self.growth().await,
        }
    }

    /// The base case.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            events: self.options.events(),
            keys: 1_000,
            payload: 1_024,
            holes: 0,
        }
    }

    async fn each_sink(&mut self, case: &str, shape: Shape, rounds: usize) -> Result {
        let sinks = self.options.sinks.clone();
        self.sinks(&sinks, case, shape, rounds).await
    }

    /// Where the pipeline keeps order, one key is an event at a time: fewer events take as long.
    async fn hot(&mut self) -> Result {
        let (gated, others): (Vec<Sink>, Vec<Sink>) =
            self.options.sinks.iter().partition(|sink| sink.is_gated());
        let all = Shape {
            keys: 1,
            ..self.shape()
        };
        let few = Shape {
            events: all.events.min(20_000),
            ..all
        };
        let rounds = self.options.rounds();
        self.sinks(&others, "one key", all, rounds).await?;
        self.sinks(&gated, "one key", few, rounds).await
    }

    async fn sinks(&mut self, sinks: &[Sink], case: &str, shape: Shape, rounds: usize) -> Result {
        if sinks.is_empty() {
            return Ok(());
        }
        let mut dataset = self.dataset(shape).await?;
        for sink in sinks {
            let line = self
                .backlog(&[*sink])
                .compare(case, &mut dataset, rounds)
                .await;
            self.take(&format!("{case}, {sink}"), line);
        }
        Ok(())
    }

    /// With `after_delivery = "mark"`, which changes the rows: each run has a table of its own.
    async fn settle(&mut self) -> Result {
        for sink in self.brokers() {
            let mut dataset = self.dataset(self.shape()).await?;
            let sinks = [sink];
            let backlog = Backlog {
                after_delivery: "mark",
                ..self.backlog(&sinks)
            };
            let line = backlog.relay("settled by mark", &mut dataset).await;
            self.take(&format!("settled, {sink}"), line);
        }
        Ok(())
    }

    async fn three(&mut self) -> Result {
        if self.brokers() != Sink::BROKERS {
            println!("three brokers at once: skipped, for not all are among --sinks");
            return Ok(());
        }
        let mut dataset = self.dataset(self.shape()).await?;
        let rounds = self.options.rounds();
        let backlog = self.backlog(&Sink::BROKERS);
        let line = backlog.compare("base", &mut dataset, rounds).await;
        self.take("three at once", line);
        Ok(())
    }

    async fn live(&mut self) -> Result {
        for sink in self.options.sinks.clone() {
            let idle = Pace { rate: 20, batch: 1 };
            self.follow(sink, "20/s", idle).await;
            let steady = Pace {
                rate: 5_000,
                batch: 5,
            };
            self.follow(sink, "5,000/s", steady).await;
            self.climb(sink).await;
        }
        Ok(())
    }

    async fn follow(&mut self, sink: Sink, case: &str, pace: Pace) {
        let followed = self.followed(sink, pace, self.options.seconds()).await;
        let line = followed.map(|followed| followed.line(case.to_owned(), sink));
        self.take(&format!("{case}, {sink}"), line);
    }

    /// The highest rate that the relay keeps up with: ever faster, until it doesn't, or the writers don't reach it.
    async fn climb(&mut self, sink: Sink) {
        let case = "highest sustained";
        let mut pace = Pace {
            rate: 2_000,
            batch: 20,
        };
        let mut best = None;
        loop {
            let seconds = self.options.seconds().min(5);
            match self.followed(sink, pace, seconds).await {
                Ok(followed) if followed.is_sustained() => best = Some(followed),
                Ok(_) => break,
                Err(error) => {
                    self.take(&format!("{} events/s, {sink}", pace.rate), Err(error));
                    break;
                }
            }
            pace.rate = pace.rate * 3 / 2;
        }
        if let Some(best) = best {
            let line = best.line(case.to_owned(), sink);
            self.take(case, Ok(line));
        }
    }

    async fn followed(&self, sink: Sink, pace: Pace, seconds: u64) -> Result<Followed> {
        let mut dataset = self.empty().await?;
        let live = Live {
            servers: &self.servers,
            folder: &self.folder,
            sink,
            seconds,
            payload: self.shape().payload,
        };
        live.follow(&mut dataset, pace).await
    }

    fn brokers(&self) -> Vec<Sink> {
        let all = Sink::BROKERS.into_iter();
        all.filter(|sink| self.options.sinks.contains(sink))
            .collect()
    }

    pub(crate) fn backlog<'a>(&'a self, sinks: &'a [Sink]) -> Backlog<'a> {
        Backlog {
            servers: &self.servers,
            folder: &self.folder,
            sinks,
            after_delivery: "keep",
        }
    }

    /// A database with a backlog. There is one at a time.
    pub(crate) async fn dataset(&self, shape: Shape) -> Result<Dataset> {
        let mut dataset = self.empty().await?;
        dataset.fill(shape).await?;
        Ok(dataset)
    }

    /// The same without a row.
    pub(crate) async fn empty(&self) -> Result<Dataset> {
        let mut dataset = Dataset::create(&self.servers.postgres.url, "bench").await?;
        let toml = configuration(&dataset.url, "keep", &[Target::Null]);
        process::migrate(&self.folder.write("migrate.toml", &toml)?).await?;
        dataset.store_plainly().await?;
        Ok(dataset)
    }

    /// A line, or why there is none: `what` says of what.
    pub(crate) fn take(&mut self, what: &str, line: Result<Line>) {
        match line {
            Ok(line) => {
                line.print();
                self.lines.push(line);
            }
            Err(error) => {
                println!("{what}: NO FIGURE: {error}");
                self.wrong.push(what.to_owned());
            }
        }
    }
}

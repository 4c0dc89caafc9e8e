//! What this program does as a process of its own, so that its processor time and memory are its own: a relay whose sink
//! checks what it is given, and the ceiling.
//!
//! It prints `first` and `last`, and the time in microseconds, when it has published the first and the last event, answers each line of its standard
//! input with how many it has published, and ends with its input: then `checked DUPLICATES`, or `wrong WHY`.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use outbox_relay::config::Environment;
use outbox_relay::error::PublishError;
use outbox_relay::relay::CancellationToken;
use outbox_relay::sink::Message;
use outbox_relay::{Config, EventPublisher, Relay};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use crate::Result;
use crate::ceiling;
use crate::check::{Checker, Name};
use crate::target::{Target, configuration};

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// A relay with sinks that acknowledge at once.
    Relay {
        database: String,
        sinks: usize,
        /// How many there are; more than there will be while writers are at work.
        events: u64,
        /// Where to leave who came when.
        receipts: Option<PathBuf>,
    },
    Ceiling {
        database: String,
        targets: Vec<Target>,
        events: u64,
    },
}

/// What all sinks have published.
#[derive(Debug)]
struct Progress {
    published: AtomicU64,
    expected: u64,
}

impl Progress {
    fn one(&self) {
        let before = self.published.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            say_now("first");
        }
        if before + 1 == self.expected {
            say_now("last");
        }
    }
}

/// The parent may hear of it late.
fn say_now(what: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    say(&format!(
        "{what} {}",
        now.map_or(0, |time| time.as_micros())
    ));
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody reads it any more: the parent has gone.
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .ok();
}

impl Task {
    pub(crate) async fn run(self) -> Result {
        let verdict = match self {
            Self::Relay {
                database,
                sinks,
                events,
                receipts,
            } => relay(&database, sinks, events, receipts).await,
            Self::Ceiling {
                database,
                targets,
                events,
            } => ceilings(&database, targets, events).await,
        };
        match verdict {
            Ok(duplicates) => say(&format!("checked {duplicates}")),
            Err(error) => say(&format!("wrong {error}")),
        }
        Ok(())
    }
}

/// Acknowledges at once, and checks.
struct Null {
    checker: Arc<Mutex<Checker>>,
    progress: Arc<Progress>,
    receipts: Option<Arc<Mutex<Vec<(Name, SystemTime)>>>>,
}

#[async_trait]
impl EventPublisher for Null {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let name =
            Name::of(&message.body).map_err(|error| PublishError::invalid(error.to_string()))?;
        lock(&self.checker).take(name);
        if let Some(receipts) = &self.receipts {
            lock(receipts).push((name, SystemTime::now()));
        }
        self.progress.one();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn relay(
    database: &str,
    sinks: usize,
    events: u64,
    receipts: Option<PathBuf>,
) -> Result<u64> {
    let targets = vec![Target::Null; sinks];
    let toml = configuration(database, "keep", &targets);
    let config = Config::from_toml(&toml, &Environment::of_process())?.config;
    let progress = Arc::new(Progress {
        published: AtomicU64::new(0),
        expected: events * sinks as u64,
    });
    let received = receipts.is_some().then(|| Arc::new(Mutex::new(Vec::new())));
    let mut checkers = Vec::new();
    let mut builder = Relay::builder(config);
    for number in 0..sinks {
        let checker = Arc::new(Mutex::new(Checker::default()));
        checkers.push(Arc::clone(&checker));
        let null = Null {
            checker,
            progress: Arc::clone(&progress),
            receipts: received.clone(),
        };
        builder = builder.publisher(&format!("sink{number}"), null);
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn(builder.run(stop.clone()));
    answer(&progress).await?;
    stop.cancel();
    running.await??;
    if let (Some(path), Some(received)) = (receipts, received) {
        leave(&path, &lock(&received))?;
    }
    let mut duplicates = 0;
    for checker in checkers {
        let checker = lock(&checker);
        // With writers at work the parent knows how many there are.
        let expected = if events == u64::MAX {
            checker.distinct()
        } else {
            events
        };
        duplicates += checker.verdict(expected)?;
    }
    Ok(duplicates)
}

/// Answers the parent until it has heard enough.
async fn answer(progress: &Progress) -> Result {
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    while questions.next_line().await?.is_some() {
        say(&format!(
            "count {}",
            progress.published.load(Ordering::Relaxed)
        ));
    }
    Ok(())
}

fn leave(path: &PathBuf, receipts: &[(Name, SystemTime)]) -> Result {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for (Name { key, counter }, at) in receipts {
        let micros = at.duration_since(UNIX_EPOCH)?.as_micros();
        writeln!(file, "{key} {counter} {micros}")?;
    }
    Ok(file.flush()?)
}

async fn ceilings(database: &str, targets: Vec<Target>, events: u64) -> Result<u64> {
    let mut loops = JoinSet::new();
    for target in targets {
        let database = database.to_owned();
        loops.spawn(
            async move { ceiling::run(&database, target, events, || say_now("first")).await },
        );
    }
    let mut duplicates = 0;
    while let Some(ended) = loops.join_next().await {
        if let Some(checker) = ended?? {
            duplicates += checker.verdict(events)?;
        }
    }
    say_now("last");
    let idle = Progress {
        published: AtomicU64::new(0),
        expected: 0,
    };
    answer(&idle).await?;
    Ok(duplicates)
}

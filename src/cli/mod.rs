//! The command line, one file per command.
//!
//! Standard output is for results, standard error for logs and errors.

mod check;
mod columns;
mod completions;
mod dead_letters;
#[cfg(feature = "sqlite")]
mod demo;
mod emit;
mod health;
mod ledger;
mod look;
mod migrate;
mod progress;
mod replay;
mod route;
mod run;
mod schema;
mod status;
mod telemetry;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Origin, Overrides, Source};
use crate::error::{BoxError, chain};
use crate::exit::Exit;

/// How long the runtime waits for threads that are stuck in a blocked write when the process ends.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);

/// Publishes every event of an outbox table to message brokers: in order per key, at least once.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, about)]
struct Cli {
    /// The configuration; without it ./outbox.toml if it is there, else the environment alone.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = telemetry::LogFormat::Pretty)]
    log_format: telemetry::LogFormat,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay events until SIGTERM or SIGINT (what happens without a command).
    Run(run::Args),
    /// Check the configuration and say everything that is wrong with it. Starts nothing.
    #[command(alias = "validate")]
    Check(check::Args),
    /// Create the tables, or print their SQL with the privileges that each role needs.
    Migrate(migrate::Args),
    /// Say what every source and every ledger is up to, from the database: also while no relay runs.
    Status(status::Args),
    /// Ask the relay that runs by this configuration whether it is well: for a container's health check.
    Health(health::Args),
    /// Look at what the sinks have, drop or rename what is left of a sink, start anew after a restore.
    Ledger(ledger::Args),
    /// Say where an event would go, and why.
    Route(route::Args),
    /// Look at events that brokers have refused, have them delivered again, or throw them away.
    DeadLetters(dead_letters::Args),
    /// Have a sink sent once more what it was sent, by seq, time, key or type: by a relay that runs within about a
    /// second, or by the next one. No other sink is sent anything.
    Replay(replay::Args),
    /// Insert events, for trying out.
    Emit(emit::Args),
    /// Print the JSON Schema of the configuration file, for editors. Needs no configuration.
    Schema,
    /// Print what a shell needs to complete this command line. Needs no configuration.
    Completions(completions::Args),
    /// See it work: drafts in a temporary SQLite outbox, relayed to standard output. Needs no server and no file.
    #[cfg(feature = "sqlite")]
    Demo(demo::Args),
}

impl Command {
    /// What is logged unless `RUST_LOG` says otherwise.
    fn log_level(&self) -> &'static str {
        match self {
            // Its story is told by its summary.
            #[cfg(feature = "sqlite")]
            Self::Demo(_) => "warn",
            _ => "info",
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The configuration, read from there, is bad.
    Config(ConfigErrors, Origin),
    /// Something else; the chain of errors says what.
    Other(BoxError),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Clean
            };
            // Nobody is left to tell if this can't be printed.
            error.print().ok();
            return exit;
        }
    };
    let command = cli
        .command
        .unwrap_or_else(|| Command::Run(run::Args::default()));
    telemetry::init(cli.log_format, command.log_level());
    // One crypto provider for every connection. It fails only if there is one already.
    #[cfg(any(feature = "postgres", feature = "nats"))]
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(Failure::Other(error.into())),
    };
    let result = runtime.block_on(Box::pin(execute(command, cli.config)));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result.map_or_else(failed, |()| Exit::Clean)
}

async fn execute(command: Command, file: Option<PathBuf>) -> Result<(), Failure> {
    let unconfigured = match &command {
        #[cfg(feature = "sqlite")]
        Command::Demo(args) => Some(demo::run(args).await),
        Command::Schema => Some(schema::run()),
        Command::Completions(args) => Some(completions::run(args)),
        _ => None,
    };
    if let Some(result) = unconfigured {
        return result.map_err(Failure::Other);
    }
    let origin = Origin::find(file.as_deref());
    let loaded = origin
        .load(&Overrides::none())
        .map_err(|errors| Failure::Config(errors, origin.clone()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config;
    match command {
        Command::Run(args) => run::run(config, origin, args).await,
        Command::Check(args) => check::run(&config, &args).await,
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::Status(args) => status::run(&config, &args).await,
        Command::Health(args) => health::run(&config, &args).await,
        Command::Ledger(args) => ledger::run(&config, &args).await,
        Command::Route(args) => route::run(&config, &args),
        Command::DeadLetters(args) => dead_letters::run(&config, &args).await,
        Command::Replay(args) => replay::run(&config, &args).await,
        Command::Emit(args) => emit::run(&config, &args).await,
        // Done above.
        #[cfg(feature = "sqlite")]
        Command::Demo(_) => Ok(()),
        Command::Schema | Command::Completions(_) => Ok(()),
    }
    .map_err(Failure::Other)
}

fn failed(failure: Failure) -> Exit {
    match failure {
        Failure::Config(errors, origin) => {
            say_error(&errors.to_string());
            if origin == Origin::Environment {
                say_error(
                    "there is no ./outbox.toml, so the environment alone was read: --config names a file elsewhere",
                );
            }
            Exit::Config
        }
        // Whoever read the results has seen enough: `| head`.
        Failure::Other(error) if is_broken_pipe(&*error) => Exit::Failure,
        Failure::Other(error) => {
            say_error(&format!("error: {}", chain(&*error)));
            Exit::Failure
        }
    }
}

/// The source that `--source` names.
fn named<'a>(config: &'a Config, source: &str) -> Result<&'a Source, BoxError> {
    let source = config.source(source);
    source.map_err(|error| format!("--source: {error}").into())
}

/// `1 event`, `2 events`.
fn number_of(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A line of results.
fn say(line: &str) -> Result<(), std::io::Error> {
    writeln!(std::io::stdout(), "{line}")
}

fn say_error(text: &str) {
    // Nobody is left to tell if this can't be printed.
    writeln!(std::io::stderr(), "{}", text.trim_end()).ok();
}

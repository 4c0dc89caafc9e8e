//! The command line, one file per command.
//!
//! Standard output is for results, standard error for logs and errors.

mod check;
mod emit;
mod migrate;
mod progress;
mod run;
mod status;
mod telemetry;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Overrides};
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
    /// Insert events, for trying out.
    Emit(emit::Args),
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The configuration is bad.
    Config(ConfigErrors),
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
    telemetry::init(cli.log_format);
    // One crypto provider for every connection. It fails only if there is one already.
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
    let result = runtime.block_on(Box::pin(execute(cli)));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    result.map_or_else(failed, |()| Exit::Clean)
}

async fn execute(cli: Cli) -> Result<(), Failure> {
    let command = cli
        .command
        .unwrap_or_else(|| Command::Run(run::Args::default()));
    let loaded =
        Config::load(cli.config.as_deref(), &Overrides::none()).map_err(Failure::Config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config;
    match command {
        Command::Run(args) => run::run(config, args).await,
        Command::Check(args) => check::run(&config, &args).await,
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::Status(args) => status::run(&config, &args).await,
        Command::Emit(args) => emit::run(&config, &args).await,
    }
    .map_err(Failure::Other)
}

fn failed(failure: Failure) -> Exit {
    match failure {
        Failure::Config(errors) => {
            say_error(&errors.to_string());
            Exit::Config
        }
        Failure::Other(error) => {
            say_error(&format!("error: {}", chain(&*error)));
            Exit::Failure
        }
    }
}

/// A line of results.
fn say(line: &str) -> Result<(), std::io::Error> {
    writeln!(std::io::stdout(), "{line}")
}

fn say_error(text: &str) {
    // Nobody is left to tell if this can't be printed.
    writeln!(std::io::stderr(), "{}", text.trim_end()).ok();
}

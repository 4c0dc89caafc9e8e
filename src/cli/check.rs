//! `check`: what is wrong with the configuration, without starting anything.

use clap::Args as ClapArgs;

use super::say;
use crate::config::{Config, SinkKind};
use crate::error::{BoxError, chain};
use crate::relay;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Also connect to every source and every broker, and look at what is there.
    #[arg(long)]
    connect: bool,
}

/// Something could not be reached, or is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the connections failed, see above")]
struct ConnectionsFailed(usize);

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    say(&format!(
        "the configuration is valid: {}, {}",
        counted(config.sources.len(), "source"),
        counted(config.sinks.len(), "sink")
    ))?;
    if !args.connect {
        return Ok(());
    }
    let mut failures = 0;
    for name in config.sources.keys() {
        let result = match relay::open(config, name) {
            Ok(source) => source.inspect().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => say(&format!("source {name}: reached, its tables are fit"))?,
            Err(error) => {
                failures += 1;
                say(&format!("source {name}: {}", chain(&error)))?;
            }
        }
    }
    for (name, sink) in &config.sinks {
        match probe(&sink.kind).await {
            Ok(findings) if findings.is_empty() => say(&format!("sink {name}: reached"))?,
            Ok(findings) => say(&format!("sink {name}: reached; {}", findings.join("; ")))?,
            Err(error) => {
                failures += 1;
                say(&format!("sink {name}: {}", chain(&*error)))?;
            }
        }
    }
    if failures > 0 {
        return Err(ConnectionsFailed(failures).into());
    }
    Ok(())
}

/// Connects to a broker and says what is worth knowing of it.
async fn probe(kind: &SinkKind) -> Result<Vec<String>, BoxError> {
    match kind {
        SinkKind::Stdout | SinkKind::Mock(_) => Ok(Vec::new()),
        #[cfg(feature = "nats")]
        SinkKind::Jetstream(jetstream) => Ok(crate::sink::jetstream::probe(jetstream).await?),
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

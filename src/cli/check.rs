//! `check`: what is wrong with the configuration, without starting anything.

use clap::Args as ClapArgs;

use super::{number_of, say};
use crate::config::{Config, Routing, Sink, SinkKind};
use crate::error::{BoxError, chain};
use crate::relay;
use crate::route::Overlooked;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Also connect to every source and every broker, and look at what is there.
    #[arg(long)]
    connect: bool,
}

/// Something could not be reached, or is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the sources and sinks could not be reached or are not fit, see above")]
struct NotFit(usize);

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    say(&format!(
        "the configuration is valid: {}, {}",
        number_of(config.sources.len() as u64, "source"),
        number_of(config.sinks.len() as u64, "sink")
    ))?;
    for overlooked in config.routing.iter().flat_map(Routing::overlooked) {
        say(&said(&overlooked))?;
    }
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
            Ok(()) => {
                say(&format!("source {name}: reached, its tables are fit"))?;
                for reason in relay::cannot_join(config, name).await {
                    failures += 1;
                    say(&reason)?;
                }
            }
            Err(error) => {
                failures += 1;
                say(&format!("source {name}: {}", chain(&error)))?;
            }
        }
    }
    for (name, sink) in &config.sinks {
        match probe(config, sink).await {
            Ok(findings) if findings.is_empty() => say(&format!("sink {name}: reached"))?,
            Ok(findings) => say(&format!("sink {name}: reached; {}", findings.join("; ")))?,
            Err(error) => {
                failures += 1;
                say(&format!("sink {name}: {}", chain(&*error)))?;
            }
        }
    }
    if failures > 0 {
        return Err(NotFit(failures).into());
    }
    Ok(())
}

fn said(overlooked: &Overlooked) -> String {
    let Overlooked {
        route,
        event_types,
        sink,
        later,
    } = overlooked;
    let event_types = event_types.join(", ");
    format!(
        "routes[{route}]: {sink} gets none of {event_types}, which routes[{later}] alone would send there"
    )
}

/// Connects to a broker and says what is worth knowing of it.
#[cfg_attr(not(feature = "rabbitmq"), allow(unused_variables))] // it alone looks at destinations
async fn probe(config: &Config, sink: &Sink) -> Result<Vec<String>, BoxError> {
    match &sink.kind {
        SinkKind::Stdout | SinkKind::Mock(_) => Ok(Vec::new()),
        #[cfg(feature = "nats")]
        SinkKind::Jetstream(jetstream) => Ok(crate::sink::jetstream::probe(jetstream).await?),
        #[cfg(feature = "nats")]
        SinkKind::Nats(nats) => Ok(crate::sink::nats::probe(nats).await?),
        #[cfg(feature = "rabbitmq")]
        SinkKind::Rabbitmq(rabbitmq) => {
            let routes = config.routing.iter().flat_map(|routing| &routing.routes);
            let routed = routes.filter_map(|route| route.to.get(&sink.name));
            let destinations: Vec<_> = sink.default_destination.iter().chain(routed).collect();
            Ok(crate::sink::rabbitmq::probe(rabbitmq, &destinations).await?)
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => Ok(crate::sink::kafka::probe(kafka).await?),
    }
}

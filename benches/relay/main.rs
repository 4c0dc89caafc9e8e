//! How fast the relay is, what that costs, and how near it is to a bare loop.
//!
//!     cargo bench --bench relay                   everything, in a quarter of an hour
//!     cargo bench --bench relay -- --quick        in two
//!     cargo bench --bench relay -- --help
//!
//! Starts PostgreSQL and the brokers itself. Each run is checked: every event must be at the consumer, in order per key,
//! or there is no figure. `BENCHMARKS.md` has what came out.

#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]
#![allow(
    clippy::large_futures,
    clippy::large_enum_variant,
    reason = "there is one of each at a time"
)]
#![allow(unreachable_pub, reason = "a program has no other users")]

mod backlog;
mod broker;
mod ceiling;
mod check;
mod dataset;
mod figures;
mod growth;
mod live;
mod options;
mod process;
mod servers;
mod sink;
mod suite;
mod target;
mod task;
mod usage;
mod writers;

use clap::Parser as _;

use crate::options::Options;
use crate::suite::Suite;
use crate::task::Task;

/// As the program has: of relay and ceiling alike.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T = (), E = Error> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result {
    let options = Options::parse();
    if let Some(task) = &options.task {
        return serde_json::from_str::<Task>(task)?.run().await;
    }
    Suite::start(options)?.run().await
}

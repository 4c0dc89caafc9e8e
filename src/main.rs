//! The `outbox-relay` command: see `outbox_relay::cli`.

use std::process::ExitCode;

/// About a fifth of what an event costs is memory that one task asks for and another gives back: see BENCHMARKS.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outbox_relay::cli::main().into()
}

//! The `outbox-relay` command: see `outbox_relay::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outbox_relay::cli::main().into()
}

//! How the process ends.

use std::process::ExitCode;

/// Exit codes, for whoever started the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything went well.
    Clean = 0,
    /// Something failed that a restart may or may not mend.
    Failure = 1,
    /// The command line can't be understood.
    Usage = 2,
    /// The configuration is bad: a restart changes nothing (`EX_CONFIG`).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

//! Configuration: as typed → loaded and interpolated → validated.
//!
//! Everything outside this module sees [`Config`] and its parts only. The way there:
//!
//! 1. `document` parses the file, knows the line of each value, and fills in `${VAR}` (`interpolate`).
//! 2. `layers` merges: flags > `OUTBOX__A__B` variables > the file > plain variables such as `DATABASE_URL`.
//! 3. `read` makes the structs of `typed` of it, one `table` at a time, and finds every key that is unknown or
//!    of the wrong kind.
//! 4. `validate` makes the [`Config`] of those.
//!
//! Each step goes on after an error, so that one look shows all of them. No error repeats a value that may be a
//! secret: only what stands literally in the file under a key that holds no secret is ever quoted.

mod availability;
mod contents;
mod document;
mod environment;
mod finding;
mod interpolate;
mod layers;
mod nearest;
mod plain;
mod quantity;
mod read;
mod references;
mod report;
mod schema;
mod secret;
mod table;
mod typed;
mod validate;
mod validated;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use contents::Contents;
pub use environment::{Environment, Overrides};
pub use finding::{ConfigErrors, Finding, KeyPath, Place};
pub use schema::schema;
pub use secret::Secret;
pub use validated::*;

pub(crate) use quantity::parse_duration;
pub(crate) use references::NoSource;
use report::Report;
pub(crate) use validate::parse_name;

/// The file that is read if no other is named and it is there.
pub const DEFAULT_FILE: &str = "outbox.toml";

/// A configuration that can be run, and what its author may want to know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Keys that do nothing, sinks that get nothing.
    pub warnings: Vec<Finding>,
}

/// Where a configuration is read from: found out once, so that it is read anew from the same place, even if the
/// file is gone by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This file, and the environment.
    File(PathBuf),
    /// The environment alone.
    Environment,
}

impl Origin {
    /// The file at `path`, or `./outbox.toml` if there is one, or else the environment alone.
    #[must_use]
    pub fn find(path: Option<&Path>) -> Self {
        let default = Path::new(DEFAULT_FILE);
        match path {
            Some(path) => Self::File(path.to_owned()),
            None if default.exists() => Self::File(default.to_owned()),
            None => Self::Environment,
        }
    }

    /// Reads the configuration, with the environment of this process.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn load(&self, overrides: &Overrides) -> Result<Loaded, ConfigErrors> {
        let env = Environment::of_process();
        match self {
            Self::File(path) => Config::from_file(path, overrides, &env),
            Self::Environment => Config::from_environment(overrides, &env),
        }
    }
}

impl Config {
    /// Reads the file at `path`, or `./outbox.toml` if there is one, or else the environment alone; with the
    /// environment of this process.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Loaded, ConfigErrors> {
        Origin::find(path).load(overrides)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn from_file(
        path: &Path,
        overrides: &Overrides,
        env: &Environment,
    ) -> Result<Loaded, ConfigErrors> {
        match interpolate::read_bounded(path) {
            Ok(text) => load(
                Some((&text, Some(&path.display().to_string()))),
                overrides,
                env,
            ),
            Err(message) => {
                let mut report = Report::default();
                report.error(&KeyPath::root(), message);
                Err(ConfigErrors::new(report.into_findings().0))
            }
        }
    }

    /// Reads `text` as if it stood in a file.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn from_toml(text: &str, env: &Environment) -> Result<Loaded, ConfigErrors> {
        load(Some((text, None)), &Overrides::none(), env)
    }

    /// One source and one sink, described by the environment alone.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn from_environment(
        overrides: &Overrides,
        env: &Environment,
    ) -> Result<Loaded, ConfigErrors> {
        load(None, overrides, env)
    }
}

/// `file` is its text, and its name if it has one.
fn load(
    file: Option<(&str, Option<&str>)>,
    overrides: &Overrides,
    env: &Environment,
) -> Result<Loaded, ConfigErrors> {
    let mut report = Report::default();
    let mut document = None;
    if let Some((text, name)) = file {
        document = document::parse(text, name, env, &mut report);
        if document.is_none() {
            return Err(ConfigErrors::new(report.into_findings().0));
        }
    }
    let merged = layers::merge(document.as_ref(), env, overrides, &mut report);
    let typed = read::read(merged, &mut report);
    let config = validate::validate(&typed, &mut report);
    let (errors, warnings) = report.into_findings();
    config
        .filter(|_| errors.is_empty())
        .map(|config| Loaded {
            config,
            warnings: finding::sorted(warnings),
        })
        .ok_or_else(|| ConfigErrors::new(errors))
}

//! `schema`: the JSON Schema of the configuration file, for editors.

use super::say;
use crate::config::schema;
use crate::error::BoxError;

pub(super) fn run() -> Result<(), BoxError> {
    say(&serde_json::to_string_pretty(&schema())?)?;
    Ok(())
}

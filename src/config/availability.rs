//! What this build can't do yet: every "not available in this build" is said here, and nowhere else.

/// The mode of a source that names none.
pub(super) const DEFAULT_MODE: &str = "notify";

/// Why `what` (`type "kafka"`) can't be had, and what can.
fn not_in_this_build(what: &str, instead: &str) -> String {
    format!("{what} is not available in this build{instead}")
}

/// Whether a source of this known type can be run.
pub(super) fn source_type(name: &str) -> Result<(), String> {
    if (name == "postgres" && cfg!(feature = "postgres"))
        || (name == "sqlite" && cfg!(feature = "sqlite"))
    {
        return Ok(());
    }
    Err(not_in_this_build(
        &format!("type `{name}`"),
        &format!(", which was made without the feature `{name}`: use one that has it"),
    ))
}

/// Whether a sink of this known type can be run.
pub(super) fn sink_type(name: &str) -> Result<(), String> {
    match name {
        "stdout" | "mock" => Ok(()),
        "jetstream" if cfg!(feature = "nats") => Ok(()),
        "jetstream" => Err(not_in_this_build(
            "type `jetstream`",
            ", which was made without the feature `nats`: use one that has it",
        )),
        _ => Err(not_in_this_build(
            &format!("type `{name}`"),
            if cfg!(feature = "nats") {
                ": use jetstream, stdout or mock"
            } else {
                ": use stdout or mock"
            },
        )),
    }
}

/// Whether bodies can be made in this known format.
pub(super) fn envelope_format(name: &str) -> Result<(), String> {
    match name {
        "json" | "raw" => Ok(()),
        _ => Err(not_in_this_build(
            &format!("format `{name}`"),
            ": use json or raw",
        )),
    }
}

//! What this build can't do, for it was made without a feature: said here, and nowhere else.

/// Whether a source of this known type can be run.
pub(super) fn source_type(name: &str) -> Result<(), String> {
    match name {
        "sqlite" => built_with("sqlite", cfg!(feature = "sqlite"), name),
        _ => built_with("postgres", cfg!(feature = "postgres"), name),
    }
}

/// Whether a sink of this known type can be run.
pub(super) fn sink_type(name: &str) -> Result<(), String> {
    match name {
        "stdout" | "mock" => Ok(()),
        "jetstream" | "nats" => built_with("nats", cfg!(feature = "nats"), name),
        "rabbitmq" => built_with("rabbitmq", cfg!(feature = "rabbitmq"), name),
        _ => built_with("kafka", cfg!(feature = "kafka"), name),
    }
}

fn built_with(feature: &str, is_there: bool, kind: &str) -> Result<(), String> {
    if is_there {
        return Ok(());
    }
    Err(format!(
        "type `{kind}` is not available in this build, which was made without the feature `{feature}`: use one that \
         has it"
    ))
}

//! Where to publish to, in words that a process can be told.

use serde::{Deserialize, Serialize};

/// A destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    Null,
    Jetstream { url: String, prefix: String },
    Rabbitmq { url: String, queue: String },
    Kafka { brokers: String, topic: String },
}

impl Target {
    /// The keys of its table in the relay's configuration.
    fn toml(&self) -> String {
        match self {
            Self::Null => "type = \"mock\"\n".to_owned(),
            Self::Jetstream { url, prefix } => {
                format!(
                    "type = \"jetstream\"\nurl = \"{url}\"\nsubject = \"{prefix}.{{event_type}}\"\n"
                )
            }
            Self::Rabbitmq { url, queue } => {
                format!("type = \"rabbitmq\"\nurl = \"{url}\"\nqueue = \"{queue}\"\n")
            }
            Self::Kafka { brokers, topic } => {
                format!("type = \"kafka\"\nbrokers = [\"{brokers}\"]\ntopic = \"{topic}\"\n")
            }
        }
    }
}

/// A relay's configuration: defaults, but for where things are and `after_delivery`.
pub(crate) fn configuration(database: &str, after_delivery: &str, targets: &[Target]) -> String {
    let mut toml = format!(
        "[sources.bench]\ntype = \"postgres\"\nurl = \"{database}\"\nafter_delivery = \"{after_delivery}\"\n"
    );
    for (number, target) in targets.iter().enumerate() {
        toml.push_str(&format!("[sinks.sink{number}]\n{}", target.toml()));
    }
    toml
}

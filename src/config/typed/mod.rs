//! The configuration as typed: one struct per table, every key optional, nothing checked but names and kinds.
//!
//! The documentation of each field is what the JSON Schema says about its key.

mod sink;
mod source;
mod text;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use sink::*;
pub(super) use source::*;
pub(super) use text::{ColumnName, DurationText, List, SizeText, To, ToTable};

use super::Secret;

/// The whole file but for `[sources]`, `[sinks]` and `[[routes]]`, whose members are read one by one.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Root {
    /// The process as a whole.
    pub(super) relay: Relay,
    /// The HTTP endpoints. Without this table nothing listens.
    pub(super) admin: Option<Admin>,
    /// Retries of every sink; `[sinks.NAME.retry]` overrides them key by key.
    pub(super) retry: Retry,
    /// What bodies look like at every sink; `[sinks.NAME.envelope]` overrides it key by key.
    pub(super) envelope: Envelope,
    /// How events find their sinks, beside `[[routes]]`.
    pub(super) routing: Option<Routing>,
}

/// `[relay]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Relay {
    /// Leases and ledgers are kept under this name, and replicas share it: one that is renamed finds no ledgers.
    /// Default "outbox-relay".
    pub(super) name: Option<String>,
    /// How long a stop may wait for acknowledgements. Default "30s": what Kubernetes waits before it kills.
    pub(super) shutdown_timeout: Option<DurationText>,
}

/// `[admin]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// Address and port of the endpoints. Default "127.0.0.1:8080": nobody but this machine.
    pub(super) listen: Option<String>,
    /// What a request that changes state must present. Default: none, and such requests are refused.
    pub(super) token: Option<Secret>,
    /// Whether /healthz, /readyz, /status and the status page (/) answer. Default true.
    pub(super) health: Option<bool>,
    /// Whether /metrics answers. Default true.
    pub(super) metrics: Option<bool>,
}

/// `[retry]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// Attempts after the first, of rejections, before an event is a dead letter; outages and full destinations don't count.
    /// Default 3.
    pub(super) max_retries: Option<u32>,
    /// Delay before the second attempt; it doubles from there, with jitter. Default "1s".
    pub(super) initial_delay: Option<DurationText>,
    /// The longest delay, also during an outage: so long may a broker be back unnoticed. Default "30s".
    pub(super) max_delay: Option<DurationText>,
}

/// `[envelope]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Envelope {
    /// The body's format: json (an object around the payload), raw (the payload as stored), cloudevents (a JSON
    /// event) or cloudevents-binary (the payload as stored, the attributes in headers). Default "json".
    #[schemars(extend("enum" = ["json", "raw", "cloudevents", "cloudevents-binary"]))]
    pub(super) format: Option<String>,
    /// Name of the json format's key that holds the aggregate id. Default "aggregateId".
    pub(super) aggregate_field: Option<String>,
    /// CloudEvents' source, a URI reference that says who produced the event. Default: "/" and the relay's name.
    pub(super) source: Option<String>,
}

/// `[routing]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Routing {
    /// What becomes of an event that no route matches: dead-letter (it waits for you) or skip (it counts as
    /// delivered). No default: with routes, either this or a route for "*" must be there.
    #[schemars(extend("enum" = ["dead-letter", "skip"]))]
    pub(super) unrouted: Option<String>,
}

/// `[[routes]]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    /// An event type, or a pattern such as "Draft*", or a list of them: any may match. Required.
    pub(super) event_type: Option<List>,
    /// Destinations by sink: true for the sink's default destination, or where else. A sink that is not named
    /// skips the event. Required.
    pub(super) to: Option<BTreeMap<String, To>>,
}

/// `[….tls]`: files in PEM format.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    /// The authorities to trust, in place of the system's. Default: the system's.
    pub(super) ca: Option<String>,
    /// The client's certificate, where the server wants one. Default: none.
    pub(super) cert: Option<String>,
    /// The key of the client's certificate. Default: none.
    pub(super) key: Option<String>,
}

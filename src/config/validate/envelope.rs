//! `[envelope]` and `[sinks.NAME.envelope]`.

use super::relay_name;
use super::scalar::choice;
use crate::config::finding::KeyPath;
use crate::config::read::Typed;
use crate::config::report::Report;
use crate::config::typed::{self, SinkKind};
use crate::config::validated::{Binding, Envelope, Format};

/// Keys of the json envelope that are taken.
const TAKEN: [&str; 4] = ["eventId", "eventType", "timestamp", "payload"];

/// A format as it is written; which binding the last one means depends on the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Json,
    Raw,
    CloudEvents,
    CloudEventsBinary,
}

const FORMATS: [(&str, Name); 4] = [
    ("json", Name::Json),
    ("raw", Name::Raw),
    ("cloudevents", Name::CloudEvents),
    ("cloudevents-binary", Name::CloudEventsBinary),
];

/// The sink's own keys at `path`, and where they are not set the shared ones.
pub(super) fn envelope(
    path: &KeyPath,
    sink: &typed::Sink,
    typed: &Typed,
    report: &mut Report,
) -> Envelope {
    let (own, shared) = (&sink.common.envelope, &typed.root.envelope);
    let shared_path = KeyPath::root().key("envelope");
    let key = |name: &str, is_own: bool| if is_own { path } else { &shared_path }.key(name);
    let format_path = key("format", own.format.is_some());
    let given = own.format.as_deref().or(shared.format.as_deref());
    let name = choice(report, &format_path, given, &FORMATS).unwrap_or(Name::Json);
    let format = match name {
        Name::Json => Format::Json,
        Name::Raw => Format::Raw,
        Name::CloudEvents => Format::CloudEvents,
        Name::CloudEventsBinary => binary(&format_path, path, sink, report),
    };
    let field_path = key("aggregate_field", own.aggregate_field.is_some());
    let field = own
        .aggregate_field
        .as_ref()
        .or(shared.aggregate_field.as_ref());
    let source_path = key("source", own.source.is_some());
    let source = own.source.as_ref().or(shared.source.as_ref());
    if own.aggregate_field.is_some() && name != Name::Json {
        report.warn(
            &field_path,
            "does nothing: only the format json has this key",
        );
    }
    if own.source.is_some() && matches!(name, Name::Json | Name::Raw) {
        report.warn(
            &source_path,
            "does nothing: only cloudevents and cloudevents-binary have a source",
        );
    }
    Envelope {
        format,
        aggregate_field: aggregate_field(&field_path, field, report),
        source: match source {
            Some(source) => uri_reference(&source_path, source, report),
            // Stable wherever the relay runs, and letters that a path may have.
            None => format!("/{}", relay_name(&typed.root.relay)),
        },
    }
}

/// The binding of the sink's broker; `path` is that of the sink's own table.
fn binary(
    format_path: &KeyPath,
    path: &KeyPath,
    sink: &typed::Sink,
    report: &mut Report,
) -> Format {
    let binding = match &sink.kind {
        Some(SinkKind::Jetstream(_) | SinkKind::Nats(_)) => Binding::Nats,
        Some(SinkKind::Rabbitmq(_)) => Binding::Amqp,
        // A mock looks at no header, and a publisher of the program's own finds plain values.
        Some(SinkKind::Kafka(_) | SinkKind::Mock(_)) | None => Binding::Kafka,
        Some(SinkKind::Stdout(_)) => {
            let own = path.key("format");
            report.error(
                format_path,
                format!(
                    "puts what an event is into headers, and standard output has none: set {own} = \"cloudevents\""
                ),
            );
            Binding::Kafka
        }
    };
    Format::CloudEventsBinary(binding)
}

fn aggregate_field(path: &KeyPath, given: Option<&String>, report: &mut Report) -> String {
    let field = given.map_or("aggregateId", String::as_str);
    if field.is_empty() {
        report.error(
            path,
            "is empty: name the key that is to hold the aggregate id",
        );
    }
    if TAKEN.contains(&field) {
        let taken = TAKEN.join(", ");
        report.error(
            path,
            format!("is a key that the envelope has already ({taken}): choose another"),
        );
    }
    field.to_owned()
}

/// A URI reference as far as its characters tell (RFC 3986, section 2).
fn uri_reference(path: &KeyPath, source: &str, report: &mut Report) -> String {
    let is_allowed = |c: char| c.is_ascii_graphic() && !r#""<>\^`{|}"#.contains(c);
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if source.is_empty() {
        report.error(
            path,
            "is empty: say who produces the events, such as \"/orders\"",
        );
    } else if !source.chars().all(is_allowed) || !source.split('%').skip(1).all(is_escape) {
        let quoted = report.quote(path, source);
        report.error(
            path,
            format!(
                "{quoted} is no URI reference: write one such as \"/orders\" or \"https://example.com/orders\", \
                 other characters percent-encoded"
            ),
        );
    }
    source.to_owned()
}

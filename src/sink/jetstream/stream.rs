//! The stream that captures the sink's subjects: found, compared, created if it isn't there, never changed.

use async_nats::HeaderValue;
use async_nats::jetstream::context::{
    CreateStreamErrorKind, GetStreamByNameErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};

use crate::config::JetstreamStream;
use crate::sink::connect::ConnectError;

/// Creates the stream unless it is there, or another captures all of its subjects. Warns where what is there differs
/// from what is wanted.
pub(super) async fn ensure(
    context: &Context,
    wanted: &JetstreamStream,
) -> Result<(), ConnectError> {
    checked_name("stream.name", &wanted.name)?;
    if let Some(existing) = find(context, &wanted.name).await? {
        for difference in differences(wanted, &existing) {
            tracing::warn!(
                stream = wanted.name,
                difference,
                "jetstream stream is not as configured and is left as it is"
            );
        }
        return Ok(());
    }
    // A second relay that creates the same stream at the same time gets the same answer.
    let Err(error) = context.create_stream(configuration(wanted)).await else {
        tracing::info!(stream = wanted.name, "created jetstream stream");
        return Ok(());
    };
    if let Some(other) = captor(context, wanted).await? {
        tracing::warn!(
            stream = wanted.name,
            captured_by = other,
            "jetstream stream is not created, for another captures its subjects"
        );
        return Ok(());
    }
    Err(explain_creation(wanted, error))
}

/// Another stream that captures everything that `wanted` is to capture, if there is one. No two streams can capture
/// the same subject.
async fn captor(
    context: &Context,
    wanted: &JetstreamStream,
) -> Result<Option<String>, ConnectError> {
    let Some(first) = wanted.subjects.first() else {
        return Ok(None);
    };
    let name = match context.stream_by_subject(first).await {
        Ok(name) => name,
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(away().caused_by(error)),
    };
    let captures = |existing: &Config| {
        let mut subjects = wanted.subjects.iter();
        subjects.all(|subject| existing.subjects.iter().any(|p| covers(p, subject)))
    };
    let existing = find(context, &name).await?;
    Ok(existing
        .is_some_and(|existing| captures(&existing))
        .then_some(name))
}

/// For `check --connect`: whether the stream is there, and where it differs, in sentences.
pub(super) async fn compare(
    context: &Context,
    wanted: &JetstreamStream,
) -> Result<Vec<String>, ConnectError> {
    let name = &wanted.name;
    checked_name("stream.name", name)?;
    let Some(existing) = find(context, name).await? else {
        let other = captor(context, wanted).await?;
        let what_then = other.map_or("it will be created at the start".to_owned(), |other| {
            format!("{other} captures its subjects, so none will be created")
        });
        return Ok(vec![format!("stream {name} is not there: {what_then}")]);
    };
    let mut findings = vec![format!("stream {name} is there")];
    findings.extend(
        differences(wanted, &existing)
            .into_iter()
            .map(|difference| format!("stream {name}: {difference}")),
    );
    Ok(findings)
}

/// Asks JetStream for a sign of life, with the question that the sink asks when nobody answers a publish: the
/// relay needs the permission for it.
pub(super) async fn answers(context: &Context) -> Result<(), ConnectError> {
    match context.stream_by_subject("outbox-relay.check").await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => Ok(()),
        Err(error) => Err(away().caused_by(error)),
    }
}

/// The configuration of a stream that is there.
pub(super) async fn find(context: &Context, name: &str) -> Result<Option<Config>, ConnectError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal)
                if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(away().caused_by(error)),
        },
    }
}

/// A stream's name as a header's value, if it can be a stream's name.
pub(super) fn checked_name(key: &'static str, name: &str) -> Result<HeaderValue, ConnectError> {
    let unusable = || {
        let problem = format!("{name:?} can't be a stream's name: letters, digits, - and _ can");
        ConnectError::config(key, problem)
    };
    let breaks = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if name.is_empty() || name.contains(breaks) {
        return Err(unusable());
    }
    name.parse().map_err(|error| unusable().caused_by(error))
}

/// Whether every subject that `subject` stands for (itself a pattern, perhaps) is matched by `pattern`.
pub(super) fn covers(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(part)) if part != ">" => (),
            (token, Some(part)) if token == part => (),
            _ => return false,
        }
    }
    subject.next().is_none()
}

fn away() -> ConnectError {
    ConnectError::unavailable(
        "JetStream does not answer; is it enabled for this account, and may the relay use $JS.API.> and _INBOX.>?",
    )
}

fn configuration(wanted: &JetstreamStream) -> Config {
    Config {
        name: wanted.name.clone(),
        subjects: wanted.subjects.clone(),
        num_replicas: wanted.replicas,
        storage: if wanted.file_storage {
            StorageType::File
        } else {
            StorageType::Memory
        },
        duplicate_window: wanted.duplicate_window,
        // Zero and -1 are JetStream's "no limit".
        max_age: wanted.max_age.unwrap_or_default(),
        max_bytes: wanted
            .max_bytes
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ..Config::default()
    }
}

/// What the operator should know about a stream that isn't as it is wanted.
fn differences(wanted: &JetstreamStream, existing: &Config) -> Vec<String> {
    let mut found: Vec<String> = wanted
        .subjects
        .iter()
        .filter(|subject| {
            !existing
                .subjects
                .iter()
                .any(|pattern| covers(pattern, subject))
        })
        .map(|subject| format!("does not capture {subject}"))
        .collect();
    if existing.num_replicas != wanted.replicas {
        found.push(format!(
            "has {} replicas, not {}",
            existing.num_replicas, wanted.replicas
        ));
    }
    if existing.duplicate_window != wanted.duplicate_window {
        found.push(format!(
            "remembers ids for {:?}, not {:?}",
            existing.duplicate_window, wanted.duplicate_window
        ));
    }
    if existing.no_ack {
        found.push("acknowledges nothing (no_ack): every publish will time out".to_owned());
    }
    found
}

fn explain_creation(
    wanted: &JetstreamStream,
    error: jetstream::context::CreateStreamError,
) -> ConnectError {
    let name = &wanted.name;
    match error.kind() {
        CreateStreamErrorKind::JetStream(refusal) if is_final(&refusal) => {
            let problem = format!("JetStream refuses to create {name} like this");
            ConnectError::config("stream", problem).caused_by(error)
        }
        CreateStreamErrorKind::JetStreamUnavailable => away().caused_by(error),
        _ => ConnectError::unavailable(format!("can't create the JetStream stream {name}"))
            .caused_by(error),
    }
}

/// Whether the stream as configured can't be created however long one waits. Peers that are missing may come,
/// and an account's limits may be raised; a server that is alone has no replicas.
fn is_final(refusal: &jetstream::Error) -> bool {
    match refusal.error_code() {
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => true,
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => false,
        _ => refusal.code() == 400,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn patterns_cover_subjects_and_narrower_patterns() {
        for (pattern, subject) in [
            ("a", "a"),
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("a.*", "a.*"),
            ("a.>", "a.b.c"),
            ("a.>", "a.*.c"),
            ("a.>", "a.>"),
            (">", "a"),
            ("*.b", "a.b"),
        ] {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("a", "b"),
            ("a", "a.b"),
            ("a.b", "a"),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("a.*", "a.>"),
            ("a.>", "a"),
            ("a.b", "a.*"),
            ("a.b.>", "a.>"),
        ] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn every_difference_is_named() {
        let wanted = JetstreamStream {
            name: "DRAFT".into(),
            subjects: vec!["draft.>".into(), "audit".into()],
            replicas: 3,
            file_storage: true,
            duplicate_window: Duration::from_secs(120),
            max_age: None,
            max_bytes: Some(u64::MAX),
        };
        assert!(differences(&wanted, &configuration(&wanted)).is_empty());
        assert_eq!(configuration(&wanted).max_bytes, i64::MAX);
        let other = Config {
            subjects: vec!["draft.*".into(), "audit".into()],
            num_replicas: 1,
            duplicate_window: Duration::from_secs(10),
            no_ack: true,
            ..Config::default()
        };
        let found = differences(&wanted, &other);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "does not capture draft.>");
    }

    #[test]
    fn names_that_would_break_a_frame_are_refused() {
        checked_name("stream.name", "DRAFT-2_x").expect("a name");
        for name in ["", "a b", "a.b", "a*", ">", "a\r\nb", "a/b"] {
            checked_name("stream.name", name).expect_err(name);
        }
    }
}

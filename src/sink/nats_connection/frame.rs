//! The last line of defence before the wire: subjects and headers that would break a protocol frame, choose a
//! destination that no template meant, or give the server an order, make no message.

use async_nats::{HeaderMap, HeaderName, HeaderValue, header};

use crate::error::PublishError;
use crate::sink::Message;

/// Longest subject in bytes. The server closes the connection, and with it all that is in flight, when the line
/// that names the subject exceeds `max_control_line` (4,096 bytes by default).
const MAX_SUBJECT: usize = 2_048;

/// Subjects that are the server's own.
const RESERVED_SUBJECTS: [&str; 2] = ["$JS", "$SYS"];

/// Headers that begin like this, in whatever case, are orders to the server: `Nats-Rollup` deletes messages.
const RESERVED_HEADERS: &str = "nats-";

/// Checks a subject that a message is about to be published to.
///
/// # Errors
///
/// `Invalid`, with the reason.
pub(in crate::sink) fn check_subject(subject: &str) -> Result<(), PublishError> {
    // Only what has other characters is looked at one by one.
    let is_plain = subject
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>'));
    let reason = if subject.is_empty() {
        "is empty"
    } else if subject.len() > MAX_SUBJECT {
        return Err(PublishError::invalid(format!(
            "the subject has {} bytes, more than {MAX_SUBJECT}",
            subject.len()
        )));
    } else if !is_plain && subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "holds a space or a control character"
    } else if !is_plain && subject.contains(['*', '>']) {
        "holds a wildcard"
    } else if subject.split('.').any(str::is_empty) {
        "has an empty token: it begins or ends with a dot, or has two in a row"
    } else if subject
        .split('.')
        .next()
        .is_some_and(|first| RESERVED_SUBJECTS.contains(&first))
    {
        "belongs to the server"
    } else {
        return Ok(());
    };
    Err(PublishError::invalid(format!(
        "the subject {subject:?} {reason}"
    )))
}

/// The headers of a message: `Nats-Msg-Id`, which streams and consumers deduplicate by, and its own.
///
/// # Errors
///
/// `Invalid`, with the reason.
pub(in crate::sink) fn headers(message: &Message) -> Result<HeaderMap, PublishError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, message.id().to_string());
    for (name, value) in &message.headers {
        check_header(name, value)?;
        let refused = || PublishError::invalid(format!("NATS can't carry the header {name:?}"));
        let parsed_name: HeaderName = name.parse().map_err(|error| refused().caused_by(error))?;
        let parsed_value: HeaderValue =
            value.parse().map_err(|error| refused().caused_by(error))?;
        headers.append(parsed_name, parsed_value);
    }
    Ok(headers)
}

/// The bytes of a message that the server's limits count.
pub(in crate::sink) fn size(headers: &HeaderMap, body: &[u8]) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        let of_line = move |value: &HeaderValue| name.len() + ": \r\n".len() + value.as_str().len();
        values.iter().map(of_line)
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>() + body.len()
}

/// Checks a header of a message. The value is never repeated: it may be private.
///
/// # Errors
///
/// `Invalid`, with the reason.
fn check_header(name: &str, value: &str) -> Result<(), PublishError> {
    let reason = if name.is_empty() {
        "has no name"
    } else if name.contains(|c: char| !c.is_ascii_graphic() || c == ':') {
        "has a colon, a space or something other than printable ASCII in its name"
    } else if name
        .get(..RESERVED_HEADERS.len())
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED_HEADERS))
    {
        "is an order to the server: names that begin with Nats- are not for events"
    } else if value.contains(['\r', '\n', '\0']) {
        "has a line break or a NUL in its value"
    } else {
        return Ok(());
    };
    Err(PublishError::invalid(format!(
        "the header {name:?} {reason}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Meaning;

    #[test]
    fn subjects_that_are_one_place_pass() {
        for subject in [
            "draft",
            "draft.picks.42",
            "é.ü",
            "$KV.bucket.key",
            "a-b_c/d:e",
        ] {
            check_subject(subject).expect(subject);
        }
        check_subject(&"x".repeat(MAX_SUBJECT)).expect("the longest");
    }

    #[test]
    fn subjects_that_are_not_one_place_are_invalid() {
        let long = "x".repeat(MAX_SUBJECT + 1);
        let subjects = [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\r\nPUB x 0\r\n",
            "a\0",
            "a\u{a0}b",
            "draft.*",
            "draft.>",
            "a*b",
            "$JS.API.STREAM.DELETE.X",
            "$SYS",
            &long,
        ];
        for subject in subjects {
            let error = check_subject(subject).expect_err(subject);
            assert_eq!(error.meaning(), Meaning::Invalid, "{subject:?}");
        }
    }

    #[test]
    fn headers_stay_in_their_line_and_give_no_orders() {
        for (name, value) in [
            ("traceparent", "00-ab-cd-01"),
            ("X", ""),
            ("x-ü".get(..2).expect("ASCII"), "é"),
        ] {
            check_header(name, value).expect(name);
        }
        for (name, value) in [
            ("", "v"),
            ("a:b", "v"),
            ("a b", "v"),
            ("ü", "v"),
            ("Nats-Rollup", "all"),
            ("nats-msg-id", "1"),
            ("a", "b\r\nNats-Rollup: all"),
            ("a", "\n"),
            ("a", "\0"),
        ] {
            let error = check_header(name, value).expect_err(name);
            assert_eq!(error.meaning(), Meaning::Invalid, "{name:?}");
            assert!(value.len() < 2 || !error.chain().contains(value), "{error}");
        }
    }
}

//! Single values: durations, sizes, numbers, words and names within their limits.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::finding::KeyPath;
use crate::config::nearest::did_you_mean;
use crate::config::quantity::{parse_duration, parse_size, show_duration, show_size};
use crate::config::report::Report;
use crate::config::typed::{DurationText, SizeText};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// The longest name of a relay, source or sink: they are kept in keys of the database and in labels of metrics.
const MAX_NAME: usize = 63;
/// PostgreSQL cuts longer names of tables and columns off in silence.
const MAX_IDENTIFIER: usize = 63;

/// The duration that was given, or the default.
pub(super) fn duration(
    report: &mut Report,
    path: &KeyPath,
    given: Option<&DurationText>,
    default: Duration,
    limits: RangeInclusive<Duration>,
) -> Duration {
    optional_duration(report, path, given, limits).unwrap_or(default)
}

/// The duration that was given, if any.
pub(super) fn optional_duration(
    report: &mut Report,
    path: &KeyPath,
    given: Option<&DurationText>,
    limits: RangeInclusive<Duration>,
) -> Option<Duration> {
    let DurationText(text) = given?;
    let parsed =
        parse_duration(text).map_err(|error| format!("{} {error}", report.quote(path, text)));
    within(report, path, parsed, limits, show_duration)
}

/// The size that was given, if any.
pub(super) fn optional_size(
    report: &mut Report,
    path: &KeyPath,
    given: Option<&SizeText>,
    limits: RangeInclusive<u64>,
) -> Option<u64> {
    let SizeText(text) = given?;
    let parsed = parse_size(text).map_err(|error| format!("{} {error}", report.quote(path, text)));
    within(report, path, parsed, limits, show_size)
}

/// The number that was given, or the default.
pub(super) fn count(
    report: &mut Report,
    path: &KeyPath,
    given: Option<u32>,
    default: u32,
    limits: RangeInclusive<u32>,
) -> u32 {
    let parsed = given.map(Ok);
    parsed
        .and_then(|parsed| within(report, path, parsed, limits, |number| number))
        .unwrap_or(default)
}

/// A share from 0.0 to 1.0, or 0.0.
pub(super) fn share(report: &mut Report, path: &KeyPath, given: Option<f64>) -> f64 {
    let parsed = given.map(Ok);
    parsed
        .and_then(|parsed| {
            within(report, path, parsed, 0.0..=1.0, |share| {
                format!("{share:.1}")
            })
        })
        .unwrap_or_default()
}

fn within<T: PartialOrd + Copy, D: Display>(
    report: &mut Report,
    path: &KeyPath,
    parsed: Result<T, String>,
    limits: RangeInclusive<T>,
    show: impl Fn(T) -> D,
) -> Option<T> {
    let message = match parsed {
        Ok(value) if limits.contains(&value) => return Some(value),
        Ok(_) => format!(
            "must be from {} to {}",
            show(*limits.start()),
            show(*limits.end())
        ),
        Err(message) => message,
    };
    report.error(path, message);
    None
}

/// What the given word stands for in `words`; `None` if none is given or it is none of them.
pub(super) fn choice<T: Copy>(
    report: &mut Report,
    path: &KeyPath,
    given: Option<&str>,
    words: &[(&str, T)],
) -> Option<T> {
    let given = given?;
    let found = words.iter().find(|(word, _)| *word == given);
    if found.is_none() {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = did_you_mean(given, names.iter().copied());
        let quoted = report.quote(path, given);
        report.error(
            path,
            format!(
                "{quoted} is none of its values{hint}: write one of {}",
                names.join(", ")
            ),
        );
    }
    found.map(|(_, meaning)| *meaning)
}

/// Reads the name of a relay, source or sink.
pub(crate) fn parse_name(name: &str) -> Result<String, &'static str> {
    let follows = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let begins_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !begins_well || !name.bytes().all(follows) || name.len() > MAX_NAME {
        return Err(
            "is not a valid name: use 1 to 63 letters, digits, `_`, `.` and `-`, beginning with a letter, digit or `_`",
        );
    }
    Ok(name.to_owned())
}

/// Checks the name of a relay, source or sink.
pub(super) fn name(report: &mut Report, path: &KeyPath, name: &str) {
    if let Err(complaint) = parse_name(name) {
        report.error(path, complaint);
    }
}

/// Checks the name of a table, schema or column of PostgreSQL.
pub(super) fn postgres_identifier(report: &mut Report, path: &KeyPath, name: &str) {
    if name.len() > MAX_IDENTIFIER {
        report.error(path, "is longer than the 63 bytes that PostgreSQL allows");
    } else {
        identifier(report, path, name);
    }
}

/// Checks the name of a table, whatever the database.
pub(super) fn identifier(report: &mut Report, path: &KeyPath, name: &str) {
    if name.is_empty() {
        report.error(path, "is empty: write the name as the database has it");
    } else if name.chars().any(char::is_control) {
        report.error(
            path,
            "holds a control character, which no name in a database should have",
        );
    }
}

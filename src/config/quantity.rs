//! Durations and sizes as people write them: `"1h30m"`, `"64MiB"`.
//!
//! Errors never repeat the text: it may have come from the environment.

use std::time::Duration;

/// Units of durations, the longest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of sizes in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a text is no duration or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    #[error(
        "is not a duration: write a whole number and a unit (ms, s, m, h, d), such as \"500ms\" or \"1h30m\""
    )]
    NotADuration,
    #[error(
        "names its units in the wrong order: write the longest first and each once, such as \"1h30m\""
    )]
    UnitOrder,
    #[error(
        "is not a size: write a whole number and a unit (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB), such as \"64MiB\""
    )]
    NotASize,
    #[error("is too large to count")]
    TooLarge,
}

/// Reads a duration such as `500ms`, `7d` or `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = DURATION_UNITS.as_slice();
    while !rest.is_empty() {
        let (number, unit, tail) = split_part(rest).ok_or(QuantityError::NotADuration)?;
        rest = tail;
        if DURATION_UNITS.iter().all(|(name, _)| *name != unit) {
            return Err(QuantityError::NotADuration);
        }
        let position = units.iter().position(|(name, _)| *name == unit);
        let position = position.ok_or(QuantityError::UnitOrder)?;
        let factor = units[position].1;
        units = &units[position + 1..];
        let part = number.and_then(|number| number.checked_mul(factor));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or(QuantityError::TooLarge)?;
    }
    if text.is_empty() {
        return Err(QuantityError::NotADuration);
    }
    Ok(Duration::from_millis(total))
}

/// Reads a size such as `64MiB` into bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let (number, unit, tail) = split_part(text).ok_or(QuantityError::NotASize)?;
    let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit);
    let (Some((_, factor)), "") = (factor, tail) else {
        return Err(QuantityError::NotASize);
    };
    number
        .and_then(|number| number.checked_mul(*factor))
        .ok_or(QuantityError::TooLarge)
}

/// The duration in its largest whole unit, for messages.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, factor) in DURATION_UNITS {
        let factor = u128::from(factor);
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    format!("{millis}ms")
}

/// The size in its largest whole binary unit, for messages.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS.into_iter().rev() {
        if factor.is_power_of_two() && bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Splits `12msrest` into the number (`None` if it doesn't fit), `ms` and what follows the letters. `None` if
/// there are no digits or no letters.
fn split_part(text: &str) -> Option<(Option<u64>, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, tail) = rest.split_at(letters);
    if number.is_empty() || unit.is_empty() {
        return None;
    }
    Some((number.parse().ok(), unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("1d1h1m1s1ms", 90_061_001),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_are_no_durations() {
        use QuantityError::*;
        let cases = [
            ("", NotADuration),
            ("5", NotADuration),
            ("s", NotADuration),
            ("-5s", NotADuration),
            ("1.5s", NotADuration),
            ("5 s", NotADuration),
            ("5S", NotADuration),
            ("5s ", NotADuration),
            ("5sec", NotADuration),
            ("٥s", NotADuration),
            ("1m1h", UnitOrder),
            ("1s1s", UnitOrder),
            ("99999999999999999999s", TooLarge),
            ("18446744073709551615d", TooLarge),
        ];
        for (text, error) in cases {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            ("64MiB", 64 << 20),
            ("1KB", 1_000),
            ("512KiB", 512 << 10),
            ("3B", 3),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "64", "MiB", "64mib", "64 MiB", "1MiB1KiB", "-1B", "1.5MiB",
        ] {
            assert_eq!(parse_size(text), Err(QuantityError::NotASize), "{text}");
        }
        assert_eq!(parse_size("99999999999TiB"), Err(QuantityError::TooLarge));
    }

    #[test]
    fn quantities_show_in_their_largest_whole_unit() {
        let shown = [1, 1_500, 60_000, 3_600_000]
            .map(|millis| show_duration(Duration::from_millis(millis)));
        assert_eq!(shown, ["1ms", "1500ms", "1m", "1h"]);
        assert_eq!(
            [1, 1_000, 1_024, 64 << 20].map(show_size),
            ["1B", "1000B", "1KiB", "64MiB"]
        );
    }
}

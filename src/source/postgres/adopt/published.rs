//! What a worker before the relay has published, where the table itself doesn't say it.

use std::str::FromStr;

use chrono::{DateTime, Utc};

/// Which rows without a mark of their own count as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// None: all are to be delivered.
    Nothing,
    /// Those that were created before.
    Before(DateTime<Utc>),
    /// All that are in the table when it is locked.
    Everything,
}

/// A text that says none of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("write none, all, or a time such as 2026-01-31T12:00:00Z")]
pub struct InvalidPublished;

impl FromStr for Published {
    type Err = InvalidPublished;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::Nothing),
            "all" => Ok(Self::Everything),
            time => DateTime::parse_from_rfc3339(time)
                .map(|time| Self::Before(time.to_utc()))
                .map_err(|_| InvalidPublished),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_times_with_a_zone() {
        assert_eq!("none".parse(), Ok(Published::Nothing));
        assert_eq!("all".parse(), Ok(Published::Everything));
        let time = DateTime::from_timestamp(1_767_225_600, 0).expect("a time");
        assert_eq!(
            "2026-01-01T01:00:00+01:00".parse(),
            Ok(Published::Before(time))
        );
        for text in ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00"] {
            assert_eq!(text.parse::<Published>(), Err(InvalidPublished), "{text}");
        }
    }
}

//! Times as envelopes spell them.

use std::io::{self, Write};

use chrono::{DateTime, Datelike, Timelike, Utc};

/// RFC 3339 in UTC with `Z`; a fraction only when it isn't zero, without zeros at its end.
pub(super) fn write(buffer: &mut Vec<u8>, time: DateTime<Utc>) -> io::Result<()> {
    let (year, month, day) = (time.year(), time.month(), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    write!(
        buffer,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    )?;
    // A leap second counts on beyond a second's worth of nanoseconds; no database stores one.
    let nanoseconds = time.nanosecond().min(999_999_999);
    if nanoseconds != 0 {
        write!(buffer, ".{nanoseconds:09}")?;
        while buffer.last() == Some(&b'0') {
            buffer.pop();
        }
    }
    buffer.push(b'Z');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (microseconds, expected) in [
            (1_704_067_200_000_000, "2024-01-01T00:00:00Z"),
            (1_704_067_200_000_001, "2024-01-01T00:00:00.000001Z"),
            (1_704_067_200_120_000, "2024-01-01T00:00:00.12Z"),
            (1_704_067_209_999_999, "2024-01-01T00:00:09.999999Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (-59_011_459_200_000_000, "0100-01-01T00:00:00Z"),
        ] {
            let time = DateTime::from_timestamp_micros(microseconds).expect("a time");
            let mut buffer = Vec::new();
            write(&mut buffer, time).expect("a Vec takes every write");
            assert_eq!(String::from_utf8_lossy(&buffer), expected);
        }
    }
}

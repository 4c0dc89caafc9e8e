//! How event data appears in messages for people.

use std::fmt;

/// Event data in an error text: quoted, control characters escaped, and cut after [`Excerpt::LIMIT`] characters,
/// because columns of an outbox table have no limit and error texts are stored with dead letters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Excerpt<'a>(pub(crate) &'a str);

impl Excerpt<'_> {
    /// Characters that are shown at most: more than any sensible name has, and one line of a terminal.
    pub(crate) const LIMIT: usize = 80;
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(Self::LIMIT) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
        }
    }
}

/// Event data or a broker's words where they stand alone: control characters escaped, so that they can't move the
/// cursor of a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_cuts() {
        assert_eq!(Excerpt("Pick\nMade").to_string(), r#""Pick\nMade""#);
        let exactly = "é".repeat(Excerpt::LIMIT);
        assert_eq!(Excerpt(&exactly).to_string(), format!("\"{exactly}\""));
        let longer = "é".repeat(Excerpt::LIMIT + 1);
        assert_eq!(Excerpt(&longer).to_string(), format!("\"{exactly}\"…"));
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jé\n\"b\""), "a\\u{1b}[2Jé\\n\"b\"");
    }
}

//! Patterns of event types.

use std::fmt;

/// An event type, exact or with `*` for any run of characters, the empty one included. Upper and lower case
/// differ. No other character is special, so an event type that itself holds a `*` can't be named exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It has no characters: no event has an empty type on purpose.
    #[error("an event type must not be empty; write \"*\" for all event types")]
    Empty,
    /// It holds a line break, tab or other control character, most likely by accident.
    #[error(
        "control character {character:?} at character {position}; an event type is printable text, with `*` for any run of characters"
    )]
    Control {
        /// The character.
        character: char,
        /// Its place, counted in characters from 1.
        position: usize,
    },
}

impl Pattern {
    /// Parses `source`: an exact event type, or a glob such as `Draft*`, `*.created` or `order.*.v*`.
    ///
    /// # Errors
    ///
    /// If it is empty or holds a control character.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        if source.is_empty() {
            return Err(PatternError::Empty);
        }
        if let Some((index, character)) = source.chars().enumerate().find(|(_, c)| c.is_control()) {
            let position = index + 1;
            return Err(PatternError::Control {
                character,
                position,
            });
        }
        Ok(Self(source.to_owned()))
    }

    /// Whether it matches the whole of `event_type`. Takes time linear in the length of both: event types are
    /// data, and a backtracking matcher would let data stall the relay.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        let Some((prefix, rest)) = self.0.split_once('*') else {
            return self.0 == event_type;
        };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(mut text) = event_type
            .strip_prefix(prefix)
            .and_then(|text| text.strip_suffix(suffix))
        else {
            return false;
        };
        // Taking each part at its first occurrence leaves the most for the parts behind it, so that if this
        // fails no other choice succeeds: nothing needs to be tried twice.
        for part in middle.split('*') {
            let Some(at) = text.find(part) else {
                return false;
            };
            text = &text[at + part.len()..];
        }
        true
    }

    /// Whether it matches everything that `narrow` matches.
    #[must_use]
    pub fn covers(&self, narrow: &Self) -> bool {
        // A control character stands in no pattern, so only a `*` of ours can match what stands for one of theirs.
        self.matches(&narrow.0.replace('*', "\0"))
    }

    /// Whether it matches every event type: it consists of `*` alone.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }
}

/// The text that it was parsed from.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, event_type: &str) -> bool {
        Pattern::parse(pattern)
            .expect("a pattern")
            .matches(event_type)
    }

    /// The definition, tried in every way.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
            Some((first, rest)) => text.first() == Some(first) && model(rest, &text[1..]),
        }
    }

    #[test]
    fn matches_what_it_says() {
        for (pattern, event_type, expected) in [
            ("PickMade", "PickMade", true),
            ("PickMade", "pickmade", false),
            ("PickMade", "PickMade2", false),
            ("Draft*", "Draft", true),
            ("Draft*", "DraftStarted", true),
            ("Draft*", "MyDraft", false),
            ("*.created", "order.created", true),
            ("*.created", "order.created.v2", false),
            ("order.*.v*", "order.paid.v2", true),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
            ("a*b*c*d", "abcd", true),
            ("a*b*c*d", "acbd", false),
            // Parts don't share characters.
            ("a*b*b*c", "abc", false),
            ("*aa*aa*", "aaa", false),
            ("*aa*aa*", "aaaa", true),
            ("**", "", true),
            ("*é*", "caféine", true),
            ("?", "x", false),
        ] {
            assert_eq!(
                matches(pattern, event_type),
                expected,
                "{pattern} against {event_type}"
            );
        }
    }

    #[test]
    fn only_stars_catch_all() {
        let catches = |source| Pattern::parse(source).expect("a pattern").is_catch_all();
        assert!(catches("*"));
        assert!(catches("**"));
        assert!(!catches("*a"));
        assert!(!catches("a"));
    }

    #[test]
    fn covers_what_is_narrower() {
        let covers = |general, narrow| {
            let [general, narrow] =
                [general, narrow].map(|p| Pattern::parse(p).expect("a pattern"));
            general.covers(&narrow)
        };
        for (general, narrow) in [
            ("*", "a*"),
            ("a*", "a"),
            ("a*", "a*b"),
            ("a*", "a*"),
            ("*a*", "**a"),
        ] {
            assert!(covers(general, narrow), "{general} {narrow}");
        }
        for (general, narrow) in [
            ("a", "a*"),
            ("a*b", "a*"),
            ("a*b", "a"),
            ("a*", "*a"),
            ("a*a", "a*"),
        ] {
            assert!(!covers(general, narrow), "{general} {narrow}");
        }
    }

    #[test]
    fn refuses_what_can_only_be_a_mistake() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        let error = Pattern::parse("éa\tb").expect_err("a tab");
        assert_eq!(
            error.to_string(),
            "control character '\\t' at character 3; an event type is printable text, with `*` for any run of characters"
        );
    }

    #[test]
    fn many_stars_take_linear_time() {
        // A backtracking matcher would need longer than the universe has existed.
        let pattern = "a*".repeat(2_000) + "b";
        assert!(!matches(&pattern, &"a".repeat(20_000)));
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(pattern in "[abé*]{1,8}", text in "[abé]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), model(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn a_pattern_that_covers_another_matches_what_it_matches(
            general in "[ab*]{1,5}", narrow in "[ab*]{1,5}", text in "[abc]{0,6}",
        ) {
            let [general, narrow] = [general, narrow].map(|p| Pattern::parse(&p).expect("a pattern"));
            if general.covers(&narrow) && narrow.matches(&text) {
                prop_assert!(general.matches(&text), "{general} {narrow} {text}");
            }
        }

        #[test]
        fn shows_its_source(source in "[^\\pC]{1,20}") {
            prop_assert_eq!(Pattern::parse(&source).expect("a pattern").to_string(), source);
        }
    }
}

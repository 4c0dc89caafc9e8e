//! Filters of templates: spelling an event's values as destinations are spelled.

/// What a template does to a value before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// `PickMade` → `pickmade`
    Lower,
    /// `PickMade` → `PICKMADE`
    Upper,
    /// `PickMade` → `pick-made`
    Kebab,
    /// `PickMade` → `pick_made`
    Snake,
}

impl Filter {
    /// The names, as an error lists them.
    pub(super) const NAMES: &'static str = "lower, upper, kebab and snake";

    /// The filter of that name.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "lower" => Some(Self::Lower),
            "upper" => Some(Self::Upper),
            "kebab" => Some(Self::Kebab),
            "snake" => Some(Self::Snake),
            _ => None,
        }
    }

    /// The value, spelled anew.
    pub(super) fn apply(self, value: &str) -> String {
        match self {
            Self::Lower => value.to_lowercase(),
            Self::Upper => value.to_uppercase(),
            Self::Kebab => join_words(value, '-'),
            Self::Snake => join_words(value, '_'),
        }
    }
}

/// The words of `value` in lower case, joined by `separator`. Words end at `-`, `_` and white space, before a
/// capital behind a small letter or digit, and before the last capital of a row that a small letter follows
/// (`HTTPServer` → `http-server`). Other characters, such as the dots of `order.PickMade`, stay where they are.
fn join_words(value: &str, separator: char) -> String {
    let mut joined = String::with_capacity(value.len() + 4);
    let mut within_word = false;
    let mut after_gap = false;
    let mut previous = ' ';
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        if matches!(character, '-' | '_') || character.is_whitespace() {
            after_gap = true;
        } else if character.is_alphanumeric() {
            let next_is_small = characters.peek().is_some_and(|next| next.is_lowercase());
            let begins_word = after_gap || begins_word_by_case(previous, character, next_is_small);
            if within_word && begins_word {
                joined.push(separator);
            }
            joined.extend(character.to_lowercase());
            within_word = true;
            after_gap = false;
        } else {
            joined.push(character);
            within_word = false;
            after_gap = false;
        }
        previous = character;
    }
    joined
}

fn begins_word_by_case(previous: char, character: char, next_is_small: bool) -> bool {
    character.is_uppercase()
        && (previous.is_lowercase()
            || previous.is_numeric()
            || (previous.is_uppercase() && next_is_small))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_found() {
        for (value, kebab) in [
            ("PickMade", "pick-made"),
            ("pickMade", "pick-made"),
            ("pick_made", "pick-made"),
            ("PICK_MADE", "pick-made"),
            ("Pick Made", "pick-made"),
            ("HTTPServerStarted", "http-server-started"),
            ("V2Order", "v2-order"),
            ("ISO8601Date", "iso8601-date"),
            ("order.PickMade", "order.pick-made"),
            ("order._Pick_.x", "order.pick.x"),
            ("__a--b__", "a-b"),
            ("ÉtéFini", "été-fini"),
            ("--", ""),
            ("", ""),
        ] {
            assert_eq!(Filter::Kebab.apply(value), kebab, "{value}");
            assert_eq!(
                Filter::Snake.apply(value),
                kebab.replace('-', "_"),
                "{value}"
            );
        }
    }

    #[test]
    fn cases_change() {
        assert_eq!(Filter::Lower.apply("PickMade_É"), "pickmade_é");
        assert_eq!(Filter::Upper.apply("PickMade_é"), "PICKMADE_É");
    }

    #[test]
    fn every_listed_name_is_known() {
        for name in Filter::NAMES.replace(" and ", ", ").split(", ") {
            assert!(Filter::by_name(name).is_some(), "{name}");
        }
        assert_eq!(Filter::by_name("Lower"), None);
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(value in "[a-zA-Z0-9_. é-]{0,16}") {
            let once = Filter::Kebab.apply(&value);
            prop_assert_eq!(Filter::Kebab.apply(&once), once);
        }
    }
}

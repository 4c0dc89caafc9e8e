//! Changes to a text, as a slip of the editor or somebody with bad intentions makes them.

use proptest::prelude::*;

/// What is done to the text.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Insert(String),
    Delete(usize),
    /// So many lines stand once more at another share of the text.
    Copy(usize, f64),
    /// The key in this line has another value.
    Value(String),
}

/// A change, and at which share of the text.
pub(super) fn change() -> impl Strategy<Value = (f64, Change)> {
    let syntax = [
        "\"",
        "'''",
        "[[",
        "]",
        "\n= ",
        "{",
        "${SECRET}",
        "\0",
        "\u{feff}",
    ];
    let piece = prop_oneof![
        proptest::sample::select(syntax.map(str::to_owned).to_vec()),
        any::<String>(),
    ];
    let change = prop_oneof![
        1 => piece.prop_map(Change::Insert),
        1 => (1..40_usize).prop_map(Change::Delete),
        1 => (1..6_usize, 0.0..1.0_f64).prop_map(|(lines, to)| Change::Copy(lines, to)),
        6 => super::value().prop_map(Change::Value),
    ];
    (0.0..1.0_f64, change)
}

/// The text with it.
pub(super) fn changed(mut text: String, (share, change): &(f64, Change)) -> String {
    let place = at(&text, *share);
    match change {
        Change::Insert(piece) => text.insert_str(place, piece),
        Change::Delete(count) => {
            let end = text[place..].char_indices().nth(*count);
            let end = end.map_or(text.len(), |(index, _)| place + index);
            text.replace_range(place..end, "");
        }
        Change::Copy(lines, to) => {
            let from = &text[line(&text, place)..];
            let copied: String = from.split_inclusive('\n').take(*lines).collect();
            text.insert_str(line(&text, at(&text, *to)), &copied);
        }
        Change::Value(value) => {
            let line = line(&text, place);
            let end = text[line..].find('\n').map_or(text.len(), |end| line + end);
            if let Some(equals) = text[line..end].find('=') {
                text.replace_range(line + equals + 1..end, &format!(" {value}"));
            }
        }
    }
    text
}

/// The start of the line that this place is in.
fn line(text: &str, place: usize) -> usize {
    text[..place].rfind('\n').map_or(0, |end| end + 1)
}

/// The boundary of a character at a share of the text.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)] // any place will do
fn at(text: &str, share: f64) -> usize {
    let mut index = (text.len() as f64 * share) as usize;
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

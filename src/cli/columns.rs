//! Rows as aligned columns, for people.

use super::look::{Look, Style};

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines of columns as wide as their widest cell, the first of which is their header. Cells must be printable.
pub(super) fn aligned<const N: usize>(
    look: Look,
    sides: [Side; N],
    rows: &[[String; N]],
) -> Vec<String> {
    styled(look, sides, rows, |_, _| None)
}

/// The same; `style` says which cells are to stand out, by column and text.
pub(super) fn styled<const N: usize>(
    look: Look,
    sides: [Side; N],
    rows: &[[String; N]],
    style: impl Fn(usize, &str) -> Option<Style>,
) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |(number, row): (usize, &[String; N])| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let style = match number {
                0 => Some(Style::Bold),
                _ => style(column, cell),
            };
            let cell = style.map_or_else(|| cell.clone(), |style| look.paint(style, cell));
            match sides[column] {
                Side::Left => line.extend([cell, padding]),
                Side::Right => line.extend([padding, cell]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    rows.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Left, Side::Right];

    fn rows() -> [[String; 2]; 3] {
        let rows = [["NAME", "N"], ["a", "10"], ["longer", "1"]];
        rows.map(|row| row.map(str::to_owned))
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            aligned(Look::plain(), SIDES, &rows()),
            ["NAME     N", "a       10", "longer   1"]
        );
    }

    #[test]
    fn colours_take_no_room() {
        let style = |column: usize, cell: &str| (column == 1 && cell != "1").then_some(Style::Red);
        assert_eq!(
            styled(Look::coloured(), SIDES, &rows(), style),
            [
                "\u{1b}[1mNAME\u{1b}[0m     \u{1b}[1mN\u{1b}[0m",
                "a       \u{1b}[31m10\u{1b}[0m",
                "longer   1"
            ]
        );
    }
}

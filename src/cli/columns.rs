//! Rows as aligned columns, for people.

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines of columns as wide as their widest cell. Cells must be printable.
pub(super) fn aligned<const N: usize>(sides: [Side; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(sides);
        let cells: Vec<String> = cells
            .map(|((cell, width), side)| match side {
                Side::Left => format!("{cell:width$}"),
                Side::Right => format!("{cell:>width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["NAME", "N"], ["a", "10"], ["longer", "1"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            aligned([Side::Left, Side::Right], &rows),
            ["NAME     N", "a       10", "longer   1"]
        );
    }
}

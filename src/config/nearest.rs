//! "Did you mean": the known name that is nearest to a wrong one.

/// Edits between two names that are still taken for a slip.
const MAX_EDITS: usize = 2;

/// Names longer than this are no slips of known ones.
const MAX_LENGTH: usize = 64;

/// `, did you mean …?` with the nearest of `known`, or nothing if none is near.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    if name.len() > MAX_LENGTH {
        return String::new();
    }
    let near = known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= MAX_EDITS && *edits < candidate.len())
        .min();
    match near {
        Some((_, candidate)) => format!(", did you mean `{candidate}`?"),
        None => String::new(),
    }
}

/// Insertions, deletions and replacements that make `b` of `a`; a dash is as good as an underscore.
fn distance(a: &str, b: &str) -> usize {
    let normal = |c: char| {
        if c == '-' {
            '_'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let b: Vec<char> = b.chars().map(normal).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().map(normal).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let known = ["timeout", "subject", "url", "start"];
        let cases = [
            ("timout", ", did you mean `timeout`?"),
            ("Subject", ", did you mean `subject`?"),
            ("strat", ", did you mean `start`?"),
            ("uri", ", did you mean `url`?"),
            ("colour", ""),
            ("x", ""),
        ];
        for (name, hint) in cases {
            assert_eq!(did_you_mean(name, known), hint, "{name}");
        }
    }
}

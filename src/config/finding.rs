//! What is wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

/// Where a key stands in the tree of tables: `sinks.picks.subject`, `routes[0].to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyPath(Vec<Segment>);

/// One step of a [`KeyPath`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Index(usize),
    Key(String),
}

impl KeyPath {
    /// The file as a whole.
    pub(super) fn root() -> Self {
        Self::default()
    }

    /// The path of `names`, each a key of the table before.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            names
                .into_iter()
                .map(|name| Segment::Key(name.to_owned()))
                .collect(),
        )
    }

    /// The key `name` of the table at this path.
    pub(super) fn key(&self, name: &str) -> Self {
        self.with(Segment::Key(name.to_owned()))
    }

    /// The element `index` of the list at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// This path, as seen from the root, if it was seen from `base`.
    pub(super) fn below(&self, base: &Self) -> Self {
        Self(base.0.iter().chain(&self.0).cloned().collect())
    }

    /// The table or list that this path is in; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    /// Whether this is `other`, or something in it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Whether this is the file as a whole.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(name) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    if is_bare(name) {
                        f.write_str(name)?;
                    } else {
                        write!(f, "{name:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether TOML wants no quotes around the key.
fn is_bare(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Place {
    /// In the file.
    File {
        /// The file's name, if the text came from a file.
        name: Option<Arc<str>>,
        /// The line, counted from 1, if it is known.
        line: Option<usize>,
        /// The `${…}` that the value was made of.
        from: Vec<String>,
    },
    /// In the environment variable of this name.
    Variable(String),
    /// In the command line flag of this name.
    Flag(String),
    /// Nowhere: it is missing, or a default.
    #[default]
    Nowhere,
}

impl Place {
    /// The line in the file, if there is one.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => *line,
            _ => None,
        }
    }

    /// Whether the value can be read in the file as it is, so that it is no secret to who reads a message.
    pub(super) fn is_literal(&self) -> bool {
        matches!(self, Self::File { from, .. } if from.is_empty())
    }

    /// The place of something that is not there, seen from the table that lacks it.
    pub(super) fn of_table(&self) -> Self {
        match self {
            Self::File { name, line, .. } => Self::File {
                name: name.clone(),
                line: *line,
                from: Vec::new(),
            },
            other => other.clone(),
        }
    }
}

/// One thing that is wrong, or does nothing: which key, where it stands, what to do. It never holds a value that
/// may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key.
    pub path: KeyPath,
    /// Where its value was written, or where the table stands that lacks it.
    pub place: Place,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.place {
            Place::File { name, line, .. } => {
                match (name, line) {
                    (Some(name), Some(line)) => write!(f, "{name}:{line}: ")?,
                    (Some(name), None) => write!(f, "{name}: ")?,
                    (None, Some(line)) => write!(f, "line {line}: ")?,
                    (None, None) => {}
                }
                if !path.is_root() {
                    write!(f, "{path}: ")?;
                }
            }
            Place::Variable(name) if path.is_root() => write!(f, "environment variable {name}: ")?,
            Place::Variable(name) => write!(f, "environment variable {name} ({path}): ")?,
            Place::Flag(name) => write!(f, "{name} ({path}): ")?,
            Place::Nowhere if path.is_root() => {}
            Place::Nowhere => write!(f, "{path}: ")?,
        }
        f.write_str(&self.message)?;
        match &self.place {
            Place::File { from, .. } if !from.is_empty() => {
                write!(f, " (the value is made of {})", from.join(", "))
            }
            _ => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Finding>);

impl ConfigErrors {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self(sorted(findings))
    }

    /// The errors.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }
}

/// The findings in the order of the file, what has no line at the end, and each once: what all sinks share is
/// looked at with each of them.
pub(super) fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    fn key(finding: &Finding) -> (usize, &KeyPath, &str) {
        let line = finding.place.line().unwrap_or(usize::MAX);
        (line, &finding.path, &finding.message)
    }
    findings.sort_by(|a, b| key(a).cmp(&key(b)));
    findings.dedup();
    findings
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, finding) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_toml_writes_them() {
        let path = KeyPath::of(["sinks", "my.sink", "list"])
            .index(2)
            .key("x\n");
        assert_eq!(path.to_string(), r#"sinks."my.sink".list[2]."x\n""#);
    }

    #[test]
    fn findings_say_where() {
        let finding = |place| Finding {
            path: KeyPath::of(["a", "b"]),
            place,
            message: "wrong".to_owned(),
        };
        let file = |name: Option<&str>, line, from| Place::File {
            name: name.map(Arc::from),
            line,
            from,
        };
        let cases = [
            (
                file(Some("x.toml"), Some(3), vec![]),
                "x.toml:3: a.b: wrong",
            ),
            (file(None, Some(3), vec![]), "line 3: a.b: wrong"),
            (
                file(None, Some(3), vec!["${X}".to_owned()]),
                "line 3: a.b: wrong (the value is made of ${X})",
            ),
            (
                Place::Variable("V".to_owned()),
                "environment variable V (a.b): wrong",
            ),
            (Place::Flag("--f".to_owned()), "--f (a.b): wrong"),
            (Place::Nowhere, "a.b: wrong"),
        ];
        for (place, expected) in cases {
            assert_eq!(finding(place).to_string(), expected);
        }
    }
}

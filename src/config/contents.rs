//! What the files hold that a configuration names by path: certificates and keys, which are read by whoever
//! connects.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::Read as _;
use std::path::Path;

use super::interpolate::MAX_FILE_BYTES;

/// The contents of some files when the configuration was read. It only tells whether they have changed since: a
/// certificate that was renewed makes another configuration, though the path is the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents(Vec<Option<u64>>);

impl Contents {
    /// Looks into the files. One that can't be read counts as such: who connects says what is wrong with it.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(paths.into_iter().map(digest).collect())
    }
}

/// Changes by accident or with a deploy are told apart by 64 bits; nobody gains by forging two files of one digest.
fn digest(path: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_file_shows() {
        let folder = std::env::temp_dir().join(format!("outbox-relay-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a temporary folder");
        let (cert, key) = (folder.join("cert"), folder.join("key"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("written");
        let now = || Contents::of([cert.as_path(), key.as_path()]);
        let missing = now();
        write(&cert, "a");
        write(&key, "b");
        let before = now();
        assert_ne!(before, missing);
        write(&key, "b");
        assert_eq!(before, now(), "written again, and the same");
        write(&key, "c");
        assert_ne!(before, now());
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}

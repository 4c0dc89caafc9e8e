//! Folders that are gone when their test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder under the system's temporary one, removed on drop.
#[derive(Debug)]
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn new(purpose: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let path =
            std::env::temp_dir().join(format!("outbox-relay-test-{process}-{number}-{purpose}"));
        std::fs::create_dir_all(&path).expect("create a temporary folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and returns where it is.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("write a temporary file");
        path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

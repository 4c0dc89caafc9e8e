//! What has happened lately, for the status page: reloads, outages, refusals. The log has all of it and for longer.

use std::collections::VecDeque;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::locked;

/// Entries that are kept: some hours of a bad day.
const LIMIT: usize = 100;

/// Characters of a text that are kept. A broker may answer at length.
const MAX_TEXT: usize = 500;

/// Something that has happened, or did so several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it happened last.
    pub at: DateTime<Utc>,
    /// When it happened first.
    pub since: DateTime<Utc>,
    /// How many times.
    pub times: u64,
    /// Whether somebody should look at it.
    pub severity: Severity,
    /// What it happened to: `configuration`, `source NAME` or `sink NAME`.
    pub subject: String,
    /// What happened.
    pub text: String,
}

/// Whether somebody should look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    Info,
    /// It mends itself, or can wait.
    Warning,
    /// Somebody should look.
    Error,
}

/// The newest entries.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<VecDeque<Entry>>);

impl Journal {
    /// Notes what has happened now, so many times. What repeats the newest entry of its subject makes that one longer.
    pub(super) fn note(&self, severity: Severity, subject: String, text: &str, times: u64) {
        let at = Utc::now();
        let text = match text.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        let mut entries = locked(&self.0);
        let newest = entries.iter_mut().find(|entry| entry.subject == subject);
        if let Some(entry) = newest.filter(|e| e.severity == severity && e.text == text) {
            entry.at = at;
            entry.times += times;
            return;
        }
        entries.truncate(LIMIT - 1);
        entries.push_front(Entry {
            at,
            since: at,
            times,
            severity,
            subject,
            text,
        });
    }

    /// Newest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        locked(&self.0).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_one_entry_and_the_list_is_bounded() {
        let journal = Journal::default();
        let note = |subject: &str, text: &str| {
            journal.note(Severity::Error, subject.to_owned(), text, 1);
        };
        note("sink a", "refused");
        note("sink b", "refused");
        note("sink a", "refused");
        let entries = journal.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[1].subject.as_str(), entries[1].times),
            ("sink a", 2)
        );
        assert!(entries[1].at >= entries[1].since);
        for number in 0..3 * LIMIT {
            note("sink a", &format!("{number}{}", "x".repeat(MAX_TEXT)));
        }
        let entries = journal.entries();
        assert_eq!(entries.len(), LIMIT);
        assert!(entries[0].text.starts_with("299x") && entries[0].text.ends_with('…'));
    }
}

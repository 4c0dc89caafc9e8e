//! The findings of one load, as they are gathered.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, KeyPath, Place};

/// Gathers findings, and knows where each value was written.
///
/// A key whose value was reported is *struck*: it counts as absent from there on, and nothing complains that it
/// is missing.
#[derive(Debug, Default)]
pub(super) struct Report {
    places: BTreeMap<KeyPath, Place>,
    struck: BTreeSet<KeyPath>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Report {
    /// Says where the values of the merged layers were written.
    pub(super) fn locate(&mut self, places: BTreeMap<KeyPath, Place>) {
        self.places = places;
    }

    /// Reports an error about the value at `path`.
    pub(super) fn error(&mut self, path: &KeyPath, message: impl Into<String>) {
        let place = self.place(path);
        self.error_at(path, place, message);
    }

    /// Reports an error about the value at `path`, written at `place`.
    pub(super) fn error_at(&mut self, path: &KeyPath, place: Place, message: impl Into<String>) {
        self.errors.push(Finding {
            path: path.clone(),
            place,
            message: message.into(),
        });
    }

    /// Reports something about the value at `path` that stops nobody.
    pub(super) fn warn(&mut self, path: &KeyPath, message: impl Into<String>) {
        self.warnings.push(Finding {
            path: path.clone(),
            place: self.place(path),
            message: message.into(),
        });
    }

    /// The value at `path` counts as absent from here on.
    pub(super) fn strike(&mut self, path: &KeyPath) {
        self.struck.insert(path.clone());
    }

    /// Whether the value at `path`, or what holds it, was struck.
    pub(super) fn is_struck(&self, path: &KeyPath) -> bool {
        let mut path = Some(path.clone());
        while let Some(current) = path {
            if self.struck.contains(&current) {
                return true;
            }
            path = current.parent();
        }
        false
    }

    /// Whether the value at `path`, or something in it, was struck.
    pub(super) fn is_struck_within(&self, path: &KeyPath) -> bool {
        self.struck.iter().any(|struck| struck.is_within(path))
    }

    /// `given`, or the error that it is missing unless that was reported already.
    pub(super) fn required<T>(
        &mut self,
        path: &KeyPath,
        given: Option<T>,
        what_to_do: &str,
    ) -> Option<T> {
        if given.is_none() && !self.is_struck(path) {
            self.error(path, format!("is missing: {what_to_do}"));
        }
        given
    }

    /// `text` in quotes if everybody who reads the file sees it there anyway, else `the value`: what comes from
    /// the environment may be a secret.
    pub(super) fn quote(&self, path: &KeyPath, text: &str) -> String {
        if self.place(path).is_literal() {
            format!("`{}`", text.escape_debug())
        } else {
            "the value".to_owned()
        }
    }

    /// Reports that no broker would take the destination at `path`. The complaint shows it, so that it is left out where
    /// the value may be secret.
    pub(super) fn is_refused(&mut self, path: &KeyPath, complaint: &str) {
        if self.place(path).is_literal() {
            self.error(path, complaint);
        } else {
            self.error(path, "is no destination that the broker would take");
        }
    }

    /// Reports that `text` is not what it should be, such as a template. The parser's own words are shown only
    /// where the text may be, for they may repeat some of it.
    pub(super) fn is_no(
        &mut self,
        path: &KeyPath,
        text: &str,
        what: &str,
        error: &dyn std::error::Error,
    ) {
        let quoted = self.quote(path, text);
        if self.place(path).is_literal() {
            self.error(path, format!("{quoted} is no {what}: {error}"));
        } else {
            self.error(path, format!("{quoted} is no {what}"));
        }
    }

    /// Where the value at `path` was written; of an absent one, where the table stands that lacks it.
    pub(super) fn place(&self, path: &KeyPath) -> Place {
        if let Some(place) = self.places.get(path) {
            return place.clone();
        }
        let mut parent = path.parent();
        while let Some(current) = parent {
            if let Some(place) = self.places.get(&current) {
                return place.of_table();
            }
            parent = current.parent();
        }
        Place::Nowhere
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Errors and warnings.
    pub(super) fn into_findings(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.errors, self.warnings)
    }
}

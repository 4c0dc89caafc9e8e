//! Links between the documents lead somewhere, to the heading too, and every document can be found from the README.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, by their paths from the root.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(root()).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text without what stands in code.
fn prose(document: &Path) -> String {
    let text = std::fs::read_to_string(root().join(document)).expect("a document");
    let mut code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// What the headings of a document are called in links.
fn anchors(document: &Path) -> BTreeSet<String> {
    let prose = prose(document);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || ['-', '_', ' '].contains(c);
            heading.chars().filter(kept).collect::<String>()
        })
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}

/// Where the links of a document lead, but for those out into the world.
fn links(document: &Path) -> Vec<String> {
    let prose = prose(document);
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    let mut linked = BTreeSet::from([PathBuf::from("README.md")]);
    for document in documents() {
        for link in links(&document) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let mut target = document.parent().expect("a folder").join(file);
            if file.is_empty() {
                target.clone_from(&document);
            } else if let Ok(outside) = target.strip_prefix("docs/..") {
                target = outside.to_owned();
            }
            let there = root().join(&target).exists();
            if !there || !anchor.is_empty() && !anchors(&target).contains(anchor) {
                dead.push(format!("{}: {link}", document.display()));
            }
            if document == Path::new("README.md") {
                linked.insert(target);
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    let unlinked: Vec<PathBuf> = documents()
        .into_iter()
        .filter(|document| !linked.contains(document))
        .collect();
    assert!(unlinked.is_empty(), "the README doesn't name {unlinked:?}");
}

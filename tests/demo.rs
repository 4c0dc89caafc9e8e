//! `outbox-relay demo`, the README's first command, needs nothing and proves what it says.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::relay::run_alone;

#[test]
fn the_demo_publishes_what_it_commits_and_says_so() {
    let ended = run_alone(&["demo", "--events", "50", "--rate", "500"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let mut last_picks: BTreeMap<String, u64> = BTreeMap::new();
    for line in ended.stdout.lines() {
        let event: Value = serde_json::from_str(line).expect("JSON on each line");
        assert_eq!(event["eventType"], "PickMade");
        let payload = &event["payload"];
        assert_eq!(payload["draftId"], event["draftId"]);
        for field in ["team", "player", "position"] {
            assert!(payload[field].is_string(), "{field} of {line}");
        }
        // The pick that was rolled back gave its number to the next: none is missing, none comes twice.
        let last = last_picks.entry(event["draftId"].to_string()).or_default();
        assert_eq!(payload["pick"], *last + 1, "{line}");
        *last += 1;
    }
    assert_eq!(last_picks.values().sum::<u64>(), 50);
    let said = |parts: &[&str]| {
        let mut lines = ended.stderr.lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    };
    for parts in [
        ["✓ committed", " 50 "],
        ["✓ published", " 50 "],
        // One transaction in nine: 50 are committed after 56.
        ["✓ rolled back", " 6 "],
        ["p50 ", "p99 "],
        ["outbox-relay --config", "jetstream.toml"],
    ] {
        assert!(said(&parts), "no line with {parts:?} in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\u{1b}'), "no colours in a pipe");
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
}

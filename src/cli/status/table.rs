//! A survey as an aligned table, for people.

use crate::cli::columns::{Side, styled};
use crate::cli::look::{Look, Style};

use super::survey::{
    AbandonedLedger, LeaseStatus, LedgerStatus, OpenTransactionStatus, SinkStatus, SourceStatus,
    Survey,
};

const HEADER: [&str; 9] = [
    "SINK",
    "UNDELIVERED FROM",
    "DELIVERED TO",
    "RANGES",
    "PENDING",
    "OLDEST",
    "FLUSHED",
    "DEAD LETTERS",
    "NOTE",
];

const SIDES: [Side; 9] = {
    let mut sides = [Side::Right; 9];
    (sides[0], sides[8]) = (Side::Left, Side::Left);
    sides
};

/// Stands where there is nothing to say.
const NOTHING: &str = "-";

/// The whole text, a paragraph per source.
pub(super) fn text(survey: &Survey, look: Look) -> String {
    let sources = survey.sources.iter().map(|it| source(it, look));
    sources.collect::<Vec<_>>().join("\n")
}

fn source(source: &SourceStatus, look: Look) -> String {
    let name = look.paint(Style::Bold, &source.source);
    let mut text = format!("source {name}: {}\n", headline(source, look));
    if let Some(error) = source.error.as_ref().filter(|_| source.table.is_some()) {
        text.push_str(&format!("  {}\n", look.paint(Style::Red, error)));
    }
    if source.sequence_changed == Some(true) {
        text.push_str(&format!(
            "  the ledgers speak of another sequence, nothing is published: \
             outbox-relay ledger reset --source {}\n",
            source.source
        ));
    }
    for ledger in source.abandoned_ledgers.iter().flatten() {
        let AbandonedLedger {
            relay,
            source,
            sink,
            halted,
        } = ledger;
        text.push_str(&if *halted {
            format!(
                "  the ledger of sink {sink} (relay {relay}, source {source}) speaks of another sequence, that relay is \
                 halted and nothing is settled: outbox-relay ledger reset --source {source} by its configuration\n"
            )
        } else {
            format!(
                "  no relay keeps the ledger of sink {sink} (relay {relay}, source {source}), it holds the table back: \
                 outbox-relay ledger drop --relay {relay} --source {source} --sink {sink}\n"
            )
        });
    }
    if !source.sinks.is_empty() {
        let mut rows = vec![HEADER.map(str::to_owned)];
        rows.extend(source.sinks.iter().map(row));
        for line in styled(look, SIDES, &rows, style) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    if let Some(holes) = holes(source) {
        text.push_str(&format!("  {}\n", look.paint(Style::Yellow, &holes)));
    }
    text
}

/// Dead letters and notes wait for somebody.
fn style(column: usize, cell: &str) -> Option<Style> {
    match HEADER[column] {
        "DEAD LETTERS" if cell != "0" => Some(Style::Red),
        "NOTE" => Some(Style::Yellow),
        _ => None,
    }
}

/// What was drawn and doesn't show, and who may have drawn it.
fn holes(source: &SourceStatus) -> Option<String> {
    let ledgers = source.sinks.iter().filter_map(|sink| sink.ledger.as_ref());
    let most = ledgers.filter_map(|ledger| ledger.holes).max()?;
    let holders: Vec<String> = source
        .open_transactions
        .iter()
        .flatten()
        .map(holder)
        .collect();
    match (most, holders.is_empty()) {
        (0, _) => None,
        (_, true) => Some(format!(
            "{most} seq were drawn and have no event, and no transaction is open on the table: they were rolled back, or \
             deleted; a relay that runs closes them"
        )),
        (_, false) => Some(format!(
            "{most} seq were drawn and have no event; they may be held by {}",
            holders.join(", ")
        )),
    }
}

fn holder(open: &OpenTransactionStatus) -> String {
    match open.age_seconds {
        Some(age) => format!("{} for {}", open.who, span(age)),
        None => open.who.clone(),
    }
}

fn headline(source: &SourceStatus, look: Look) -> String {
    let (Some(table), Some(last_value)) = (&source.table, source.last_value) else {
        let error = source.error.as_deref().unwrap_or("nothing could be read");
        let error = if source.reachable {
            error.to_owned()
        } else {
            format!("not reached: {error}")
        };
        return look.paint(Style::Red, &error);
    };
    format!(
        "table {table}, last seq {last_value}, {}",
        lease(source.lease.as_ref(), look)
    )
}

fn lease(lease: Option<&LeaseStatus>, look: Look) -> String {
    let is_held = lease.is_some_and(|lease| lease.held);
    let text = match lease {
        None => "no relay has held the lease yet".to_owned(),
        Some(lease) => match lease.expires_in_seconds {
            Some(left) if lease.held => format!("lease held by {} for {}", lease.owner, span(left)),
            Some(left) => format!(
                "lease of {} ended {} ago, no relay is active",
                lease.owner,
                span(-left)
            ),
            None => format!("lease given up by {}, no relay is active", lease.owner),
        },
    };
    let style = if is_held { Style::Green } else { Style::Yellow };
    look.paint(style, &text)
}

fn row(sink: &SinkStatus) -> [String; 9] {
    let of = |value: fn(&LedgerStatus) -> Option<String>| {
        let value = sink.ledger.as_ref().and_then(value);
        value.unwrap_or_else(|| NOTHING.to_owned())
    };
    let note = match (sink.configured, &sink.ledger) {
        (true, Some(_)) => "",
        (true, None) => "no ledger yet",
        (false, Some(_)) => {
            "not in the configuration, holds the table back: outbox-relay ledger drop or rename"
        }
        (false, None) => "not in the configuration",
    };
    [
        sink.sink.clone(),
        of(|ledger| Some(ledger.lowest_undelivered.to_string())),
        of(|ledger| Some(ledger.highest_delivered?.to_string())),
        of(|ledger| Some(ledger.ranges.to_string())),
        of(|ledger| Some(pending(ledger))),
        of(|ledger| Some(span(ledger.oldest_pending.as_ref()?.age_seconds?))),
        of(|ledger| Some(span(ledger.last_flush_seconds) + " ago")),
        sink.dead_letters.to_string(),
        note.to_owned(),
    ]
}

fn pending(ledger: &LedgerStatus) -> String {
    let more = if ledger.pending_is_exact { "" } else { "+" };
    format!("{}{more}", ledger.pending)
}

/// A time span in its two greatest units.
fn span(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // never negative
    let whole = seconds.max(0.0) as u64;
    let Some(first) = UNITS.iter().position(|(unit, _)| whole >= *unit) else {
        return format!("{:.1} s", seconds.max(0.0));
    };
    let (unit, name) = UNITS[first];
    let greatest = format!("{} {name}", whole / unit);
    match UNITS.get(first + 1) {
        Some((next, next_name)) => format!("{greatest} {} {next_name}", whole % unit / next),
        None => greatest,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::survey::OldestStatus;
    use super::*;

    fn sink(name: &str, configured: bool, ledger: Option<LedgerStatus>) -> SinkStatus {
        SinkStatus {
            sink: name.into(),
            configured,
            ledger,
            dead_letters: 0,
        }
    }

    fn ledger(pending: u64, pending_is_exact: bool) -> LedgerStatus {
        LedgerStatus {
            lowest_undelivered: 17,
            highest_delivered: Some(16),
            ranges: 1,
            pending,
            pending_is_exact,
            oldest_pending: Some(OldestStatus {
                seq: 17,
                created_at: None,
                age_seconds: Some(3_725.0),
            }),
            holes: Some(0),
            last_flush: DateTime::default(),
            last_flush_seconds: 2.25,
        }
    }

    #[test]
    fn columns_are_aligned_and_strangers_are_marked() {
        let survey = Survey {
            version: "0",
            relay: "draft".into(),
            sources: vec![
                SourceStatus {
                    source: "main".into(),
                    reachable: true,
                    table: Some("outbox".into()),
                    last_value: Some(99),
                    lease: Some(LeaseStatus {
                        owner: "7-a".into(),
                        held: true,
                        expires_in_seconds: Some(8.4),
                    }),
                    sinks: vec![
                        sink("old", false, Some(ledger(100_000, false))),
                        sink("picks", true, None),
                    ],
                    ..SourceStatus::default()
                },
                SourceStatus {
                    source: "other".into(),
                    error: Some("connection refused".into()),
                    ..SourceStatus::default()
                },
            ],
        };
        let expected = "\
source main: table outbox, last seq 99, lease held by 7-a for 8 s
  SINK   UNDELIVERED FROM  DELIVERED TO  RANGES  PENDING   OLDEST  FLUSHED  DEAD LETTERS  NOTE
  old                  17            16       1  100000+  1 h 2 m  2 s ago             0  not in the configuration, \
holds the table back: outbox-relay ledger drop or rename
  picks                 -             -       -        -        -        -             0  no ledger yet

source other: not reached: connection refused
";
        assert_eq!(text(&survey, Look::plain()), expected);
        let coloured = text(&survey, Look::coloured());
        assert!(
            coloured.contains("\u{1b}[31mnot reached: connection refused\u{1b}[0m"),
            "{coloured:?}"
        );
    }

    #[test]
    fn holes_are_named_with_their_holders() {
        let mut behind = ledger(1, true);
        behind.holes = Some(2);
        let mut status = SourceStatus {
            sinks: vec![sink("picks", true, Some(behind))],
            ..SourceStatus::default()
        };
        let text = holes(&status).expect("holes");
        assert!(text.contains("no transaction is open"), "{text}");
        let open = |who: &str, age_seconds| OpenTransactionStatus {
            who: who.into(),
            pid: Some(7),
            age_seconds,
        };
        status.open_transactions = Some(vec![
            open("backend 7 (app)", Some(61.0)),
            open("backend 8", None),
        ]);
        assert_eq!(
            holes(&status).expect("holes"),
            "2 seq were drawn and have no event; they may be held by backend 7 (app) for 1 m 1 s, backend 8"
        );
    }

    #[test]
    fn a_span_has_two_units() {
        for (seconds, text) in [
            (-1.0, "0.0 s"),
            (0.34, "0.3 s"),
            (59.9, "59 s"),
            (61.0, "1 m 1 s"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}

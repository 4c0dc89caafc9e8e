//! What the demo says, on standard error: standard output is for events.

use std::io::Write as _;
use std::time::Duration;

use super::draft::DRAFTS;
use super::tally::Outcome;
use crate::cli::look::{Look, Style};

/// Says it in the colours that standard error can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary(Look);

impl Summary {
    /// As standard error can show it.
    pub(super) fn on_standard_error() -> Self {
        Self(Look::of(&std::io::stderr()))
    }

    pub(super) fn introduce(self, events: u64) {
        let title = self.0.paint(Style::Bold, "outbox-relay demo");
        let what = format!(
            "{events} picks in {} fantasy drafts · SQLite outbox → standard output · no server",
            DRAFTS.len()
        );
        say(&format!("{title}  {}\n", self.0.paint(Style::Faint, &what)));
    }

    pub(super) fn sum_up(self, outcome: &Outcome) {
        say(&format!("\n{}", self.summary(outcome)));
    }

    fn summary(self, outcome: &Outcome) -> String {
        let mut lines = vec![
            self.line(
                true,
                "committed",
                outcome.committed,
                "each in one transaction with its business row",
            ),
            self.line(
                outcome.missing == 0 && outcome.disordered == 0,
                "published",
                outcome.published,
                &published(outcome),
            ),
            self.line(
                outcome.phantoms == 0,
                "rolled back",
                outcome.rolled_back,
                &never_seen(outcome),
            ),
        ];
        let latency = format!(
            "p50 {} · p99 {}",
            in_millis(outcome.p50),
            in_millis(outcome.p99)
        );
        let from = self.0.paint(Style::Faint, "from COMMIT to standard output");
        lines.push(format!("  latency      {latency}  {from}"));
        lines.push(String::new());
        if outcome.is_right() {
            let next = self
                .0
                .paint(Style::Faint, "Next, with PostgreSQL and NATS JetStream:");
            // The small build of the first command knows neither of them.
            let install = if cfg!(all(feature = "postgres", feature = "nats")) {
                ""
            } else {
                "cargo install --locked --path . && "
            };
            let command =
                format!("{install}outbox-relay --config config/jetstream.toml run --migrate");
            lines.push(format!("  {next}"));
            lines.push(format!("  {}", self.0.paint(Style::Bold, &command)));
        }
        lines.join("\n")
    }

    fn line(self, is_right: bool, name: &str, count: usize, remark: &str) -> String {
        let mark = if is_right {
            self.0.paint(Style::Green, "✓")
        } else {
            self.0.paint(Style::Red, "✗")
        };
        let count = self.0.paint(Style::Bold, &format!("{count:>6}"));
        let style = if is_right { Style::Faint } else { Style::Red };
        format!("{mark} {name:<11} {count}  {}", self.0.paint(style, remark))
    }
}

fn published(outcome: &Outcome) -> String {
    let mut remarks = Vec::new();
    if outcome.missing > 0 {
        remarks.push(format!("{} are missing", outcome.missing));
    }
    if outcome.disordered > 0 {
        remarks.push(format!("{} drafts out of order", outcome.disordered));
    }
    if remarks.is_empty() {
        remarks.push("all of them, each draft in the order of its picks".to_owned());
    }
    if outcome.repeated > 0 {
        remarks.push(format!("{} of them twice", outcome.repeated));
    }
    remarks.join(", ")
}

fn never_seen(outcome: &Outcome) -> String {
    match outcome.phantoms {
        0 => "after writing both rows, and never seen".to_owned(),
        count => format!("{count} events were published that never happened"),
    }
}

fn in_millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

fn say(text: &str) {
    // Nobody is left to tell if this can't be printed.
    writeln!(std::io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_kept_and_what_was_broken() {
        let look = Summary(Look::plain());
        let mut outcome = Outcome {
            committed: 200,
            published: 200,
            rolled_back: 24,
            p50: Duration::from_micros(6_250),
            p99: Duration::from_millis(12),
            ..Outcome::default()
        };
        let summary = look.summary(&outcome);
        let (summary, command) = summary.rsplit_once("\n  ").expect("several lines");
        assert!(command.ends_with("outbox-relay --config config/jetstream.toml run --migrate"));
        assert_eq!(
            summary,
            "✓ committed      200  each in one transaction with its business row\n\
             ✓ published      200  all of them, each draft in the order of its picks\n\
             ✓ rolled back     24  after writing both rows, and never seen\n  \
             latency      p50 6.2 ms · p99 12.0 ms  from COMMIT to standard output\n\n  \
             Next, with PostgreSQL and NATS JetStream:"
        );
        outcome.missing = 2;
        outcome.phantoms = 1;
        let text = look.summary(&outcome);
        assert!(
            text.contains("✗ published      200  2 are missing\n"),
            "{text}"
        );
        assert!(
            text.contains("✗ rolled back     24  1 events were published"),
            "{text}"
        );
        assert!(!text.contains("Next"), "{text}");
    }
}

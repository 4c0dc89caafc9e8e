//! How far a command that takes a while has come: a bar on standard error if that is a terminal, else nothing.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// The bar redraws itself 20 times a second at most, however often it steps.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Of this many steps, each of which is one of `what`; a single one is not worth a bar.
    pub(super) fn of(steps: u64, what: &str) -> Self {
        let bar = (steps > 1).then(|| {
            // Hidden by itself where standard error is no terminal.
            let bar = ProgressBar::new(steps);
            let template =
                format!("{{bar:40}} {{human_pos}}/{{human_len}} {what}, {{rate}}/s, {{eta}} left");
            match ProgressStyle::with_template(&template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ").with_key(
                    "rate",
                    |state: &ProgressState, out: &mut dyn Write| {
                        // Whoever draws has no use for an error, either.
                        write!(out, "{:.0}", state.per_sec()).ok();
                    },
                )),
                Err(_) => bar,
            }
        });
        Self(bar)
    }

    /// One step is done.
    pub(super) fn step(&self) {
        self.steps(1);
    }

    /// So many steps are done.
    pub(super) fn steps(&self, steps: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(steps);
        }
    }
}

impl Drop for Progress {
    /// Takes the bar away: what comes next has the line for itself.
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

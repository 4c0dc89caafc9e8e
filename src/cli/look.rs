//! Colours, where somebody is there to see them.

use std::io::IsTerminal;

/// How text may look on one of the standard streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    colours: bool,
}

/// What a text is to stand out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Bold,
    /// For the demo only.
    #[cfg(feature = "sqlite")]
    Faint,
    Green,
    Yellow,
    Red,
}

impl Look {
    /// As this stream can show it: colours on a terminal, unless `NO_COLOR` is set.
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && stream.is_terminal(),
        }
    }

    /// Without any.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    /// With them, wherever it goes.
    #[cfg(test)]
    pub(super) fn coloured() -> Self {
        Self { colours: true }
    }

    pub(super) fn has_colours(self) -> bool {
        self.colours
    }

    pub(super) fn paint(self, style: Style, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => 1,
            #[cfg(feature = "sqlite")]
            Style::Faint => 2,
            Style::Green => 32,
            Style::Yellow => 33,
            Style::Red => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

//! Figures that a test prints: `tests/run` shows them, also of tests that pass.

/// Prints one line of figures.
macro_rules! report {
    ($($argument:tt)*) => {{
        #[allow(clippy::print_stdout)]
        {
            println!($($argument)*);
        }
    }};
}

pub(crate) use report;

//! Words, colours and durations for people.

use std::io::IsTerminal;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use windlass::StepState;

/// Starts the log on standard error: warnings, or more.
pub(crate) fn start_log(verbose: u8, variables: &dyn Fn(&str) -> Option<String>) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = variables("WINDLASS_LOG").unwrap_or_else(|| level.to_owned());
    let colour = Colour::of_stderr(variables).0;
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false);
    // A second start is a bug of ours, and no reason to stop.
    log.try_init().ok();
}

/// Whether to colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colour(pub(crate) bool);

impl Colour {
    pub(crate) fn of_stderr(variables: &dyn Fn(&str) -> Option<String>) -> Self {
        let refused = variables("NO_COLOR").is_some_and(|v| !v.is_empty())
            || variables("TERM").as_deref() == Some("dumb");
        Self(!refused && std::io::stderr().is_terminal())
    }

    /// Returns the sign and word of a state, coloured if that is wanted.
    pub(crate) fn state(self, state: StepState) -> String {
        let (sign, code) = match state {
            StepState::Succeeded => ("✓", 32),
            StepState::Cached => ("=", 32),
            StepState::Failed => ("✗", 31),
            StepState::Skipped => ("-", 90),
            StepState::Cancelled => ("!", 33),
            StepState::Running => ("▸", 34),
            StepState::Unknown => ("?", 35),
            _ => ("·", 90),
        };
        let text = format!("{sign} {state:9}");
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text
        }
    }
}

/// Prints a duration in three or four characters of meaning: `0.4s`, `12.3s`, `4m08s`, `2h05m`.
pub(crate) fn took(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", d.as_secs_f64()),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Writes to standard output. A reader that went away has seen enough.
pub(crate) fn out(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .ok();
}

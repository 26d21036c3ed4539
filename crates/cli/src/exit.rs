//! What the binary tells a scheduler by its exit code.
//!
//! A caller may act on the number alone, so a number never changes its meaning. A process that is
//! killed has no code of ours: its run goes on with the next `windlass run`.

use std::process::ExitCode;

use windlass::RunState;

/// Why the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The run succeeded, now or before; or the command did what was asked.
    Done = 0,
    /// The run failed.
    Failed = 1,
    /// The command line or the project is wrong; nothing was started. clap's own code, too.
    Wrong = 2,
    /// The run was cancelled.
    Cancelled = 3,
    /// The engine or its store could not do its work, so nobody can tell how the run is.
    Unknown = 4,
}

impl Exit {
    /// Returns the number that the process ends with.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the exit of a command that saw a run in that state last.
    pub(crate) const fn of(state: RunState) -> Self {
        match state {
            RunState::Succeeded => Self::Done,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
            // The engine went before the run did.
            _ => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The foot of `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  succeeded, now or before
  1  the run failed
  2  the command line or the project is wrong; nothing was started
  3  the run was cancelled
  4  could not tell: the engine or its store could not do its work";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_run_has_its_own_code() {
        let codes: Vec<u8> = RunState::ALL.iter().map(|s| Exit::of(*s).code()).collect();
        // Queued, running, paused: the process can't know what comes.
        assert_eq!(codes, [4, 4, 4, 0, 1, 3]);
    }

    #[test]
    fn the_help_names_every_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Wrong,
            Exit::Cancelled,
            Exit::Unknown,
        ] {
            assert!(HELP.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }
}

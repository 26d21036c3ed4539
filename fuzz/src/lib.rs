//! What is fuzzed: one function a target, each with everything that must hold for any bytes at all.
//!
//! A function panics if something doesn't hold; libFuzzer adds the limits of time and memory. The
//! functions are a library so that `cargo test` replays the seeds on a stable compiler, without
//! libFuzzer.

#![cfg(fuzzing)]

mod amounts;
mod expression;
mod import;
mod project;
mod spec;
mod talk;

pub use amounts::{amounts, cron};
pub use expression::expression;
pub use import::wfformat;
pub use project::{environment_file, pipeline_file, project_file, template_file};
pub use spec::spec;
pub use talk::{answer, control, redaction};

/// A target: takes any bytes, and panics if something doesn't hold.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("amounts", amounts),
    ("answer", answer),
    ("control", control),
    ("cron", cron),
    ("environment_file", environment_file),
    ("expression", expression),
    ("pipeline_file", pipeline_file),
    ("project_file", project_file),
    ("redaction", redaction),
    ("spec", spec),
    ("template_file", template_file),
    ("wfformat", wfformat),
];

/// Text of a file must be fit for a terminal: no control characters but line ends and tabs.
fn assert_printable(text: &str) {
    let bad = text
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(bad, None, "a message holds a control character: {text:?}");
}

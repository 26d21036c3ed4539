//! What the benchmarks share: a table for people, and one line a bar for machines.

#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]

use std::time::Duration;

/// Prints the line of a bar; `value` must not exceed `goal`, or must reach it if `at_least`.
pub(crate) fn bar(name: &str, value: f64, unit: &str, goal: f64, at_least: bool) {
    let met = if at_least {
        value >= goal
    } else {
        value <= goal
    };
    let sign = if at_least { ">=" } else { "<=" };
    println!(
        "bar {name} {value:.3} {unit} goal {sign}{goal} {}",
        if met { "met" } else { "missed" }
    );
}

/// Prints a row of the table.
pub(crate) fn row(name: &str, steps: usize, took: Duration, note: &str) {
    let each = took.as_secs_f64() * 1e9 / steps as f64;
    println!(
        "{name:36} {steps:>9} steps {:>10.3} ms {each:>10.0} ns/step {:>12.0} steps/s  {note}",
        took.as_secs_f64() * 1e3,
        1e9 / each
    );
}

/// Returns true for a short run that only shows that everything works.
pub(crate) fn quick() -> bool {
    std::env::args().any(|a| a == "--quick")
}

//! The process sandbox with real processes. Where a machine lacks control groups or namespaces,
//! the tests assert that the target says so instead.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "test code outside of test functions fails by panicking and prints what it skips"
)]

mod contract;
mod ends;
mod hosts;
mod kit;
mod levels;
mod liar;
mod limits;
mod logs;
mod rootless;
mod suite;
mod walls;

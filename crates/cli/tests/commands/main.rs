//! The binary as people and schedulers use it: what it prints, what it leaves behind, how it ends.
//!
//! Every test runs the real program on a real folder.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod control;
mod ends;
mod explained;
mod files;
mod given;
mod graphs;
mod help;
mod kept;
mod killed;
mod kit;
mod logs;
mod programs;
mod reruns;
mod resolves;
mod share;
mod states;
mod store;

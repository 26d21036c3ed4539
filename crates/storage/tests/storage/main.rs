//! The storages and what is built on them, through the public API only.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod conformance;
mod dataset;
mod liar;
mod local;
mod outputs;
#[cfg(all(feature = "s3", feature = "azure"))]
mod servers;
mod steps;
mod support;
mod transfer;
mod wrappers;

//! Conformance suites and simulation for Windlass adapters.
//!
//! Only ever a dev-dependency: suites panic where a promise is broken.

pub mod conformance;
pub mod sim;

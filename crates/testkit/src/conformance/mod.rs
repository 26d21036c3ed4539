//! What every implementation of a seam must do: one suite for each trait, called by each adapter's tests.

pub mod compute;
pub mod notifier;
mod report;
pub mod run_store;
pub mod storage;

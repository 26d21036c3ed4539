//! What every implementation of a seam must do: one suite for each trait, called by each adapter's tests.

pub mod clock;
pub mod compute;
pub mod expressions;
pub mod ids;
pub mod notifier;
pub mod reactor;
mod report;
pub mod run_store;
pub mod sharing;
pub mod step;
pub mod storage;

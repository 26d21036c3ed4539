//! What becomes of runs when their store fails under them, and when hosts that share it come and go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod held;
mod hosts;
mod kills;
mod kit;
mod results;
mod stores;
mod wobbly;

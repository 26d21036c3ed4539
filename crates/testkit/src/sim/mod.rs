//! Time and ids that a test owns.

mod clock;
mod ids;

pub use clock::PausedClock;
pub use ids::SeededIds;

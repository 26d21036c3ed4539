//! engine
mod admission;
mod clock;
mod decide;
mod settings;
mod state;
pub use clock::{SystemClock, SystemIds};
pub use settings::Settings;

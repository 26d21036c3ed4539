//! Time and ids that a test owns, and the simulation of a whole engine.
//!
//! [`play`] runs an engine through a *history*: random pipelines, people who start, cancel, pause
//! and rerun, hosts that die at any point and come back, a store that fails and forgets what it
//! may, notifiers that fail and repeat. All of it hangs on one seed, in virtual time on one
//! thread, so a history that breaks an invariant breaks it again. [`search`] plays many.
//!
//! What is checked, after every commit or call: no step accepted twice; no launch without an intent
//! that is kept; no pool over its limit; tokens only grow; an ended run, step or attempt never
//! changes; events and rows tell the same; what a caller was told is kept; a notification is
//! kept before it is sent, and arrives; and when nothing fails any more, every run ends or says
//! what it waits for.

mod clock;
mod code;
mod deeds;
mod dice;
mod fold;
mod history;
mod host;
mod ids;
mod lease;
mod line;
mod objects;
mod people;
mod plan;
mod promises;
mod rows;
mod rules;
mod script;
mod search;
mod store;
mod target;
mod trace;
mod weather;
mod world;

pub use clock::PausedClock;
pub use dice::Dice;
pub use fold::{Fold, Place};
pub use history::{Broken, Played, play};
pub use ids::SeededIds;
pub use search::{Searched, search};
pub use trace::Trace;
pub use world::Counts;

//! Pipelines of other systems, made into projects of ours.
//!
//! An importer reads bytes and returns a project in memory; only its `write` touches a disk. What
//! it reads comes from strangers: it is checked before anything is made of it, everything that is
//! wrong is reported at once, and nothing of it is ever executed.

mod error;
mod names;
pub mod wfformat;

pub use error::{ImportError, ImportErrorKind};

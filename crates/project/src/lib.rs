//! Pipeline files, templates and environments: files in, validated specs out.
//!
//! Errors carry file, line and column, are all reported at once, and read like rustc's. Loading
//! never writes, never runs anything and never asks the network. What a hostile file can cost is
//! bounded: in size, depth and number of values, in the work of its expressions, and in the number
//! of its errors.

mod convert;
mod decode;
mod diagnostic;
mod environment;
mod expression;
mod files;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
mod load;
mod project;
mod schedule;
pub mod schema;
mod secret;
mod template;
mod yaml;

pub use diagnostic::{Diagnostic, RelatedPlace, Report, Severity};
pub use environment::{
    CacheBinding, ComputeBinding, EnvironmentSpec, NotifierBinding, RetentionBinding,
    StorageBinding, StoreBinding,
};
pub use expression::Jinja;
pub use project::{LoadedPipeline, PROJECT_FILE, Project};
pub use secret::SecretBinding;
pub use yaml::MAX_BYTES;

//! Pipeline files, templates and environments: files in, validated specs out.
//!
//! Errors carry file, line and column, are all reported at once, and read like rustc's. Loading
//! never writes, never runs anything and never asks the network.

mod convert;
mod decode;
mod diagnostic;
mod environment;
mod expression;
mod files;
pub mod import;
mod project;
pub mod schema;
mod template;
mod yaml;

pub use diagnostic::{Diagnostic, Report, Severity};
pub use environment::{
    ComputeBinding, EnvironmentSpec, NotifierBinding, SecretBinding, StorageBinding, StoreBinding,
};
pub use expression::Jinja;
pub use project::{LoadedPipeline, PROJECT_FILE, Project};
pub use yaml::MAX_BYTES;

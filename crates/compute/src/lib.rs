//! Compute targets: where the jobs of a run are executed.
//!
//! One adapter lives here, [`ProcessTarget`]: jobs as sandboxed processes of this machine, without
//! a daemon. Each adapter is behind a feature and implements [`windlass_core::ComputeTarget`].
//! [`host`] helps to write another one. Steps that are Rust code run in the engine, not here.

#[cfg(all(feature = "process", unix))]
pub mod host;
#[cfg(all(feature = "process", target_os = "linux"))]
mod process;

#[cfg(all(feature = "process", target_os = "linux"))]
pub use process::{
    ProcessTarget, ProcessTargetBuilder, SandboxLevel, init_if_child, machine_capacity,
};

#[cfg(all(feature = "process", target_os = "linux", fuzzing))]
#[doc(hidden)]
pub use process::fuzzing;

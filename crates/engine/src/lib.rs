//! The Windlass engine: pure rules, one loop, one writer.
//!
//! A host builds an [`Engine`] from a run store, storages, compute targets and notifiers, deploys
//! pipelines and starts runs. The rules (`decide`) are a pure function over a run's state; the
//! driver commits what they decide before anybody acts on it; see ARCHITECTURE.md for the map.

#[doc(hidden)] // Open to the benchmarks, and no part of the interface.
pub mod admission;
mod bound;
mod builder;
mod builtin;
mod cache;
mod clock;
mod decide;
mod driver;
mod engine;
mod error;
mod events;
mod executor;
mod give;
mod handle;
mod hub;
mod jobs;
mod lease;
mod outbox;
mod preview;
mod recovery;
mod reload;
mod rerun;
mod retention;
mod settings;
mod signals;
mod staging;
mod state;
mod sweep;
mod writer;

pub use builder::EngineBuilder;
pub use clock::{SystemClock, SystemIds};
pub use engine::{Engine, PoolView, RunSummary, SecretLookup};
pub use error::{Error, ErrorKind};
pub use give::check_signal;
pub use handle::{Explained, RunHandle, RunRequest, RunView, StepView};
pub use preview::{CancelPlan, PausePlan, ResumePlan, plan_cancel, plan_pause, plan_resume};
pub use rerun::{RerunPlan, ReusedItems, plan_fork, plan_rerun};
pub use settings::{CacheRetention, Retention, Settings};
pub use sweep::{SweepOptions, SweptRun, sweep};

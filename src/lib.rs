//! Windlass: an embeddable, durable workflow engine for machine-learning and data pipelines.
//!
//! A host adds this crate, wires a run store, storages, compute targets and notifiers into an
//! [`Engine`], deploys pipelines and starts runs. State survives any crash; the next engine on the
//! same store goes on. Nothing of the user's code is ever re-executed to recover.
//!
//! ```
//! use windlass::{Engine, MemoryStore, Pipeline, RunRequest, RunState};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder(MemoryStore::new()).build().await?;
//! let mut churn = Pipeline::builder("churn");
//! let rows = churn.add("fetch", |_| async { Ok(vec![3_u64, 4, 5]) });
//! churn.add_with("total", rows, |_, rows: Vec<u64>| async move { Ok(rows.iter().sum::<u64>()) });
//! engine.deploy(churn.build()?).await?;
//!
//! let run = engine.start(RunRequest::new("churn", "2026-11-03".parse()?)).await?; // same key, same run
//! assert_eq!(run.outcome().await?.state, RunState::Succeeded);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! None is on by default: without features there is no TLS, SQL or cloud code.
//! `sqlite`, `process`, `project`, `webhook`, `webhook-tls`, `s3`, `azure`, `gcs`; see Cargo.toml.

#[cfg(all(feature = "project", feature = "sqlite", feature = "process"))]
pub mod wiring;

pub use windlass_alerts::{AlertReactor, LogNotifier, Redactor, Routes};
#[cfg(feature = "webhook")]
pub use windlass_alerts::{SigningKey, WebhookNotifier};
#[cfg(all(feature = "process", unix))]
pub use windlass_compute::host;
#[cfg(feature = "process")]
pub use windlass_compute::{ProcessTarget, ProcessTargetBuilder, SandboxLevel, init_if_child};
pub use windlass_core::*;
pub use windlass_engine::*;
#[cfg(feature = "project")]
pub use windlass_project as project;
#[cfg(feature = "redb")]
pub use windlass_state::RedbStore;
#[cfg(feature = "sqlite")]
pub use windlass_state::rusqlite;
#[cfg(feature = "postgres")]
pub use windlass_state::tokio_postgres;
#[cfg(feature = "sqlite")]
pub use windlass_state::{
    Compacted, ExportLine, SqliteEffect, SqliteEffectError, SqliteOptions, SqliteStore, SqliteTx,
};
pub use windlass_state::{LargeValues, MOST_INLINE, MemoryCluster, MemoryHost, MemoryStore};
#[cfg(feature = "postgres")]
pub use windlass_state::{
    PostgresEffect, PostgresEffectError, PostgresEffectFuture, PostgresOptions, PostgresStore,
    PostgresTx,
};
#[cfg(unix)]
pub use windlass_storage::LocalStorage;
pub use windlass_storage::{
    LimitStorage, MemoryStorage, ObjectStorage, Prefixed, RetryStorage, dataset, open_url, steps,
};

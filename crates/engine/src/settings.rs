//! What a host may set about an engine; every field has a default that is safe.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::units::{duration, optional_duration};
use windlass_core::{JobSpec, LogicalName};

/// Settings of an engine.
///
/// ```
/// use windlass_engine::Settings;
/// let settings = Settings { workers: 4, ..Settings::default() };
/// assert_eq!(settings.workers, 4);
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..Settings::default()`"
)]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Environment of runs whose request names none. Default: `dev`.
    pub environment: LogicalName,
    /// Tasks that poll in-process steps; 0 means one a core of the runtime. Default: 0.
    pub workers: usize,
    /// Storage that holds the folders of runs; needed for `run`, `copy` and `publish` steps. Default: none.
    pub run_storage: Option<LogicalName>,
    /// Compute target of `run` steps that name none. Default: none.
    pub default_target: Option<LogicalName>,
    /// Folder that the `code` of steps lies in: the project. Default: none, so `code` is refused.
    pub code_root: Option<PathBuf>,
    /// Folder for staging when the run storage isn't on this host. Default: the system's temporary folder.
    pub scratch: PathBuf,
    /// Time between asking a step to stop and killing it, for steps that don't say. Default: 10 s.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// How often jobs are asked about besides the hints of their target. Longer saves calls to a
    /// cluster, shorter finds a lost hint sooner. Default: 5 s.
    #[serde(with = "duration")]
    pub observe_interval: Duration,
    /// How long the outbox rests when there is nothing to deliver and nobody rang. Default: 30 s.
    #[serde(with = "duration")]
    pub outbox_interval: Duration,
    /// How often the store is asked for signals of other processes (cancel, pause, …). Shorter
    /// answers sooner, longer reads less. Default: 250 ms.
    #[serde(with = "duration")]
    pub signal_interval: Duration,
    /// Which ended runs are deleted from the store. Default: none.
    pub retention: Retention,
    /// Which kept results are forgotten. Default: none.
    pub cache_retention: CacheRetention,
    /// How often runs and kept results are looked through for that, beside each time a pipeline is deployed.
    /// Default: 10 min.
    #[serde(with = "duration")]
    pub retention_interval: Duration,
    /// Bytes of each log of a job that are kept. Default: 16 MiB.
    pub log_cap_bytes: u64,
    /// Transitions that may wait for the writer before the engine stops deciding. Default: 4096.
    pub writer_queue: usize,
    /// Events that a subscriber may be behind before it loses the oldest. Default: 65,536.
    pub event_buffer: usize,
}

/// Which ended runs are deleted from the store; one that either rule names goes.
///
/// What they wrote to storages stays until somebody calls [`crate::sweep`]. A key whose run is deleted starts a new one, so runs are kept
/// for longer than anybody may ask for the same one again. What an unfinished run needs stays: the
/// run that it reruns, and the runs that its steps started.
///
/// ```
/// use windlass_engine::{Retention, Settings};
/// let retention = Retention { keep_last: Some(1_000), ..Retention::default() };
/// let settings = Settings { retention, ..Settings::default() };
/// assert_eq!(settings.retention.max_age, None);
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..Retention::default()`"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Deletes runs that ended longer ago. Default: none.
    #[serde(with = "optional_duration")]
    pub max_age: Option<Duration>,
    /// Deletes all but so many of the latest runs of each deployed pipeline. Default: none.
    pub keep_last: Option<u32>,
}

impl Retention {
    /// Returns true if nothing is ever deleted.
    #[must_use]
    pub const fn keeps_all(&self) -> bool {
        self.max_age.is_none() && self.keep_last.is_none()
    }
}

/// Which kept results are forgotten; one that either rule names goes. What they name in storages
/// belongs to the run that wrote it: when that is forgotten, too, [`crate::sweep`] deletes it.
///
/// A result that was computed or served since the oldest run that has not ended began stays: that run may
/// have it.
///
/// ```
/// use windlass_engine::{CacheRetention, Settings};
/// let cache_retention = CacheRetention { max_bytes: Some(500 << 30), ..CacheRetention::default() };
/// let settings = Settings { cache_retention, ..Settings::default() };
/// assert_eq!(settings.cache_retention.max_age, None);
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..CacheRetention::default()`"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheRetention {
    /// Forgets results that were neither computed nor served for so long. Default: none.
    #[serde(with = "optional_duration")]
    pub max_age: Option<Duration>,
    /// Forgets those that were not used for longest, until the values and artifacts that the others name have at
    /// most so many bytes. Default: none.
    pub max_bytes: Option<u64>,
}

impl CacheRetention {
    /// Returns true if nothing is ever forgotten.
    #[must_use]
    pub const fn keeps_all(&self) -> bool {
        self.max_age.is_none() && self.max_bytes.is_none()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            environment: LogicalName::new("dev")
                .unwrap_or_else(|_| unreachable!("`dev` obeys the rules of logical names")),
            workers: 0,
            run_storage: None,
            default_target: None,
            code_root: None,
            scratch: std::env::temp_dir(),
            grace: Duration::from_secs(10),
            observe_interval: Duration::from_secs(5),
            outbox_interval: Duration::from_secs(30),
            signal_interval: Duration::from_millis(250),
            retention: Retention::default(),
            cache_retention: CacheRetention::default(),
            retention_interval: Duration::from_secs(600),
            log_cap_bytes: JobSpec::DEFAULT_LOG_CAP,
            writer_queue: 4_096,
            event_buffer: 65_536,
        }
    }
}

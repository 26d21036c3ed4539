//! What every [`ComputeTarget`] must do.
//!
//! [`check`] runs small shell scripts on a real target and says which promises of the trait hold;
//! [`hold`] panics with those that don't. What a target says it can't do (its
//! [`windlass_core::TargetCapabilities`]) and what the caller can't show ([`Setup::another`]) is
//! skipped and named: it is not passed.
//!
//! The caller brings a [`Setup`]: how a shell is run there, and where a job's files lie.
//! [`HostFolders`] is one for targets that take paths of this host. Everything happens in real
//! time, so call it on a runtime whose time is not paused.
//!
//! It deliberately doesn't kill the host: what a crash may take is for each target's own tests.

mod ends;
mod files;
mod keys;
mod limits;
mod logs;
mod setup;
mod stops;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use windlass_core::{
    AttemptNo, ComputeError, ComputeErrorKind, ComputeTarget, Found as Looked, JobEnd, JobHandle,
    JobSpec, LogStream, Observation, Phase, RunId, SubmitKey, Timestamp, error_chain,
};

pub use super::report::Report;
use super::report::{Found, Miss, broken, that, within};
pub use setup::{HostFolders, Setup};

/// Time between two looks at a job, as hints may be lost.
const GLANCE: Duration = Duration::from_millis(10);

impl From<ComputeError> for Miss {
    fn from(e: ComputeError) -> Self {
        Self::Broken(format!("{:?}: {}", e.kind(), error_chain(&e)))
    }
}

fn fails_with<T>(what: &str, result: Result<T, ComputeError>, kind: ComputeErrorKind) -> Found {
    match result {
        Ok(_) => broken(format!("{what} succeeded instead of {kind:?}")),
        Err(e) => that(e.kind() == kind, || {
            let found = error_chain(&e);
            format!("{what} failed with {:?}: {found}, not {kind:?}", e.kind())
        }),
    }
}

/// The target, and an owner for the jobs of one promise.
struct Bench<'a> {
    target: &'a Arc<dyn ComputeTarget>,
    setup: &'a dyn Setup,
    owner: String,
    next: AtomicU32,
}

impl Bench<'_> {
    fn key(&self) -> SubmitKey {
        self.key_of(&self.owner)
    }

    fn key_of(&self, owner: &str) -> SubmitKey {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let run = RunId::from_parts(Timestamp::from_micros(1_793_000_000_000_000), 7);
        SubmitKey::new(owner, run, format!("step-{number}"), AttemptNo::new(1))
    }

    async fn shell(&self, script: &str) -> Result<JobSpec, Miss> {
        Ok(self.setup.shell(script).await?)
    }

    /// Submits under a new key.
    async fn start(&self, spec: &JobSpec) -> Result<JobHandle, Miss> {
        let submitted = self.target.submit(&self.key(), spec).await?;
        Ok(submitted.into_handle())
    }

    async fn see(&self, handle: &JobHandle) -> Result<Observation, Miss> {
        let mut seen = self.target.observe(std::slice::from_ref(handle)).await?;
        match (seen.pop(), seen.is_empty()) {
            (Some(seen), true) => Ok(seen),
            _ => broken("one handle didn't give one observation"),
        }
    }

    /// Waits until `wanted` holds of the job, woken by the target's hints where it gives them.
    async fn until(
        &self,
        handle: &JobHandle,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Result<Observation, Miss> {
        let mut hints = self.target.watch();
        loop {
            let seen = self.see(handle).await?;
            if wanted(&seen) {
                return Ok(seen);
            }
            let hint = async {
                if hints.next().await.is_none() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = hint => {}
                () = glance() => {}
            }
        }
    }

    async fn done(&self, handle: &JobHandle) -> Result<Observation, Miss> {
        self.until(handle, |seen| matches!(seen.phase, Phase::Done(_)))
            .await
    }

    /// Waits until the job's standard output has that text, and so its script is there.
    async fn printed(&self, handle: &JobHandle, text: &str) -> Found {
        loop {
            let seen = self.see(handle).await?;
            // A log may come to be only when the job starts.
            match self.target.logs(handle, LogStream::Stdout, 0).await {
                Ok(log) if String::from_utf8_lossy(&log).contains(text) => return Ok(()),
                Err(e) if e.kind() != ComputeErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
            that(!matches!(seen.phase, Phase::Done(_)), || {
                format!("it ended before it printed {text:?}: {seen:?}")
            })?;
            glance().await;
        }
    }

    async fn end_of(&self, handle: &JobHandle) -> Result<JobEnd, Miss> {
        match self.done(handle).await?.phase {
            Phase::Done(end) => Ok(end),
            phase => broken(format!("an end that is none: {phase:?}")),
        }
    }

    async fn ends_with(&self, handle: &JobHandle, expected: &JobEnd) -> Found {
        let end = self.end_of(handle).await?;
        if end == *expected {
            return Ok(());
        }
        let err = self.log(handle, LogStream::Stderr).await;
        let err = err.map(|e| String::from_utf8_lossy(&e).into_owned());
        let err = err.unwrap_or_else(|_| "(no log)".to_owned());
        broken(format!("ended with {end:?} instead of {expected:?}: {err}"))
    }

    /// Runs a job that must end well.
    async fn run(&self, spec: &JobSpec) -> Result<JobHandle, Miss> {
        let handle = self.start(spec).await?;
        self.ends_with(&handle, &JobEnd::Exit(0)).await?;
        Ok(handle)
    }

    /// Reads a whole log, piece by piece.
    async fn log(&self, handle: &JobHandle, stream: LogStream) -> Result<Vec<u8>, Miss> {
        let mut all = Vec::new();
        loop {
            let piece = self.target.logs(handle, stream, all.len() as u64).await?;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&piece);
        }
    }

    /// Reads what a job wrote beneath its outputs.
    async fn output(&self, spec: &JobSpec, name: &str) -> Result<String, Miss> {
        match self.setup.read(&spec.outputs, name).await? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => broken(format!("there is no output `{name}`")),
        }
    }

    /// Checks that nothing was ever submitted under the key.
    async fn never_submitted(&self, key: &SubmitKey) -> Found {
        let found = self.target.find(key).await?;
        that(found == Looked::Never, || {
            format!("{found:?}, and nothing was submitted")
        })
    }

    /// Stops and forgets the promise's jobs, whatever became of them.
    async fn clear(&self) -> Found {
        for handle in self.target.list_owned(&self.owner).await? {
            self.target.cancel(&handle, Duration::ZERO).await?;
            self.done(&handle).await?;
            self.target.release(&handle).await?;
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "hints may be lost, so the suite looks again like the engine does; jobs take real time"
)]
async fn glance() {
    tokio::time::sleep(GLANCE).await;
}

/// Tries every promise on a target that nobody else uses.
pub async fn check(target: &Arc<dyn ComputeTarget>, setup: &dyn Setup) -> Report {
    let mut report = Report::default();
    macro_rules! promises {
        ($($area:ident { $($promise:ident,)* })*) => {$($(
            let bench = Bench {
                target,
                setup,
                owner: format!("{}/{}", setup.owner(), stringify!($promise)),
                next: AtomicU32::new(1),
            };
            let found = within(setup.patience(), $area::$promise(&bench)).await;
            let cleared = within(setup.patience(), bench.clear()).await;
            report.note(stringify!($promise), found.and(cleared));
        )*)*};
    }
    promises! {
        keys {
            a_key_that_was_never_submitted_is_never_found,
            submitting_twice_gives_one_job,
            of_racing_submits_one_creates,
            another_attempt_is_another_job,
            a_handle_can_be_written_down,
            a_dropped_handle_leaves_the_job_running,
            a_dropped_submit_never_makes_a_second_job,
            jobs_are_listed_by_their_owner,
            a_released_job_is_forgotten,
            a_running_job_is_not_forgotten,
            an_ended_job_is_known_to_the_next_target,
            a_running_job_is_found_by_the_next_target,
        }
        ends {
            an_exit_code_is_told,
            a_signal_is_told,
            a_program_that_is_not_there_never_ran,
            an_end_stays,
            jobs_are_observed_in_the_order_of_their_handles,
            an_unknown_handle_is_a_lost_job,
            phases_go_forward,
            hints_tell_what_was_so,
            hints_end_with_their_target,
            usage_is_what_was_used,
        }
        files {
            outputs_outlive_the_job,
            a_result_is_a_file_beside_the_outputs,
            inputs_are_found_by_name,
            an_input_made_of_parts_is_one_folder,
            inputs_can_not_be_written,
            what_was_not_declared_can_not_be_read,
            a_job_runs_in_its_code,
            a_job_has_a_temporary_folder,
            variables_reach_the_job_byte_for_byte,
            secrets_reach_the_job_and_nobody_else,
            nothing_of_the_hosts_environment_reaches_the_job,
        }
        stops {
            a_wall_time_ends_the_job,
            a_cancelled_job_says_so,
            a_job_may_use_its_grace,
            after_the_grace_the_whole_tree_is_killed,
            cancelling_twice_is_cancelling_once,
            a_cancel_after_the_end_changes_nothing,
            no_process_is_left_behind,
        }
        logs {
            each_stream_has_its_log,
            a_log_is_read_from_an_offset,
            a_log_grows_while_the_job_runs,
            a_large_log_comes_in_pieces,
            of_a_log_beyond_its_cap_both_ends_are_kept,
        }
        limits {
            more_than_the_target_has_is_refused,
            isolation_is_held_or_refused,
            checking_starts_nothing,
            what_a_check_misses_is_told_of_the_job,
            out_of_memory_is_told,
        }
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub async fn hold(target: &Arc<dyn ComputeTarget>, setup: &dyn Setup) -> Report {
    let report = check(target, setup).await;
    report.or_panic(&format_args!("{target:?}"))
}

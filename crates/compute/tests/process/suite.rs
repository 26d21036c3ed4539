//! The contract of compute targets, at every level of the sandbox that the machine has.

use std::sync::Arc;
use std::time::Duration;

use windlass_compute::SandboxLevel;
use windlass_core::{ComputeTarget, Isolation};
use windlass_testkit::conformance::compute::{HostFolders, Report, check, hold};

use crate::kit::{Place, builder};
use crate::liar::{Careless, Liar};

/// Promises that the suite has: fewer would mean that some were lost.
const PROMISES: usize = 50;

/// Returns the suite's setup for a place, whose target can be opened anew on the same state.
fn setup(place: &Place) -> HostFolders {
    let (state, level) = (place.state(), place.target.level());
    HostFolders::new(place.path("suite")).reopened_by(move || {
        let opened = builder(&state).level(level).build();
        async move { Arc::new(opened.await.unwrap()) as Arc<dyn ComputeTarget> }
    })
}

/// Returns what the level may leave out.
fn expected_to_skip(place: &Place) -> Vec<&'static str> {
    let can = place.target.capabilities();
    let mut skipped = vec!["a_running_job_is_found_by_the_next_target"];
    if !can.isolation.contains(&Isolation::Files) {
        skipped.extend([
            "inputs_can_not_be_written",
            "what_was_not_declared_can_not_be_read",
        ]);
    }
    if !can.isolation.contains(&Isolation::Processes) {
        skipped.push("no_process_is_left_behind");
    }
    if !can.exact_oom {
        skipped.push("out_of_memory_is_told");
    }
    skipped
}

async fn holds(place: &Place) -> Report {
    let target: Arc<dyn ComputeTarget> = Arc::new(place.target.clone());
    let report = hold(&target, &setup(place)).await;
    println!("{}: {report}", place.target.capabilities().summary);
    assert_eq!(report.skipped, expected_to_skip(place));
    assert_eq!(report.held.len() + report.skipped.len(), PROMISES);
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_and_control_groups_keep_the_contract() {
    if let Some(place) = Place::at(SandboxLevel::Full).await {
        holds(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_keep_the_contract() {
    if let Some(place) = Place::at(SandboxLevel::Namespaces).await {
        holds(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn landlock_keeps_the_contract() {
    if let Some(place) = Place::at(SandboxLevel::Landlock).await {
        holds(&place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_processes_keep_the_contract() {
    let place = Place::at(SandboxLevel::Nothing).await.unwrap();
    holds(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_notices_a_target_that_lies() {
    let place = Place::new().await;
    let liar: Arc<dyn ComputeTarget> = Arc::new(Liar::new(place.target.clone()));
    let report = check(&liar, &HostFolders::new(place.path("suite"))).await;
    let broken: Vec<&str> = report.broken.iter().map(|b| b.0).collect();
    assert_eq!(
        broken,
        [
            "submitting_twice_gives_one_job",
            "of_racing_submits_one_creates",
            "a_released_job_is_forgotten",
            "a_running_job_is_not_forgotten",
            "jobs_are_observed_in_the_order_of_their_handles",
            "a_cancelled_job_says_so",
            "a_job_may_use_its_grace",
            "after_the_grace_the_whole_tree_is_killed",
            "cancelling_twice_is_cancelling_once",
            "a_log_is_read_from_an_offset",
            "a_log_grows_while_the_job_runs",
            "a_large_log_comes_in_pieces",
            "more_than_the_target_has_is_refused",
            "isolation_is_held_or_refused",
        ],
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_notices_a_target_that_is_careless() {
    let place = Place::new().await;
    let careless: Arc<dyn ComputeTarget> = Arc::new(Careless(place.target.clone()));
    // A wall time that is forgotten ends by the suite's patience.
    let setup = HostFolders::new(place.path("suite")).patient(Duration::from_secs(8));
    let report = check(&careless, &setup).await;
    let broken: Vec<&str> = report.broken.iter().map(|b| b.0).collect();
    assert_eq!(
        broken,
        [
            "jobs_are_listed_by_their_owner",
            "an_exit_code_is_told",
            "a_signal_is_told",
            "hints_tell_what_was_so",
            "inputs_are_found_by_name",
            "an_input_made_of_parts_is_one_folder",
            "inputs_can_not_be_written",
            "a_job_runs_in_its_code",
            "variables_reach_the_job_byte_for_byte",
            "secrets_reach_the_job_and_nobody_else",
            "a_wall_time_ends_the_job",
            "a_job_may_use_its_grace",
            "a_log_grows_while_the_job_runs",
            "a_large_log_comes_in_pieces",
            "of_a_log_beyond_its_cap_both_ends_are_kept",
            "checking_starts_nothing",
        ],
        "{report}"
    );
}

//! What every [`RunStore`] must do.
//!
//! [`check`] tries each point of the contract on a store of its own and says which hold; [`run`]
//! panics with the points that don't. A store that can't be opened again between a write and a
//! read can wrap itself so that every call opens it anew, and pass the same suite.
//!
//! It deliberately doesn't pull the plug: what a crash may take is for each store's own tests.

mod cache;
mod crowds;
mod deletions;
mod fixtures;
mod outbox;
mod records;
mod runs;
mod signals;
mod transitions;

use std::fmt;
use std::sync::Arc;

use windlass_core::error_chain;
use windlass_core::run_store::{
    Change, Durability, RunStore, StoreError, StoreErrorKind, Transition, Verdict,
};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Points that hold.
    pub held: Vec<&'static str>,
    /// Points that are broken, and how.
    pub broken: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} hold, {} are broken",
            self.held.len(),
            self.broken.len()
        )?;
        let mut broken = self.broken.iter();
        broken.try_for_each(|(point, how)| write!(f, "\n  {point}: {how}"))
    }
}

/// How a point came out; an error says how it is broken.
type Found = Result<(), Broken>;

/// How a point is broken.
struct Broken(String);

impl From<StoreError> for Broken {
    fn from(e: StoreError) -> Self {
        Self(format!("{:?}: {}", e.kind(), error_chain(&e)))
    }
}

fn that(holds: bool, otherwise: impl FnOnce() -> String) -> Found {
    if holds {
        Ok(())
    } else {
        Err(Broken(otherwise()))
    }
}

fn same<T: PartialEq + fmt::Debug>(found: &T, expected: &T) -> Found {
    that(found == expected, || {
        format!("found {found:?} instead of {expected:?}")
    })
}

fn fails_with<T: fmt::Debug>(result: Result<T, StoreError>, kind: StoreErrorKind) -> Found {
    match result {
        Ok(value) => Err(Broken(format!(
            "succeeded with {value:?} instead of {kind:?}"
        ))),
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) => {
            let found = Broken::from(e).0;
            Err(Broken(format!("failed with {found} instead of {kind:?}")))
        }
    }
}

/// A store for one point, and short words for what is done with it most.
#[derive(Debug, Clone)]
struct Place(Arc<dyn RunStore>);

impl std::ops::Deref for Place {
    type Target = dyn RunStore;
    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl Place {
    /// Commits one synced transition, which must be applied.
    async fn put(&self, changes: Vec<Change>) -> Found {
        let verdicts = self.put_all(vec![changes]).await?;
        same(&verdicts, &vec![Verdict::Applied])
    }

    /// Commits synced transitions as one batch.
    async fn put_all(&self, batch: Vec<Vec<Change>>) -> Result<Vec<Verdict>, StoreError> {
        let batch = batch.into_iter().map(Transition::new).collect();
        self.commit(batch, Durability::Synced).await
    }
}

/// Tries every point, each on a store that `factory` makes for it, which must be empty.
pub async fn check<F, Fut>(factory: F) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn RunStore>>,
{
    let mut report = Report::default();
    macro_rules! points {
        ($($area:ident { $($point:ident,)* })*) => {$($(
            let name = stringify!($point);
            // On the heap: together they would not fit on the stack of a thread.
            let place = Place(factory().await);
            let found = Box::pin($area::$point(place)).await;
            match found {
                Ok(()) => report.held.push(name),
                Err(how) => report.broken.push((name, how.0)),
            }
        )*)*};
    }
    points! {
        signals {
            a_signal_reads_back_as_it_was_left,
            a_signal_left_twice_is_there_once,
            signals_come_in_the_order_in_which_they_were_left,
            a_signal_goes_with_what_it_asked_for,
            a_signal_can_be_taken_back,
        }
        records {
            a_run_reads_back_as_it_was_written,
            a_run_with_nothing_optional_reads_back,
            parameters_read_back_byte_for_byte,
            a_put_replaces_every_field_of_a_run,
            every_state_of_a_run_reads_back,
            a_step_reads_back_as_it_was_written,
            a_step_with_nothing_optional_reads_back,
            every_state_of_a_step_reads_back,
            a_put_replaces_the_whole_step,
            a_value_reads_back_byte_for_byte,
            an_empty_output_is_not_a_missing_one,
            a_map_over_nothing_is_not_an_unknown_one,
            large_values_are_kept,
            every_failure_and_skip_reads_back,
            an_attempt_reads_back_as_it_was_written,
            an_attempt_with_nothing_optional_reads_back,
            a_put_replaces_the_whole_attempt,
            every_end_of_an_attempt_reads_back,
            attempts_read_as_they_were_put_last_with_their_step_or_without,
            the_largest_numbers_read_back,
            a_version_reads_back_as_it_was_written,
            a_version_put_twice_keeps_the_first,
            a_large_version_reads_back,
            every_kind_of_event_reads_back,
            text_of_any_language_reads_back,
        }
        runs {
            a_new_store_is_empty,
            a_store_has_a_name,
            the_name_of_a_store_stays,
            what_is_not_there_is_none,
            a_run_is_found_by_its_key,
            a_key_is_matched_exactly,
            a_snapshot_has_the_rows_of_its_run_alone,
            a_snapshot_has_its_version,
            a_snapshot_without_its_version_is_corrupt,
            steps_come_by_slot,
            attempts_come_by_slot_and_number,
            a_step_without_a_row_is_not_in_the_snapshot,
            runs_are_listed_latest_first,
            runs_are_listed_by_id_whatever_the_order_of_writing,
            runs_of_a_pipeline,
            runs_of_an_environment,
            runs_that_have_not_ended,
            a_run_that_ended_leaves_the_unfinished,
            filters_of_a_query_hold_together,
            paging_with_before,
            runs_are_listed_oldest_first_if_asked,
            paging_with_before_and_a_filter,
            before_a_run_that_is_not_there,
            a_limit_of_nothing_means_a_hundred,
            a_limit_is_kept,
            events_come_in_order_without_gaps,
            events_after_a_number,
            events_are_limited,
            events_of_one_run_alone,
            events_of_a_run_that_is_not_there_are_none,
            events_can_be_paged_one_by_one,
            a_step_is_named_by_its_slot,
            a_deleted_run_leaves_no_row,
            a_deleted_run_frees_its_key,
            deleting_a_run_leaves_the_others,
            deleting_a_run_that_is_gone_changes_nothing,
            a_run_that_has_not_ended_is_not_deleted,
            reopening_a_store_that_is_well_changes_nothing,
        }
        deletions {
            a_run_can_be_deleted_by_the_transition_that_ends_it,
            a_deleted_run_can_be_made_again,
            a_key_that_a_batch_frees_can_be_taken_in_it,
            a_row_for_a_run_that_the_batch_deleted_is_corrupt,
        }
        transitions {
            a_commit_returns_one_verdict_a_transition,
            an_empty_commit_is_no_error,
            an_empty_transition_is_applied,
            a_taken_key_refuses_the_whole_transition,
            a_refusal_names_the_run_that_has_the_key,
            a_refusal_does_not_stop_the_others,
            a_key_is_taken_within_a_batch_too,
            creating_the_same_run_again_changes_nothing,
            a_key_stays_taken_after_its_run_ended,
            transitions_are_applied_in_order,
            changes_are_applied_in_order,
            commit_is_atomic_across_changes,
            a_broken_batch_leaves_nothing,
            a_broken_batch_does_not_stop_the_store,
            a_row_for_a_run_that_is_not_there_is_corrupt,
            a_transition_of_a_refused_run_is_refused,
            a_run_keeps_its_key,
            an_id_makes_one_run,
            a_gap_in_the_events_is_corrupt,
            an_event_number_is_used_once,
            events_of_many_transitions_follow_each_other,
            a_run_reads_as_it_was_put_last_whatever_came_since,
            commits_asked_for_at_once_go_in_in_order_if_the_store_says_so,
            events_of_two_runs_in_one_transition_keep_apart,
            a_commit_is_seen_by_the_next_read,
            a_lazy_commit_is_seen_by_the_next_read,
            lazy_and_synced_commits_keep_their_order,
            a_synced_commit_of_nothing_after_a_lazy_one,
        }
        outbox {
            an_entry_reads_back_as_it_was_written,
            adding_an_outbox_entry_twice_keeps_the_first,
            a_put_replaces_the_entry,
            pending_entries_come_by_their_time,
            entries_of_one_time_come_by_id,
            a_delivered_entry_is_gone_from_both_lists,
            a_dead_entry_is_a_dead_letter,
            dead_letters_come_latest_first,
            a_dead_letter_can_be_made_pending_again,
            the_outbox_is_limited,
            a_refused_transition_tells_nobody,
        }
        cache {
            a_kept_result_reads_back_as_it_was_written,
            a_result_replaces_one_of_the_same_key,
            the_latest_result_of_a_line_is_found,
            of_results_of_one_instant_the_larger_key_is_the_latest,
            kept_results_can_be_paged_by_key,
            serving_a_result_moves_its_last_use_and_never_back,
            serving_a_result_that_is_gone_changes_nothing,
            a_result_that_is_forgotten_is_found_nowhere,
            changes_of_kept_results_are_applied_in_order,
            a_result_outlives_the_run_that_computed_it,
            a_refused_transition_keeps_no_result,
            a_large_result_is_kept_whole_and_goes_with_its_entry,
        }
        crowds {
            concurrent_commits_all_land,
            concurrent_creates_of_one_key_make_one_run,
            concurrent_runs_keep_their_events_in_order,
            a_broken_commit_among_many_fails_alone,
            a_reader_never_sees_half_a_transition,
            a_dropped_commit_is_whole_or_absent,
            a_large_batch_is_one_commit,
            commits_beside_a_reopening_all_land,
        }
    }
    report
}

/// Tries every point, and panics with those that are broken.
///
/// # Panics
/// If a point is broken.
#[expect(clippy::panic, reason = "a suite panics where a promise is broken")]
pub async fn run<F, Fut>(factory: F) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn RunStore>>,
{
    let report = check(factory).await;
    if !report.broken.is_empty() {
        panic!("the store breaks its contract: {report}");
    }
    report
}

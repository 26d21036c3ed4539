//! Removing runs, together with what else is in the batch.

use windlass_core::RunState;
use windlass_core::run_store::{Change, StoreErrorKind, Verdict};

use super::fixtures::{append, create, key, put_run, put_step, ready, run, run_id, step};
use super::runs::full_run_with_rows;
use super::{Found, Place, fails_with, same};

pub(super) async fn a_run_can_be_deleted_by_the_transition_that_ends_it(p: Place) -> Found {
    full_run_with_rows(&p, 1, false).await?;
    let mut ended = run(1);
    ended.state = RunState::Failed;
    let end = vec![put_run(ended), append(ready(run_id(1), 4))];
    let delete = Change::DeleteRun(run_id(1));
    p.put([end, vec![delete]].concat()).await?;
    same(&p.run(run_id(1)).await?, &None)?;
    same(&p.events(run_id(1), 0, 10).await?, &Vec::new())
}

pub(super) async fn a_deleted_run_can_be_made_again(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    let again = run(1);
    p.put(vec![create(again.clone()), append(ready(run_id(1), 1))])
        .await?;
    same(&p.run(run_id(1)).await?, &Some(again))?;
    same(
        &p.events(run_id(1), 0, 10).await?,
        &vec![ready(run_id(1), 1)],
    )
}

pub(super) async fn a_key_that_a_batch_frees_can_be_taken_in_it(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    let mut next = run(2);
    next.key = key("churn-1");
    let batch = vec![
        vec![create(next.clone())],
        vec![Change::DeleteRun(run_id(1))],
        vec![create(next.clone())],
        vec![create(run(1))],
    ];
    let expected = vec![
        Verdict::KeyExists(run_id(1)),
        Verdict::Applied,
        Verdict::Applied,
        Verdict::KeyExists(run_id(2)),
    ];
    same(&p.put_all(batch).await?, &expected)?;
    same(&p.run_by_key(&key("churn-1")).await?, &Some(next))
}

pub(super) async fn a_row_for_a_run_that_the_batch_deleted_is_corrupt(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    let late = put_step(step(run_id(1), 0, windlass_core::StepState::Running));
    let batch = vec![vec![Change::DeleteRun(run_id(1))], vec![late]];
    fails_with(p.put_all(batch).await, StoreErrorKind::Corrupt)?;
    // Nothing of the batch is in.
    let found = p.run(run_id(1)).await?;
    same(&found.map(|r| r.id), &Some(run_id(1)))
}

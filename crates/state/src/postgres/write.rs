//! The task that writes: group commit on one connection.
//!
//! It takes what queued while the group before was on its way, up to a bound, works out what all of
//! it comes to, and sends one transaction as a whole: begin, one statement a table, the fence, commit.
//! It waits for the network once, and once more before where something must be looked up. When nothing
//! queues it waits for nothing.
//!
//! A group with effects takes a longer way: they are applied one after the other before its rows are sent
//! ([`effect`](super::effect)).
//!
//! A request that breaks an invariant fails alone. After an error that leaves a commit in doubt the
//! writer stops, and a new one begins where that is settled ([`session::begin`](super::session::begin)).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use windlass_core::run_store::{Change, Durability, StoreError, Transition, Verdict};
use windlass_core::{Digest, RunId, RunKey, ShardSet, error_chain};

use super::PostgresOptions;
use super::connect::{Connection, PATIENCE, Pipeline, in_time};
use super::effect::{self, Effects, Frame};
use super::error::{Trouble, trouble};
use super::lease::{Epochs, Held};
use super::plan::{Known, Memory, Plan};
use super::pool::Unread;
use super::read;
use super::statements::{Statements, Who};
use crate::records::{MAX_BYTES, MAX_TRANSITIONS, bytes};

/// Runs that are remembered; the engine keeps all unfinished ones in memory anyway.
const RUNS_KEPT: usize = 65_536;
/// Versions that are known to be in.
const VERSIONS_KEPT: usize = 4_096;
/// How often a group is sent that was taken back through no fault of its own.
const TRIES: u32 = 10;
/// What every transaction starts with.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

type Answer = Result<Vec<Verdict>, StoreError>;

/// A commit that somebody waits for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) batch: Vec<Transition>,
    pub(super) durability: Durability,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Request {
    fn answer(self, answer: Answer) {
        // Whoever asked may have stopped waiting.
        drop(self.answer.send(answer));
    }
}

/// Returns what every commit after a failed one is told.
pub(super) fn stop_error(why: &str) -> StoreError {
    StoreError::fatal(format!(
        "the store stopped writing, because a commit failed: open it again cause=`{why}`"
    ))
}

/// Writes until the last sender is gone or a commit is in doubt; then `stopped` says why.
pub(super) async fn run(
    mut writer: Writer,
    mut requests: mpsc::Receiver<Request>,
    stopped: Arc<OnceLock<String>>,
) {
    while let Some(first) = requests.recv().await {
        let group = drain(first, &mut requests);
        if let Err(why) = writer.write(group).await {
            tracing::error!(error = why, "a commit failed and the store stopped writing");
            let why = stopped.get_or_init(|| why);
            requests.close();
            while let Some(request) = requests.recv().await {
                request.answer(Err(stop_error(why)));
            }
            return;
        }
    }
}

fn drain(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let (mut transitions, mut size) = (first.batch.len(), bytes(&first.batch));
    let mut group = vec![first];
    while transitions < MAX_TRANSITIONS
        && size < MAX_BYTES
        && let Ok(next) = requests.try_recv()
    {
        transitions += next.batch.len();
        size += bytes(&next.batch);
        group.push(next);
    }
    group
}

/// Why a group was not answered with verdicts.
#[derive(Debug)]
pub(super) enum Rejected {
    /// The request of that number breaks an invariant; nothing of the group is in.
    Broken(usize, StoreError),
    /// A row that can't be read or kept, of which request isn't known; nothing of the group is in.
    Unkept(StoreError),
    /// What was known is out of date; nothing is in.
    Again,
    /// The server says no, with these words.
    Failed(Trouble, String),
    /// No answer came in time.
    Silent,
}

impl From<Error> for Rejected {
    fn from(e: Error) -> Self {
        Self::Failed(trouble(&e), error_chain(&e))
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    db: Connection,
    statements: Statements,
    host: String,
    /// Which of the host's connections this is.
    session: i64,
    held: Arc<Held>,
    memory: Memory,
    /// The takes that the memory knows of.
    takes: u64,
    /// Versions that are surely in.
    versions: HashSet<Digest>,
    frame: Frame,
}

/// The verdicts of a group that is in, and what is known of its runs and versions since.
type Written = (
    Vec<Vec<Verdict>>,
    HashMap<RunId, Option<Known>>,
    Vec<Digest>,
);

impl Writer {
    pub(super) async fn new(
        db: Connection,
        host: String,
        session: i64,
        held: Arc<Held>,
        options: &PostgresOptions,
    ) -> Result<Self, Error> {
        let statements = Statements::prepare(&db).await?;
        let frame = Frame::prepare(&db, options).await?;
        Ok(Self {
            db,
            statements,
            host,
            session,
            held,
            memory: Memory::default(),
            takes: 0,
            versions: HashSet::new(),
            frame,
        })
    }

    /// Writes a group and answers everybody in it; an error says why the writer can't go on.
    async fn write(&mut self, mut group: Vec<Request>) -> Result<(), String> {
        let mut tries = 0;
        while !group.is_empty() {
            let transitions = group.iter().flat_map(|request| &request.batch);
            let with_effects = transitions.filter(|t| effect::is_in(t)).count();
            let patience = PATIENCE.saturating_add(self.frame.patience(with_effects));
            let last = tries + 1 >= TRIES;
            let written = in_time(patience, self.transaction(&group, last)).await;
            let error = match written.unwrap_or(Err(Rejected::Silent)) {
                Ok(verdicts) => {
                    for (request, verdicts) in group.into_iter().zip(verdicts) {
                        request.answer(Ok(verdicts));
                    }
                    return Ok(());
                }
                Err(Rejected::Broken(number, error)) => {
                    group.remove(number).answer(Err(error));
                    continue;
                }
                Err(Rejected::Unkept(_)) if group.len() > 1 => return self.one_by_one(group).await,
                Err(Rejected::Unkept(error)) => {
                    group.remove(0).answer(Err(error));
                    continue;
                }
                Err(Rejected::Again) => {
                    tries += 1;
                    if tries < TRIES {
                        continue;
                    }
                    let error = "the store is busy, nothing was written: try again";
                    answer_all(group, || StoreError::unavailable(error));
                    return Ok(());
                }
                Err(Rejected::Silent) => {
                    let why = format!("the database gave no answer within {PATIENCE:?}");
                    answer_all(group, || in_doubt(&why));
                    return Err(why);
                }
                Err(Rejected::Failed(trouble, why)) => (trouble, why),
            };
            // What was remembered is as good as before: nothing is in, or nobody can tell and it ends here.
            let (trouble, why) = error;
            match trouble {
                Trouble::Again | Trouble::Taken if tries < TRIES => {
                    tries += 1;
                    self.memory.runs.clear();
                }
                // A deferred constraint of a host's table, which somebody broke after it was looked at.
                Trouble::Data if with_effects > 0 && tries < TRIES => tries += 1,
                Trouble::Again | Trouble::Busy => {
                    answer_all(group, || {
                        StoreError::unavailable(format!(
                            "the database was not free in time, nothing was written: try again cause=`{why}`"
                        ))
                    });
                    return Ok(());
                }
                Trouble::Taken | Trouble::Data if group.len() > 1 => {
                    return self.one_by_one(group).await;
                }
                Trouble::Taken | Trouble::Data => {
                    answer_all(group, || {
                        StoreError::corrupt(format!("a row can't be kept cause=`{why}`"))
                    });
                    return Ok(());
                }
                Trouble::Full => {
                    answer_all(group, || {
                        StoreError::fatal(format!(
                            "the disk of the database is full, nothing was written: free some of it and open the store again cause=`{why}`"
                        ))
                    });
                    return Err(why);
                }
                Trouble::Refused | Trouble::Superseded | Trouble::Fenced => {
                    answer_all(group, || {
                        StoreError::unavailable(format!(
                            "the database refused a commit, nothing was written: see the set-up of its roles and schema, and open the store again cause=`{why}`"
                        ))
                    });
                    return Err(why);
                }
                Trouble::Lost => {
                    answer_all(group, || in_doubt(&why));
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Finds the request that the server can't keep, and writes the others.
    async fn one_by_one(&mut self, group: Vec<Request>) -> Result<(), String> {
        let mut stopped: Option<String> = None;
        for request in group {
            match &stopped {
                Some(why) => request.answer(Err(stop_error(why))),
                None => stopped = Box::pin(self.write(vec![request])).await.err(),
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    /// Writes a group as one transaction; `last` if it isn't sent again for a deadlock.
    async fn transaction(
        &mut self,
        group: &[Request],
        last: bool,
    ) -> Result<Vec<Vec<Verdict>>, Rejected> {
        let epochs = self.held.now();
        if self.versions.len() > VERSIONS_KEPT {
            self.versions.clear();
        }
        if self.takes != epochs.takes || self.memory.runs.len() > RUNS_KEPT {
            self.memory.runs.clear();
            self.takes = epochs.takes;
        }
        self.look_up(group).await?;
        let mut effects = Effects::new(&self.db.client, &self.frame, last);
        let (verdicts, ahead, versions) = match self.written(group, &epochs, &mut effects).await {
            Ok(written) => written,
            Err(rejected) => {
                effects.roll_back().await;
                return Err(rejected);
            }
        };
        self.versions.extend(versions);
        for (run, known) in ahead {
            match known {
                Some(known) => self.memory.runs.insert(run, known),
                None => self.memory.runs.remove(&run),
            };
        }
        Ok(verdicts)
    }

    async fn written(
        &self,
        group: &[Request],
        epochs: &Epochs,
        effects: &mut Effects<'_>,
    ) -> Result<Written, Rejected> {
        let mut plan = Plan::new(&self.memory, epochs.shards());
        let mut verdicts = Vec::with_capacity(group.len());
        for (number, request) in group.iter().enumerate() {
            let mut each = Vec::with_capacity(request.batch.len());
            for transition in &request.batch {
                if let Some(refused) = plan.refusal(transition) {
                    each.push(refused);
                } else if let Some(failure) = effects.apply(transition).await? {
                    each.push(Verdict::EffectFailed(failure));
                } else if let Err(e) = plan.add(transition) {
                    // It may only look broken, because another host went on with the run.
                    let lost = self.look_for_lost(plan.shards, epochs).await?;
                    return Err(if lost.is_empty() {
                        Rejected::Broken(number, e)
                    } else {
                        Rejected::Again
                    });
                } else {
                    each.push(Verdict::Applied);
                }
            }
            verdicts.push(each);
        }
        plan.finish();
        let durability = group.iter().map(|r| r.durability).max();
        match self.send(&plan, epochs, durability, effects.begun).await {
            Err(Rejected::Failed(Trouble::Fenced, _)) => {
                self.look_for_lost(plan.shards, epochs).await?;
                return Err(Rejected::Again);
            }
            sent => sent?,
        }
        let versions = plan.versions.rows().iter().map(|v| v.digest).collect();
        Ok((verdicts, plan.into_known(), versions))
    }

    /// Looks up runs that are not remembered, and who has the keys that are asked for.
    async fn look_up(&mut self, group: &[Request]) -> Result<(), Rejected> {
        self.memory.keys.clear();
        let (mut runs, mut keys) = (HashSet::new(), HashSet::new());
        for change in group.iter().flat_map(|r| &r.batch).flat_map(|t| &t.changes) {
            let (run, key) = match change {
                Change::CreateRun(run) => (run.id, Some(&run.key)),
                Change::PutRun(run) => (run.id, Some(&run.key)),
                Change::PutStep(step) => (step.run, None),
                Change::PutAttempt(attempt) => (attempt.run, None),
                Change::AppendEvent(event) => (event.run, None),
                Change::DeleteRun(run) => (*run, None),
                _ => continue,
            };
            let unknown = !self.memory.runs.contains_key(&run);
            if unknown {
                runs.insert(*run.as_uuid());
            }
            if unknown || matches!(change, Change::CreateRun(_)) {
                keys.extend(key.map(RunKey::as_str));
            }
        }
        if runs.is_empty() && keys.is_empty() {
            return Ok(());
        }
        let (runs, keys): (Vec<_>, Vec<_>) =
            (runs.into_iter().collect(), keys.into_iter().collect());
        let run_args: [&(dyn ToSql + Sync); 1] = [&runs];
        let key_args: [&(dyn ToSql + Sync); 1] = [&keys];
        let mut both = Pipeline::new(&self.db.client);
        both.statement(&self.statements.find_runs, &run_args).await;
        both.statement(&self.statements.find_keys, &key_args).await;
        let answers = both.answers().await?;
        for row in answers.first().into_iter().flatten() {
            let (record, last_seq) = read::row_for_writing(row).map_err(unread)?;
            let known = Known {
                state: record.state,
                last_seq,
                record: Arc::new(record),
            };
            self.memory.runs.insert(known.record.id, known);
        }
        for row in answers.get(1).into_iter().flatten() {
            let key: &str = row.try_get(0)?;
            if let Ok(key) = RunKey::new(key) {
                let run = RunId::from_uuid(row.try_get::<_, Uuid>(1)?);
                self.memory.keys.insert(key, run);
            }
        }
        Ok(())
    }

    /// Sends a plan as one transaction, or as the rest of one that has begun.
    async fn send(
        &self,
        plan: &Plan<'_>,
        epochs: &Epochs,
        durability: Option<Durability>,
        begun: bool,
    ) -> Result<(), Rejected> {
        let who = Who {
            host: &self.host,
            session: self.session,
        };
        let filled = self.statements.fill(plan, &self.versions, who, epochs);
        let filled = filled.map_err(|e| {
            let error = StoreError::corrupt("a row can't be written as JSON");
            Rejected::Unkept(error.with_source(e))
        })?;
        let args: Vec<(_, Vec<&(dyn ToSql + Sync)>)> = filled
            .iter()
            .map(|(statement, columns)| (*statement, columns.iter().map(|c| &**c as _).collect()))
            .collect();
        let mut all = Pipeline::new(&self.db.client);
        let begin = match (durability, begun) {
            (Some(Durability::Lazy), false) => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO off"
            }
            (Some(Durability::Lazy), true) => "SET LOCAL synchronous_commit TO off",
            (_, false) => BEGIN,
            (_, true) => "",
        };
        if !begin.is_empty() {
            all.text(begin).await;
        }
        for (statement, args) in &args {
            all.statement(statement, args).await;
        }
        all.text("COMMIT").await;
        all.answers().await?;
        Ok(())
    }

    /// Learns which shards are another's by now.
    async fn look_for_lost(&self, shards: ShardSet, epochs: &Epochs) -> Result<ShardSet, Rejected> {
        let (numbers, asserted) = epochs.asserted(shards);
        let args: [&(dyn ToSql + Sync); 3] = [&self.host, &numbers, &asserted];
        let row = self
            .db
            .client
            .query_one(&self.statements.find_lost, &args)
            .await?;
        let lost = row.try_get::<_, Option<Vec<i16>>>(0)?.unwrap_or_default();
        let lost = read::shards(&lost);
        if !lost.is_empty() {
            tracing::warn!(?lost, "other hosts have shards that this one held");
            self.held.lose(lost, epochs);
        }
        Ok(lost)
    }
}

fn unread(e: Unread) -> Rejected {
    match e {
        Unread::Database(e) => e.into(),
        Unread::Row(e) => {
            let error = StoreError::corrupt("a row of a run can't be read: it is damaged");
            Rejected::Unkept(error.with_source(e))
        }
    }
}

fn in_doubt(why: &str) -> StoreError {
    StoreError::unavailable(format!(
        "the connection failed during a commit, which may be in or not: open the store again cause=`{why}`"
    ))
}

fn answer_all(group: Vec<Request>, error: impl Fn() -> StoreError) {
    for request in group {
        request.answer(Err(error()));
    }
}

//! The reference: what a run comes to, read off the text of DESIGN.md section 7 and nothing else.
//!
//! It knows no order, no time and no engine: only what is the same whatever happens first. It is
//! recursive where the engine is incremental, and works on the plan where the engine works on its
//! frozen graph.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::{RetryPolicy, RunState as Phase, SkipReason, StepState};

use super::plan::{Answer, Kind, Plan, StepPlan, Try};

const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;
const SKIPPED: u8 = 4;

/// How a step ends, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed,
    Skipped,
    /// Never: an attempt's end stays unknown, or a step before it waits for such a one.
    Open,
}

impl End {
    const fn bit(self) -> Option<u8> {
        match self {
            Self::Succeeded => Some(SUCCEEDED),
            Self::Failed => Some(FAILED),
            Self::Skipped => Some(SKIPPED),
            Self::Open => None,
        }
    }

    pub(super) fn is(self, state: StepState) -> bool {
        match self {
            Self::Succeeded => state.has_result(),
            Self::Failed => state == StepState::Failed,
            Self::Skipped => state == StepState::Skipped,
            Self::Open => !state.is_final(),
        }
    }
}

/// What becomes of a run of a plan.
pub(super) struct Model<'a> {
    plan: &'a Plan,
    ends: BTreeMap<usize, End>,
}

impl<'a> Model<'a> {
    pub(super) const fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            ends: BTreeMap::new(),
        }
    }

    /// Returns how a step ends.
    pub(super) fn end(&mut self, i: usize) -> End {
        if let Some(end) = self.ends.get(&i) {
            return *end;
        }
        let end = self.find_end(i);
        self.ends.insert(i, end);
        end
    }

    fn find_end(&mut self, i: usize) -> End {
        let plan = self.plan;
        let step = &plan.steps[i];
        let edges: Vec<Option<bool>> = step
            .edges
            .iter()
            .map(|(from, on)| Some(self.end(*from).bit()? & on != 0))
            .collect();
        let starts = if step.any && !edges.is_empty() {
            match () {
                () if edges.contains(&Some(true)) => Some(true),
                () if edges.contains(&None) => None,
                () => Some(false),
            }
        } else {
            match () {
                () if edges.contains(&Some(false)) => Some(false),
                () if edges.contains(&None) => None,
                () => Some(true),
            }
        };
        let graph_ends = i < plan.main || (0..plan.main).all(|s| self.end(s) != End::Open);
        match starts {
            Some(false) => End::Skipped,
            Some(true) if graph_ends => started(step),
            _ => End::Open,
        }
    }

    /// Returns how the run ends; `None` if it doesn't.
    pub(super) fn phase(&mut self) -> Option<Phase> {
        let all = 0..self.plan.steps.len();
        if all.clone().any(|i| self.end(i) == End::Open) {
            return None;
        }
        let main = self.plan.main;
        let failed = if self.plan.leaves {
            let is_leaf = |i: &usize| {
                !self.plan.steps[..main]
                    .iter()
                    .any(|s| s.edges.iter().any(|e| e.0 == *i))
            };
            let leaves: Vec<usize> = (0..main).filter(is_leaf).collect();
            !leaves.into_iter().all(|leaf| self.is_good(leaf))
                || (main..all.end).any(|i| self.is_unhandled(i))
        } else {
            all.into_iter().any(|i| self.is_unhandled(i))
        };
        Some(if failed {
            Phase::Failed
        } else {
            Phase::Succeeded
        })
    }

    /// Data Factory: a skipped leaf hands over to its parents.
    fn is_good(&mut self, i: usize) -> bool {
        let step = &self.plan.steps[i];
        match self.end(i) {
            End::Succeeded => true,
            End::Skipped => step.edges.iter().all(|(from, _)| self.is_good(*from)),
            End::Failed => step.allow_failure,
            End::Open => false,
        }
    }

    fn is_unhandled(&mut self, i: usize) -> bool {
        let steps = &self.plan.steps;
        let takes = |s: &StepPlan| {
            s.edges
                .iter()
                .any(|(from, on)| *from == i && on & FAILED != 0)
        };
        self.end(i) == End::Failed
            && !steps[i].allow_failure
            && !(0..steps.len()).any(|s| takes(&steps[s]) && self.end(s) == End::Succeeded)
    }

    /// Returns the reasons that a skipped step may give; which one depends on what happened first.
    pub(super) fn reasons(&mut self, i: usize) -> BTreeSet<Option<usize>> {
        let step = &self.plan.steps[i];
        let mut of_edges = Vec::new();
        for (from, on) in &step.edges {
            let end = self.end(*from);
            match end {
                End::Open => {}
                _ if end.bit().is_some_and(|b| b & on != 0) => {}
                End::Failed => of_edges.push(BTreeSet::from([Some(*from)])),
                End::Skipped => of_edges.push(self.reasons(*from)),
                End::Succeeded => of_edges.push(BTreeSet::from([None])),
            }
        }
        let blocked = if step.any {
            of_edges.len() == step.edges.len() && !of_edges.is_empty()
        } else {
            !of_edges.is_empty()
        };
        if !blocked {
            // It was its own condition.
            return BTreeSet::from([None]);
        }
        let may_be_nobody = of_edges.iter().all(|r| r.contains(&None));
        let mut all: BTreeSet<_> = of_edges.into_iter().flatten().collect();
        if step.any && !may_be_nobody {
            all.remove(&None);
        }
        all
    }

    /// Returns whether a skipped step may give that reason.
    pub(super) fn allows(&mut self, i: usize, reason: &SkipReason) -> bool {
        let named = match reason {
            SkipReason::Condition => None,
            SkipReason::Blocked { by } => Some(by.as_str()[1..].parse().unwrap()),
            _ => return false,
        };
        self.reasons(i).contains(&named)
    }
}

/// Returns how a step ends whose join holds.
fn started(step: &StepPlan) -> End {
    match step.when {
        Some(Answer::No) => return End::Skipped,
        Some(Answer::Error) => return End::Failed,
        Some(Answer::Yes) | None => {}
    }
    let Some(map) = step.map else {
        return tried(step, 0);
    };
    // Items start in order. One of unknown end keeps its place, so too many of them keep the rest
    // from starting.
    let (mut failed, mut open) = (0, 0);
    for item in 0..map.items {
        if map.parallel.is_some_and(|limit| open >= limit) {
            break;
        }
        match tried(step, item) {
            End::Failed => failed += 1,
            End::Open => open += 1,
            End::Succeeded | End::Skipped => {}
        }
    }
    match () {
        () if failed > map.tolerate => End::Failed,
        () if open > 0 => End::Open,
        () => End::Succeeded,
    }
}

/// Returns how all attempts of a step, or of one item, end together.
fn tried(step: &StepPlan, item: u32) -> End {
    if step.kind == Kind::Wait || step.kept == Some(true) {
        return End::Succeeded;
    }
    let in_process = matches!(step.kind, Kind::Code | Kind::Pooled);
    let (mut burned, mut lost) = (0, 0);
    for used in 0.. {
        match step.outcome(item, used) {
            Try::Succeeds => return End::Succeeded,
            Try::FailsForGood => return End::Failed,
            Try::Fails => burned += 1,
            Try::EndsUnknown if !step.idempotent.unwrap_or(in_process) => return End::Open,
            Try::IsLost | Try::EndsUnknown => lost += 1,
        }
        if burned == step.tries || lost > RetryPolicy::INFRASTRUCTURE_BUDGET {
            break;
        }
    }
    End::Failed
}

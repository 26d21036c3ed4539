//! Plays a plan in an order that a list of numbers chooses: attempts end, alarms ring, answers
//! and grants come, results are repeated, hosts die and people press buttons, in any order.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use windlass_core::run_store::AttemptEnd;
use windlass_core::{
    Failure, FailureClass, FencingToken, RunState as Phase, Slot, StepName, StepOutput, StepState,
};

use super::plan::{Answer, Plan, Try};
use super::reboot::Fate;
use super::world::World;
use crate::decide::{Command, Input};
use crate::rerun::{Reuse, Wish};
use crate::state::Stage;

/// What may happen beside the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Only what leaves the ends of steps alone: pauses, restarts, repeats.
    Harmless,
    /// Cancels too, hosts that die with their attempts, and attempts that ignore a stop.
    Rough,
}

/// A move of the world that helps the run on.
#[derive(Debug, Clone, Copy)]
enum Move {
    Answer(usize),
    Grant(usize),
    Begin(Slot),
    Beat(Slot),
    End(Slot),
    Ring,
}

pub(super) struct Player<'a> {
    pub(super) world: World,
    plan: &'a Plan,
    mood: Mood,
    /// How many attempts of a slot came to what the plan says.
    used: BTreeMap<Slot, usize>,
    /// Inputs of the past, to be repeated.
    past: Vec<Input>,
    begun: BTreeMap<FencingToken, ()>,
}

static LITERALS: LazyLock<windlass_core::LiteralsOnly> = LazyLock::new(Default::default);

/// Returns the wish for a rerun with the parameters of the run before it.
pub(super) fn wish(from: &[StepName]) -> Wish<'_> {
    let params = serde_json::Map::new();
    let before = windlass_core::Json::of(&params).unwrap();
    Wish::new(from, &before, &params, &*LITERALS)
}

impl<'a> Player<'a> {
    pub(super) fn new(plan: &'a Plan, mood: Mood) -> Self {
        let mut world = World::new(plan.pipeline()).room(plan.room);
        world.by_hand = true;
        for (i, step) in plan.steps.iter().enumerate() {
            let name = format!("s{i}");
            if step.kept == Some(true) {
                world.kept.insert(i as u32);
            }
            world = match step.when {
                Some(Answer::No) => world.answer(&name, false),
                Some(Answer::Error) => world.answer_error(&name, "no such thing"),
                Some(Answer::Yes) | None => world,
            };
        }
        Self {
            world,
            plan,
            mood,
            used: BTreeMap::new(),
            past: Vec::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Plays a rerun of what `before` has played.
    pub(super) fn rerun(before: &Self, from: &[StepName], mood: Mood) -> Self {
        let mut player = Self::new(before.plan, mood);
        let reuse =
            Reuse::plan(&before.world.run, &player.world.run.pipeline, &wish(from)).unwrap();
        player.world.first = Input::Rerun {
            reuse: Arc::new(reuse),
        };
        player
    }

    /// Plays the choices, and then on until nothing can happen any more.
    pub(super) fn play(&mut self, choices: &[u16]) {
        let mut choices = choices.iter().map(|c| *c as usize);
        // Where the choices end, everything takes its turn.
        for turn in 0..20_000 {
            let (choice, disturbed) = match choices.next() {
                Some(choice) => (choice, choice % 8 == 0),
                None => (turn, false),
            };
            if disturbed {
                self.disturb(choice / 8);
                continue;
            }
            if choices.len() == 0 && self.world.run.phase == Phase::Paused {
                self.send(Input::Resume);
            }
            if self.world.run.phase == Phase::Queued {
                self.send(self.world.first.clone());
                continue;
            }
            let moves = self.moves();
            match moves.get(choice % moves.len().max(1)) {
                Some(next) => self.make(*next),
                None if choices.len() == 0 => return,
                None => {}
            }
        }
        panic!("the run goes on for ever: {:?}", self.world.run);
    }

    /// Makes a few moves, as far as there are any.
    pub(super) fn nudge(&mut self, choices: &[u16]) {
        for choice in choices.iter().map(|c| *c as usize) {
            let moves = self.moves();
            match moves.get(choice % moves.len().max(1)) {
                Some(next) => self.make(*next),
                None => self.send(self.world.first.clone()),
            }
        }
    }

    fn moves(&self) -> Vec<Move> {
        let w = &self.world;
        let mut moves: Vec<Move> = (0..w.pending.len()).map(Move::Answer).collect();
        if w.held.len() < w.capacity {
            moves.extend((0..w.queue.len()).map(Move::Grant));
        }
        for (slot, token) in &w.live {
            let fresh = !self.begun.contains_key(token);
            moves.push(if fresh {
                Move::Begin(*slot)
            } else {
                Move::Beat(*slot)
            });
            moves.push(Move::End(*slot));
        }
        // A beat alone would let the world stand still.
        if !w.alarms.is_empty() {
            moves.push(Move::Ring);
        }
        moves
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Answer(i) => {
                let answer = self.world.pending.remove(i);
                self.send(answer);
            }
            Move::Grant(i) => self.world.grant(i),
            Move::Begin(slot) => {
                let token = self.world.live[&slot];
                self.begun.insert(token, ());
                self.send(Input::Started { slot, token });
            }
            Move::Beat(slot) => {
                let token = self.world.live[&slot];
                self.send(Input::Beat { slot, token });
            }
            Move::End(slot) => self.end(slot),
            Move::Ring => {
                let entry = self.world.alarms.first_entry().expect("looked before");
                let at = entry.key().0;
                let input = entry.remove();
                self.world.now = self.world.now.max(at);
                self.send(input);
            }
        }
    }

    fn end(&mut self, slot: Slot) {
        let token = self.world.live[&slot];
        let used = self.used.entry(slot).or_default();
        let outcome = self.plan.steps[slot.step as usize].outcome(slot.item.unwrap_or(0), *used);
        *used += 1;
        let stopped = self.world.stops.contains(&token);
        let end = match outcome {
            Try::Succeeds if !stopped => AttemptEnd::Succeeded,
            // Every third ignores the stop.
            Try::Succeeds if token.get().is_multiple_of(3) => AttemptEnd::Succeeded,
            Try::Succeeds => AttemptEnd::Cancelled,
            Try::Fails => AttemptEnd::Failed(Failure::new(FailureClass::User, "broken")),
            Try::FailsForGood => AttemptEnd::Failed(Failure::permanent("bad input")),
            Try::IsLost => AttemptEnd::Failed(Failure::new(FailureClass::Lost, "gone")),
            Try::EndsUnknown => AttemptEnd::Unknown("nobody answers".to_owned()),
        };
        self.send(Input::Ended {
            slot,
            token,
            end,
            output: StepOutput::empty(),
            usage: None,
        });
    }

    fn send(&mut self, input: Input) {
        if self.past.len() < 200 {
            self.past.push(input.clone());
        }
        self.world.send(input);
    }

    fn disturb(&mut self, choice: usize) {
        let (what, which) = (choice % 16, choice / 16);
        match what {
            0 | 1 => self.send(Input::Pause),
            2 | 3 => self.send(Input::Resume),
            4 => self.restart(which),
            5 => self.never_started(which),
            6 if self.mood == Mood::Rough => self.send(Input::Cancel {
                reason: "enough".to_owned(),
            }),
            _ => self.repeat(which),
        }
    }

    fn restart(&mut self, which: usize) {
        let mut n = which;
        let rough = self.mood == Mood::Rough;
        self.world.by_hand = true;
        self.world.restart(|_| {
            n += 1;
            match n % 3 {
                0 => Fate::NeverStarted,
                1 if rough => Fate::Unknown,
                _ => Fate::StillRuns,
            }
        });
        // A host that comes back tells again of what it sees.
        self.begun.clear();
    }

    fn never_started(&mut self, which: usize) {
        let live: Vec<_> = self.world.live.iter().map(|(s, t)| (*s, *t)).collect();
        if let Some((slot, token)) = live.get(which % live.len().max(1)).copied() {
            self.send(Input::NeverStarted { slot, token });
        }
    }

    /// Repeats an input of the past that has no say any more: it changes nothing.
    fn repeat(&mut self, which: usize) {
        let Some(input) = self.past.get(which % self.past.len().max(1)).cloned() else {
            return;
        };
        if !self.is_stale(&input) {
            return;
        }
        let before = format!("{:?}", self.world.run);
        self.world.send(input.clone());
        assert_eq!(
            before,
            format!("{:?}", self.world.run),
            "{input:?} changed something"
        );
        let gives_back = |c: &Command| matches!(c, Command::Release { slot } if !self.world.live.contains_key(slot));
        assert!(
            self.world.commands.iter().all(gives_back),
            "{:?}",
            self.world.commands
        );
    }

    fn is_stale(&self, input: &Input) -> bool {
        let w = &self.world;
        let node = |slot: &Slot| w.run.node(*slot);
        match input {
            _ if w.run.phase.is_final() => true,
            Input::Start | Input::Rerun { .. } => w.run.phase != Phase::Queued,
            Input::Evaluated { slot, .. } => node(slot).is_none_or(|n| {
                !matches!(
                    n.stage,
                    Stage::When | Stage::Items | Stage::Until | Stage::Round
                )
            }),
            Input::Looked { slot, .. } => node(slot).is_none_or(|n| n.stage != Stage::Looking),
            Input::Admitted { slot } => node(slot).is_none_or(|n| n.stage != Stage::Queued),
            Input::Started { slot, token }
            | Input::Beat { slot, token }
            | Input::NotKept { slot, token, .. }
            | Input::NeverStarted { slot, token }
            | Input::Ended { slot, token, .. } => w.live.get(slot) != Some(token),
            Input::Wake { slot } => node(slot)
                .is_none_or(|n| !matches!(n.state, StepState::Retrying | StepState::Waiting)),
            Input::Timeout { slot, .. } => node(slot).is_none_or(|n| n.state.is_final()),
            Input::Deadline | Input::Cancel { .. } | Input::Recover { .. } => false,
            // No step of a plan waits for one.
            Input::Give { .. } => true,
            Input::Pause => w.run.phase != Phase::Running,
            Input::Resume => w.run.phase != Phase::Paused,
            Input::Resolve { slot, .. } => node(slot).is_none_or(|n| n.state != StepState::Unknown),
        }
    }
}

/// Returns a value that an expression might yield.
pub(super) fn any_value(choice: usize) -> Result<Value, String> {
    Ok(match choice % 8 {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => Value::from(choice as u64),
        3 => Value::from("2001-01-01T00:00:00Z"),
        4 => Value::from(vec![Value::Null; choice / 8 % 4]),
        5 => serde_json::json!([{ "a": [1.5, "x"] }, "", -3]),
        6 => serde_json::json!({ "a": 1 }),
        _ => return Err("no such name".to_owned()),
    })
}

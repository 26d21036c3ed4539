//! Code of the host as steps call it: it succeeds, fails, panics, dawdles and doesn't listen.
//!
//! What an attempt comes to hangs on the seed, the run's key, the step and the number of the
//! attempt alone, so that an attempt after a crash is not the one before it.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use windlass_core::{
    AttemptNo, ClockExt, FencingToken, Json, RunId, RunKey, Slot, Step, StepContext, StepError,
    StepOutput,
};

use super::dice::Dice;
use super::line::Line;
use super::world::State;

/// What an attempt comes to if nobody disturbs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Succeeds,
    Fails,
    FailsForGood,
    IsUnavailable,
    /// Of code, a panic; of a job, the limit of its memory.
    Breaks,
    /// Runs until it is asked to stop.
    Waits,
    /// Doesn't listen to anybody.
    IsDeaf,
}

/// What an attempt will do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) turn: Turn,
    /// How long it takes.
    pub(super) takes: Duration,
}

impl Script {
    /// Returns the script of an attempt of which `trouble` per cent don't just succeed.
    pub(super) fn of(
        seed: u64,
        trouble: u64,
        key: &RunKey,
        slot: Slot,
        attempt: AttemptNo,
    ) -> Self {
        let item = slot.item.map_or(0, |item| item + 1);
        let name = format!("{key}/{}/{item}/{attempt}", slot.step);
        let mut dice = Dice::named(seed, &name);
        let takes = match dice.between(0, 9) {
            0..=4 => 0,
            5..=7 => dice.between(1, 3_000),
            _ => dice.between(1_000, 60_000),
        };
        let turn = if dice.percent(100 - trouble.min(100)) {
            Turn::Succeeds
        } else {
            match dice.between(0, 99) {
                0..=44 => Turn::Fails,
                45..=59 => Turn::FailsForGood,
                60..=69 => Turn::IsUnavailable,
                70..=79 => Turn::Breaks,
                80..=91 => Turn::Waits,
                _ => Turn::IsDeaf,
            }
        };
        Self {
            turn,
            takes: Duration::from_millis(takes),
        }
    }
}

/// The implementation of every native step of a simulation.
pub(super) struct Code {
    line: Line,
}

impl Code {
    pub(super) const fn new(line: Line) -> Self {
        Self { line }
    }
}

/// Code that runs; gone when it is done or dropped.
struct Body {
    line: Line,
    place: (RunId, Slot),
    token: FencingToken,
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut state = self.line.lock();
        let mine = (self.token, self.line.host());
        if state.bodies.get(&self.place) == Some(&mine) {
            state.bodies.remove(&self.place);
        }
    }
}

impl State {
    /// Checks that an attempt may run: its intent is in, it is the only one, and what it is given
    /// is in too.
    fn check_launch(&self, cx: &StepContext) -> Result<(), String> {
        let (run, slot, attempt) = (cx.run().run, cx.slot(), cx.attempt());
        self.check_intent(run, slot, attempt, cx.token())?;
        let of = self.books.safe().runs.get(&run);
        let of = of.ok_or_else(|| format!("code of run {run} runs, and the run isn't kept"))?;
        let version = self.books.safe().versions.get(&of.run.version);
        let steps = version.map(|v| v.spec.all_steps());
        for (index, step) in steps.into_iter().flatten().enumerate() {
            let Some(given) = cx.output_of(step.name.as_str()) else {
                continue;
            };
            let row = of.steps.get(&Slot::step(index as u32));
            if row.and_then(|r| r.output.as_ref()) != Some(given) {
                return Err(format!(
                    "{slot:?} of run {run} is given a result of {} that isn't kept",
                    step.name
                ));
            }
        }
        Ok(())
    }

    /// Checks that a launch was intended: its attempt is a row that nothing can take back.
    pub(super) fn check_intent(
        &self,
        run: RunId,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
    ) -> Result<(), String> {
        let of = self.books.safe().runs.get(&run);
        let row = of.and_then(|r| r.attempts.get(&(slot, attempt.get())));
        match row {
            Some(row) if row.token == token && row.end.is_none() => Ok(()),
            Some(row) => Err(format!(
                "attempt {attempt} of {slot:?} is launched with token {token}, and its row is {row:?}"
            )),
            None => Err(format!(
                "attempt {attempt} of {slot:?} of run {run} is launched, and no intent is kept"
            )),
        }
    }
}

#[async_trait]
impl Step for Code {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let place = (cx.run().run, cx.slot());
        let script = {
            let mut state = self.line.lock();
            if state.is_dead(self.line.host()) {
                // The host is dead: this is not seen by anybody.
                return Err(StepError::cancelled());
            }
            let launch = state.check_launch(&cx);
            state.check(launch);
            let mine = (cx.token(), self.line.host());
            if let Some((token, host)) = state.bodies.insert(place, mine) {
                state.violate(format!(
                    "{place:?} runs twice, also with token {token} on host {host}"
                ));
            }
            let trouble = state.weather.code;
            let key = &cx.run().key;
            let script = Script::of(state.seed, trouble, key, cx.slot(), cx.attempt());
            state.note(format_args!(
                "  {} {:?} runs as {} and {:?}",
                cx.run().run.short(),
                cx.slot(),
                cx.token(),
                script.turn
            ));
            script
        };
        let _body = Body {
            line: self.line.clone(),
            place,
            token: cx.token(),
        };
        self.line.point().await;
        let clock = &cx.run().clock;
        if !script.takes.is_zero() {
            clock.sleep(script.takes).await;
        }
        self.line.point().await;
        match script.turn {
            Turn::Succeeds => {
                let value = json!({
                    "token": cx.token().get(),
                    "go": script.takes.is_zero(),
                    "items": [1, 2, 3],
                });
                Ok(StepOutput::of(Json::of(&value)?))
            }
            Turn::Fails => Err(StepError::transient("it failed")),
            Turn::FailsForGood => Err(StepError::permanent("it failed for good")),
            Turn::IsUnavailable => Err(StepError::unavailable("a service is away")),
            // Not by the macro: nobody wants to read a hundred thousand backtraces.
            Turn::Breaks => std::panic::resume_unwind(Box::new("it broke")),
            Turn::Waits => {
                let limit = clock.timeout(Duration::from_secs(300), cx.cancel().cancelled());
                match limit.await {
                    Some(()) => Err(StepError::cancelled()),
                    None => Err(StepError::transient("nobody asked it to stop")),
                }
            }
            Turn::IsDeaf => {
                clock.sleep(Duration::from_secs(300)).await;
                Ok(StepOutput::empty())
            }
        }
    }
}

//! Runs as an engine writes them, and how they must look after any of their transitions.

use std::sync::Arc;

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, EventKind, EventRecord, RunRecord, StepRecord, Transition,
    VersionRecord,
};
use windlass_core::{
    AttemptNo, Digest, FencingToken, Json, LogicalName, Pipeline, RunId, RunKey, RunState, Slot,
    StepOutput, StepState, Timestamp,
};

const ONE: AttemptNo = AttemptNo::new(1);

fn at(n: u64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + i64::try_from(n).unwrap())
}

pub(crate) fn run_id(n: u64) -> RunId {
    RunId::from_parts(at(n * 1_000), u128::from(n))
}

/// One run whose steps follow each other; every transition appends three events, the first one two.
pub(crate) struct Chain {
    pub(crate) run: RunRecord,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) attempts: Vec<AttemptRecord>,
}

impl Chain {
    /// Returns a run and the transition that creates it with its first attempt.
    pub(crate) fn start(n: u64) -> (Self, Transition) {
        let mut pipeline = Pipeline::builder("chain");
        pipeline.add("s0", |_| async { Ok(()) });
        let pipeline = pipeline.build().unwrap();
        let digest: Digest = pipeline.digest();
        let version = VersionRecord::new(digest, Arc::clone(pipeline.spec()), at(0));
        let mut run = RunRecord::new(
            run_id(n),
            RunKey::new(format!("chain-{n}")).unwrap(),
            pipeline.name().clone(),
            digest,
            LogicalName::new("dev").unwrap(),
            "2026-11-03".parse().unwrap(),
            Json::of(&n).unwrap(),
            at(n),
        );
        run.state = RunState::Running;
        let mut chain = Self {
            run,
            steps: Vec::new(),
            attempts: Vec::new(),
        };
        let created = chain.event(EventKind::RunCreated);
        let mut changes = vec![
            Change::PutVersion(Box::new(version)),
            Change::CreateRun(Box::new(chain.run.clone())),
        ];
        changes.extend(chain.launch());
        // Behind the launch, so that the row counts both events.
        changes[1] = Change::CreateRun(Box::new(chain.run.clone()));
        changes.insert(2, created);
        (chain, Transition::new(changes))
    }

    /// Returns the run as it is once it has that many events.
    pub(crate) fn after(n: u64, events: u64) -> Self {
        let (mut chain, _) = Self::start(n);
        while chain.events() < events {
            chain.hop();
        }
        assert_eq!(
            chain.events(),
            events,
            "run {n} lies between two transitions"
        );
        chain
    }

    pub(crate) fn events(&self) -> u64 {
        self.run.next_seq - 1
    }

    /// Ends the last step and starts the next.
    pub(crate) fn hop(&mut self) -> Transition {
        let now = Some(at(self.run.next_seq));
        let (step, attempt) = (
            self.steps.last_mut().unwrap(),
            self.attempts.last_mut().unwrap(),
        );
        (step.state, step.ended_at) = (StepState::Succeeded, now);
        step.output = Some(StepOutput::of(
            Json::of(&("value", self.run.next_seq)).unwrap(),
        ));
        (attempt.ended_at, attempt.end) = (now, Some(AttemptEnd::Succeeded));
        let (step, attempt) = (step.clone(), attempt.clone());
        let (slot, end) = (step.slot, AttemptEnd::Succeeded);
        let state = StepState::Succeeded;
        let mut changes = vec![
            Change::PutStep(Box::new(step)),
            Change::PutAttempt(Box::new(attempt)),
            self.event(EventKind::AttemptEnded {
                slot,
                attempt: ONE,
                end,
                usage: None,
            }),
            self.event(EventKind::StepEnded {
                slot,
                state,
                skip: None,
            }),
        ];
        changes.extend(self.launch());
        changes.push(Change::PutRun(Box::new(self.run.clone())));
        Transition::new(changes)
    }

    fn launch(&mut self) -> [Change; 3] {
        let slot = Slot::step(u32::try_from(self.steps.len()).unwrap());
        let token = self.run.next_token;
        self.run.next_token = FencingToken::new(token.get() + 1);
        let mut step = StepRecord::new(self.run.id, slot);
        (step.state, step.attempt) = (StepState::Running, ONE);
        let attempt = AttemptRecord::new(self.run.id, slot, ONE, token, "boot".to_owned(), at(1));
        self.steps.push(step.clone());
        self.attempts.push(attempt.clone());
        let launched = EventKind::AttemptLaunched {
            slot,
            attempt: ONE,
            token,
        };
        [
            Change::PutStep(Box::new(step)),
            Change::PutAttempt(Box::new(attempt)),
            self.event(launched),
        ]
    }

    fn event(&mut self, kind: EventKind) -> Change {
        let seq = self.run.next_seq;
        self.run.next_seq += 1;
        Change::AppendEvent(Box::new(EventRecord::new(self.run.id, seq, at(seq), kind)))
    }
}

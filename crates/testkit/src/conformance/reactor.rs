//! What every [`Reactor`] must do.
//!
//! [`check`] tells a reactor the story of a week: runs that fail, that fail again, that recover,
//! that are cancelled, and a step whose end nobody knows. What is worth telling is the reactor's
//! own matter; that the same events always tell the same is the contract.

use std::collections::BTreeSet;

use windlass_core::{
    Action, AlertKind, AttemptEnd, AttemptNo, Digest, EventKind, EventRecord, Failure,
    FailureClass, FencingToken, Json, LogicalName, Occasion, OutboxRecord, OutboxState,
    PipelineName, PipelineSpec, Reactor, RootFailure, RunId, RunKey, RunRecord, RunState, Slot,
    StepName, StepSpec, StepState, Timestamp,
};

pub use super::report::Report;
use super::report::{Found, Miss, broken, same, that};

/// Builds a reactor to which nothing happened yet.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Reactor>;

/// One event, and the run as it is after it.
struct Scene {
    run: RunRecord,
    event: EventRecord,
}

struct Story {
    pipeline: PipelineSpec,
    /// When the last event happened: time goes on, whatever day a run stands for.
    now: Timestamp,
    scenes: Vec<Scene>,
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, Miss> {
    result.map_err(|e| Miss::Broken(e.to_string()))
}

impl Story {
    fn of_a_week() -> Result<Self, Miss> {
        let mut pipeline = PipelineSpec::new(told(PipelineName::new("churn"))?);
        pipeline.owner = Some("team-retention".to_owned());
        for name in ["fetch", "train", "score"] {
            let action = Action::Native(name.into());
            let step = StepSpec::new(told(StepName::new(name))?, action);
            pipeline.steps.push(step);
        }
        let mut story = Self {
            pipeline,
            now: told("2026-11-07T06:00:00Z".parse())?,
            scenes: Vec::new(),
        };
        story.run(2, 1, vec![ended(RunState::Succeeded, None)])?;
        story.run(3, 1, failed("train", FailureClass::OutOfMemory))?;
        story.run(4, 1, failed("train", FailureClass::OutOfMemory))?;
        story.run(5, 1, failed("fetch", FailureClass::Unavailable))?;
        story.run(5, 2, vec![ended(RunState::Cancelled, None)])?;
        let slot = Slot::step(1);
        let lost = vec![
            EventKind::StepUnknown { slot },
            ended(RunState::Succeeded, None),
        ];
        story.run(3, 2, lost)?;
        story.run(4, 2, vec![ended(RunState::Succeeded, None)])?;
        story.run(5, 3, vec![ended(RunState::Succeeded, None)])?;
        story.run(6, 1, failed("train", FailureClass::User))?;
        Ok(story)
    }

    fn run(&mut self, day: u8, number: u32, kinds: Vec<EventKind>) -> Found {
        let date = format!("2026-11-{day:02}");
        let created = self.now;
        let id = RunId::from_parts(created, u128::from(number));
        let mut run = RunRecord::new(
            id,
            told(RunKey::new(format!("churn@prod@{date}#{number}")))?,
            self.pipeline.name.clone(),
            Digest::of(b"version"),
            told(LogicalName::new("prod"))?,
            told(date.parse())?,
            Json::none(),
            created,
        );
        run.started_at = Some(created);
        let all = [EventKind::RunCreated, EventKind::RunStarted];
        for (i, kind) in all.into_iter().chain(kinds).enumerate() {
            let at = self.now.after(std::time::Duration::from_secs(61));
            self.now = at;
            if let EventKind::RunEnded { state, .. } = kind {
                (run.state, run.ended_at) = (state, Some(at));
            }
            self.scenes.push(Scene {
                run: run.clone(),
                event: EventRecord::new(id, i as u64 + 1, at, kind),
            });
        }
        Ok(())
    }

    fn tell(&self, reactor: &mut dyn Reactor, nth: usize) -> Vec<OutboxRecord> {
        let Scene { run, event } = &self.scenes[nth];
        reactor.react(&Occasion::new(run, &self.pipeline, event))
    }

    /// Tells all of it; returns what each event gave.
    fn told_to(&self, reactor: &mut dyn Reactor) -> Vec<Vec<OutboxRecord>> {
        let all = 0..self.scenes.len();
        all.map(|nth| self.tell(reactor, nth)).collect()
    }
}

fn ended(state: RunState, root: Option<RootFailure>) -> EventKind {
    EventKind::RunEnded {
        state,
        reason: None,
        blocked: root.iter().len() as u32,
        roots: root.into_iter().collect(),
    }
}

fn failed(step: &str, class: FailureClass) -> Vec<EventKind> {
    let failure = Failure::new(class, format!("{step} said why"));
    let (slot, attempt) = (Slot::step(u32::from(step == "train")), AttemptNo::new(1));
    let token = FencingToken::new(1);
    let end = AttemptEnd::Failed(failure.clone());
    let state = StepState::Failed;
    vec![
        EventKind::AttemptLaunched {
            slot,
            attempt,
            token,
        },
        EventKind::AttemptEnded {
            slot,
            attempt,
            end,
            usage: None,
        },
        EventKind::StepEnded {
            slot,
            state,
            skip: None,
        },
        ended(
            RunState::Failed,
            Some(RootFailure::new(step.to_owned(), 1, failure)),
        ),
    ]
}

fn the_same_events_give_the_same_entries(make: Make<'_>) -> Found {
    let story = Story::of_a_week()?;
    let (first, second) = (story.told_to(&mut *make()), story.told_to(&mut *make()));
    same("the second telling", &second, &first)
}

fn an_event_that_comes_again_gives_the_same_entries(make: Make<'_>) -> Found {
    // As after a commit that failed, or whose answer was lost.
    let story = Story::of_a_week()?;
    let (expected, mut reactor) = (story.told_to(&mut *make()), make());
    for (nth, entries) in expected.iter().enumerate() {
        for time in ["first", "second"] {
            let given = story.tell(&mut *reactor, nth);
            same(&format!("event {nth} the {time} time"), &given, entries)?;
        }
    }
    Ok(())
}

fn a_restart_anywhere_changes_nothing(make: Make<'_>) -> Found {
    let story = Story::of_a_week()?;
    let expected = story.told_to(&mut *make());
    for crash in 0..expected.len() {
        let mut reactor = make();
        reactor.restore(&expected[..crash].concat());
        for (nth, entries) in expected.iter().enumerate().skip(crash) {
            let given = story.tell(&mut *reactor, nth);
            let what = format!("event {nth} after a restart before event {crash}");
            same(&what, &given, entries)?;
        }
    }
    Ok(())
}

fn a_restore_forgets_what_was_lost(make: Make<'_>) -> Found {
    // As after a commit that failed: its run never goes on, and the runs after it know nothing of it.
    let story = Story::of_a_week()?;
    let expected = story.told_to(&mut *make());
    for lost in 0..expected.len() {
        let (mut before, mut new) = (make(), make());
        story.told_to(&mut *before);
        for reactor in [&mut before, &mut new] {
            reactor.restore(&expected[..lost].concat());
        }
        let of = |nth: usize| story.scenes[nth].run.id;
        for nth in (lost..expected.len()).filter(|nth| of(*nth) != of(lost)) {
            let what = format!("event {nth} where event {lost} was lost");
            let given = story.tell(&mut *before, nth);
            same(&what, &given, &story.tell(&mut *new, nth))?;
        }
    }
    Ok(())
}

fn an_entry_is_made_once(make: Make<'_>) -> Found {
    let entries = Story::of_a_week()?.told_to(&mut *make()).concat();
    let mut ids = BTreeSet::new();
    for entry in &entries {
        let id = format!("{}>{}", entry.notification.id, entry.notifier);
        same("the id of an entry", &entry.id, &id)?;
        that(ids.insert(id.clone()), || {
            format!("`{id}` names two entries")
        })?;
    }
    Ok(())
}

fn an_entry_tells_of_its_occasion(make: Make<'_>) -> Found {
    let story = Story::of_a_week()?;
    for (scene, entries) in story.scenes.iter().zip(story.told_to(&mut *make())) {
        for entry in entries {
            let n = &entry.notification;
            same("the run", &n.run, &scene.run.id)?;
            same("the pipeline", &n.pipeline, &scene.run.pipeline)?;
            same("the environment", &n.environment, &scene.run.environment)?;
            same("the time", &n.at, &scene.event.at)?;
            let fresh = (entry.state, entry.tries, entry.last_error.is_none());
            same("a new entry", &fresh, &(OutboxState::Pending, 0, true))?;
        }
    }
    Ok(())
}

fn a_message_can_be_shown(make: Make<'_>) -> Found {
    for entry in Story::of_a_week()?.told_to(&mut *make()).concat() {
        let n = entry.notification;
        let length = n.title.chars().count();
        that(
            (1..=120).contains(&length) && !n.title.contains('\n'),
            || {
                format!(
                    "a title is one line of at most 120 characters: {:?}",
                    n.title
                )
            },
        )?;
        let hex = n.incident.strip_prefix("wl1:").unwrap_or_default();
        let valid = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        that(valid, || {
            format!("an incident is `wl1:` and 32 hex digits: {}", n.incident)
        })?;
    }
    Ok(())
}

fn an_incident_is_opened_before_it_changes(make: Make<'_>) -> Found {
    let mut open = BTreeSet::new();
    for entry in Story::of_a_week()?.told_to(&mut *make()).concat() {
        let n = entry.notification;
        let incident = (n.incident.clone(), entry.notifier.clone());
        let fits = match n.kind {
            AlertKind::Opened => open.insert(incident),
            AlertKind::Updated => open.contains(&incident),
            AlertKind::Resolved => open.remove(&incident),
            other => return broken(format!("a kind that the suite doesn't know: {other:?}")),
        };
        that(fits, || {
            format!("{:?} comes out of turn for {:?}", n.kind, n.title)
        })?;
    }
    Ok(())
}

/// Tries every promise.
pub fn check(make: Make<'_>) -> Report {
    let mut report = Report::default();
    macro_rules! promises {
        ($($promise:ident,)*) => {$(
            report.note(stringify!($promise), $promise(make));
        )*};
    }
    promises! {
        the_same_events_give_the_same_entries,
        an_event_that_comes_again_gives_the_same_entries,
        a_restart_anywhere_changes_nothing,
        a_restore_forgets_what_was_lost,
        an_entry_is_made_once,
        an_entry_tells_of_its_occasion,
        a_message_can_be_shown,
        an_incident_is_opened_before_it_changes,
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub fn hold(make: Make<'_>) -> Report {
    check(make).or_panic(&format_args!("{:?}", make()))
}

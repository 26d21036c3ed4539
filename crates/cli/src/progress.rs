//! How a run goes, while it goes: a line for each thing that happens, and on a terminal a live
//! foot below them with what runs and what waits for what.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use windlass::run_store::{AttemptEnd, EventKind, EventRecord, RunRecord};
use windlass::{
    Clock, ClockExt, RunHandle, RunView, Slot, StepState, SystemClock, Timestamp, WaitReason,
};

use crate::args::Progress;
use crate::json::{self, Names};
use crate::print::{Colour, took};

/// Rows of the live foot at most.
const ROWS: usize = 8;
/// How often the foot is drawn anew.
const TICK: Duration = Duration::from_millis(250);

enum Mode {
    Json,
    Lines,
    Live(MultiProgress, Vec<ProgressBar>),
    Silent,
}

/// How a run is to be shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// As lines of JSON on standard output.
    pub(crate) json: bool,
    /// Otherwise how, on standard error.
    pub(crate) progress: Progress,
    /// Whether to end with what stays: the summary, or the last line of JSON.
    pub(crate) summary: bool,
}

impl Look {
    /// For people, or for programs an event a line.
    pub(crate) const fn new(json: bool, progress: Progress) -> Self {
        Self {
            json,
            progress,
            summary: true,
        }
    }

    /// Nothing at all: the command has an object of its own.
    pub(crate) const fn nothing() -> Self {
        Self {
            json: false,
            progress: Progress::None,
            summary: false,
        }
    }
}

/// Shows a run.
pub(crate) struct Show {
    mode: Mode,
    colour: Colour,
    names: Names,
    started: Option<Timestamp>,
    attempts: BTreeMap<Slot, Timestamp>,
}

impl Show {
    /// `created` is false for a run that was there before.
    pub(crate) fn new(
        look: Look,
        run: &RunRecord,
        names: Names,
        created: bool,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let live = std::io::stderr().is_terminal()
            && variables("TERM").as_deref() != Some("dumb")
            && variables("CI").is_none();
        let mode = match (look.json, look.progress) {
            (true, _) => Mode::Json,
            (_, Progress::None) => Mode::Silent,
            (_, Progress::Auto) if live => Mode::Live(MultiProgress::new(), Vec::new()),
            _ => Mode::Lines,
        };
        let show = Self {
            mode,
            colour: Colour::of_stderr(variables),
            names,
            started: None,
            attempts: BTreeMap::new(),
        };
        let what = if created { "run" } else { "goes on with run" };
        if !matches!(show.mode, Mode::Json | Mode::Silent) {
            eprintln!("{} {what} {} in {}", run.pipeline, run.id, run.environment);
        }
        show
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, event: &EventRecord) {
        if let Mode::Json = self.mode {
            println!("{}", json::event_line(event, &self.names));
            return;
        }
        let started = *self.started.get_or_insert(event.at);
        let Some(text) = self.text(event) else { return };
        let elapsed = event.at.since(started).as_secs();
        self.line(&format!("{:02}:{:02}  {text}", elapsed / 60, elapsed % 60));
    }

    fn text(&mut self, event: &EventRecord) -> Option<String> {
        Some(match &event.kind {
            EventKind::AttemptLaunched { slot, attempt, .. } => {
                self.attempts.insert(*slot, event.at);
                let again = if attempt.get() > 1 {
                    format!(" (attempt {attempt})")
                } else {
                    String::new()
                };
                format!(
                    "{} {}{again}",
                    self.colour.state(StepState::Running),
                    self.names.label(*slot)
                )
            }
            EventKind::AttemptEnded {
                slot,
                end: AttemptEnd::Failed(failure),
                attempt,
                ..
            } => {
                format!("  {} attempt {attempt}: {failure}", self.names.label(*slot))
            }
            EventKind::RetryScheduled { slot, until } => format!(
                "  {} again in {}",
                self.names.label(*slot),
                took(until.since(event.at))
            ),
            EventKind::RoundScheduled { slot, round, until } => format!(
                "  {} round {round} in {}: `until` was false",
                self.names.label(*slot),
                took(until.since(event.at))
            ),
            EventKind::MapExpanded { step, items } => {
                format!(
                    "  {} has {items} items",
                    self.names.label(Slot::step(*step))
                )
            }
            EventKind::StepServed { slot, run } => format!(
                "{} {}  (result of run {})",
                self.colour.state(StepState::Cached),
                self.names.label(*slot),
                run.short()
            ),
            // What a rerun takes over was told before it began.
            EventKind::StepEnded {
                state: StepState::Cached,
                ..
            } => return None,
            EventKind::StepEnded { slot, state, skip } => {
                let time = self.attempts.remove(slot).map_or(String::new(), |at| {
                    format!("  {}", took(event.at.since(at)))
                });
                let why = skip.as_ref().map_or(String::new(), |s| format!("  ({s})"));
                format!(
                    "{} {}{time}{why}",
                    self.colour.state(*state),
                    self.names.label(*slot)
                )
            }
            EventKind::StepUnknown { slot } => format!(
                "{} {}",
                self.colour.state(StepState::Unknown),
                self.names.label(*slot)
            ),
            EventKind::StepResolved { slot, resolution } => format!(
                "{}: somebody says {}",
                self.names.label(*slot),
                resolution.as_str()
            ),
            EventKind::SignalGiven { slot, by } => {
                format!("{}: {by} gives what it waits for", self.names.label(*slot))
            }
            EventKind::CancelRequested { reason } => format!("cancel: {reason}"),
            EventKind::RunPaused => "paused".to_owned(),
            EventKind::RunResumed => "goes on".to_owned(),
            _ => return None,
        })
    }

    fn line(&self, text: &str) {
        match &self.mode {
            // A line that can't be printed has nobody who reads it.
            Mode::Live(bars, _) => drop(bars.println(text)),
            Mode::Lines => eprintln!("{text}"),
            Mode::Json | Mode::Silent => {}
        }
    }

    /// Shows a note of the command itself.
    pub(crate) fn note(&self, text: &str) {
        match self.mode {
            Mode::Json | Mode::Silent => eprintln!("{text}"),
            Mode::Live(..) | Mode::Lines => self.line(text),
        }
    }

    /// Waits until the foot is due, and looks at the run; never returns where there is no foot.
    pub(crate) async fn tick(&self, run: &RunHandle) -> Option<RunView> {
        if !matches!(self.mode, Mode::Live(..)) {
            std::future::pending::<()>().await;
        }
        SystemClock::new().sleep(TICK).await;
        run.look().await.ok().flatten()
    }

    /// Draws the foot.
    pub(crate) fn view(&mut self, view: Option<RunView>) {
        let (Mode::Live(bars, rows), Some(view)) = (&mut self.mode, view) else {
            return;
        };
        let now = SystemClock::new().now();
        let done = view.steps.iter().filter(|s| s.state.is_final()).count();
        let mut texts = Vec::new();
        for step in view.steps.iter().filter(|s| {
            matches!(
                s.state,
                StepState::Running
                    | StepState::Waiting
                    | StepState::Retrying
                    | StepState::Ready
                    | StepState::Unknown
            )
        }) {
            let items = step
                .items
                .map_or(String::new(), |(done, all)| format!(" {done}/{all}"));
            let time = self
                .attempts
                .get(&step.slot)
                .map_or(String::new(), |at| took(now.since(*at)));
            let why = step
                .reason
                .as_ref()
                .map_or(String::new(), |r: &WaitReason| r.to_string());
            texts.push(format!(
                "{} {}{items}  {time}{why}",
                self.colour.state(step.state),
                step.name
            ));
        }
        let more = texts.len().saturating_sub(ROWS);
        texts.truncate(ROWS);
        if more > 0 {
            texts.push(format!("  and {more} more"));
        }
        let elapsed = self.started.map_or(Duration::ZERO, |s| now.since(s));
        texts.push(format!(
            "  {done} of {} steps  {}",
            view.steps.len(),
            took(elapsed)
        ));
        while rows.len() < texts.len() {
            let style = ProgressStyle::with_template("{wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            rows.push(bars.add(ProgressBar::new_spinner().with_style(style)));
        }
        while rows.len() > texts.len() {
            if let Some(row) = rows.pop() {
                row.finish_and_clear();
                bars.remove(&row);
            }
        }
        for (row, text) in rows.iter().zip(texts) {
            row.set_message(text);
        }
    }

    /// Takes the foot away; the lines stay.
    pub(crate) fn end(&mut self) {
        if let Mode::Live(bars, _) = &self.mode {
            // A terminal that is gone has no foot left to clear.
            bars.clear().ok();
        }
    }
}

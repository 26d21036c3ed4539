//! What a person reads: title, body and facts of each message, pure text of pure values.
//!
//! First failures stand first, then what they block, then what to do. A message never has more
//! than [`MAX_TITLE`] characters of title and [`MAX_BODY`] bytes of body; each part has its own
//! budget, so a long error can't push the advice out. Text of the user's code is redacted before
//! it is cut, for half a secret is no longer recognised later.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_core::units::{format_bytes, format_duration};
use windlass_core::{
    AttemptNo, Failure, FailureClass, LogicalDate, Occasion, RootFailure, RunFolder, RunId,
    RunState, StepName, StepSpec,
};

use crate::advice;
use crate::incident::{Failing, Family, fact};
use crate::redact::Redactor;
use crate::text::{count, excerpt, one_line, prefix};

/// Most characters of a title.
pub(crate) const MAX_TITLE: usize = 120;
/// Most bytes of a body.
pub(crate) const MAX_BODY: usize = 10 << 10;
/// Bytes and lines of the first root's error, then of each other one.
const LEAD_EXCERPT: (usize, usize) = (2_000, 20);
const OTHER_EXCERPT: (usize, usize) = (300, 4);
/// Bytes of an error that are looked at, and the longest secret that a cut there must not split.
const MAX_READ: usize = 64 << 10;
const MAX_SECRET: usize = 4 << 10;
/// Roots that a message shows.
const MAX_ROOTS: usize = 10;
/// Characters of a step with its item, of an environment in a title, and of a reason.
const LABEL: usize = 100;
const ENVIRONMENT: usize = 24;
const REASON: usize = 300;
/// Failing days that a body names; the fact names them all.
const SHOWN_DAYS: usize = 10;

/// One message, before it has a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) facts: BTreeMap<String, String>,
}

/// A root failure with what its place in the pipeline adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a> {
    pub(crate) failure: &'a RootFailure,
    pub(crate) spec: Option<&'a StepSpec>,
    /// Peak memory of its last failed attempt in bytes, where known.
    pub(crate) peak: Option<u64>,
}

impl<'a> Root<'a> {
    /// The name of the step, without the item of a mapped one.
    pub(crate) fn step(&self) -> &'a str {
        split_label(&self.failure.step).0
    }
}

/// Splits `train[3]` into step and item.
pub(crate) fn split_label(label: &str) -> (&str, Option<&str>) {
    match label.split_once('[') {
        Some((step, item)) => (step, Some(item.strip_suffix(']').unwrap_or(item))),
        None => (label, None),
    }
}

/// What made a run fail.
#[derive(Debug)]
pub(crate) struct Failed<'a> {
    /// The first failures; the one that names the incident first.
    pub(crate) roots: Vec<Root<'a>>,
    pub(crate) blocked: u32,
    pub(crate) reason: Option<&'a str>,
}

/// A run failed; `again` if somebody was told of the incident before.
pub(crate) fn failed(
    occasion: &Occasion<'_>,
    what: &Failed<'_>,
    failing: &Failing,
    again: bool,
    redactor: &Redactor,
) -> Message {
    let cause = cause(what, redactor);
    let verb = if again { "failed again" } else { "failed" };
    let mut body = Body::default();
    if let Some(reason) = what.reason.filter(|_| !what.roots.is_empty()) {
        body.line(&one_line(&clean(redactor, reason), REASON));
    }
    if !what.roots.is_empty() {
        body.line("Failed first:");
    }
    for (i, root) in what.roots.iter().take(MAX_ROOTS).enumerate() {
        let (bytes, lines) = if i == 0 { LEAD_EXCERPT } else { OTHER_EXCERPT };
        body.item(&root_line(root, redactor));
        let (text, unread) = read(redactor, &root.failure.failure.message);
        body.quote(&excerpt(&text, bytes, lines, unread));
    }
    if what.roots.is_empty() {
        let reason = what
            .reason
            .unwrap_or("no step failed, and no reason is recorded");
        body.line(&format!(
            "Failed: {}",
            one_line(&clean(redactor, reason), REASON)
        ));
    }
    if what.blocked > 0 {
        body.line(&format!(
            "Blocked: {} did not run because of it",
            count(what.blocked as usize, "step")
        ));
    }
    body.days(failing);
    body.line("What to do:");
    for advice in advice::of(occasion, what) {
        body.item(&advice);
    }
    body.run(occasion);
    if let Some(log) = what
        .roots
        .first()
        .and_then(|root| log_folder(occasion, root))
    {
        body.line(&format!("Log: {log}"));
    }
    Message {
        title: title(occasion, &format!("{verb}: {cause}")),
        body: body.finish(),
        facts: failed_facts(occasion, what, failing, &cause),
    }
}

/// One day of several is well again.
pub(crate) fn less(occasion: &Occasion<'_>, cause: &str, left: &Failing) -> Message {
    let day = occasion.run.date;
    let mut body = Body::default();
    body.line(&format!(
        "{day} succeeded; other days still lack a success."
    ));
    body.days(left);
    body.line(&format!("What was wrong: {cause}"));
    body.run(occasion);
    Message {
        title: title(
            occasion,
            &format!("is well again for {day}, not for other days"),
        ),
        body: body.finish(),
        facts: base_facts(occasion, Family::RunFailed, cause, &left.print()),
    }
}

/// The last failing day is well again.
pub(crate) fn recovered(occasion: &Occasion<'_>, cause: &str) -> Message {
    let mut body = Body::default();
    body.line(&format!(
        "{} succeeded, and no other day is failing.",
        occasion.run.date
    ));
    body.line(&format!("What was wrong: {cause}"));
    body.run(occasion);
    Message {
        title: title(occasion, &format!("is well again (was: {cause})")),
        body: body.finish(),
        facts: base_facts(occasion, Family::RunFailed, cause, ""),
    }
}

/// Nobody can tell how an attempt ended.
pub(crate) fn unknown(
    occasion: &Occasion<'_>,
    step: &str,
    label: &str,
    waiting: &Failing,
) -> Message {
    let mut body = Body::default();
    body.line(&format!(
        "Nobody can tell how the last attempt of {} ended; it may still be running.",
        one_line(label, LABEL)
    ));
    body.line("The step waits for a person; a second attempt could do its work twice.");
    body.line("What to do:");
    body.item(&advice::unknown(step));
    body.run(occasion);
    let cause = format!("{step} has an unknown end");
    let mut facts = base_facts(occasion, Family::StepUnknown, &cause, &waiting.print());
    facts.insert("step".to_owned(), one_line(label, LABEL));
    Message {
        title: title(
            occasion,
            &format!("waits: nobody can tell how {step} ended"),
        ),
        body: body.finish(),
        facts,
    }
}

/// A run that waited for a person has ended, or the person answered; others may still wait.
pub(crate) fn settled(occasion: &Occasion<'_>, cause: &str, left: &Failing) -> Message {
    let end = match occasion.run.state {
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "was cancelled",
        _ => "goes on: somebody said how the attempt ended",
    };
    let mut body = Body::default();
    body.line(&format!("The run no longer waits: it {end}."));
    body.line(&format!("What was wrong: {cause}"));
    body.run(occasion);
    Message {
        title: title(
            occasion,
            &format!("no longer waits: the run {end} (was: {cause})"),
        ),
        body: body.finish(),
        facts: base_facts(occasion, Family::StepUnknown, cause, &left.print()),
    }
}

fn title(occasion: &Occasion<'_>, what: &str) -> String {
    let environment = one_line(occasion.run.environment.as_str(), ENVIRONMENT);
    one_line(
        &format!("[{environment}] {} {what}", occasion.run.pipeline),
        MAX_TITLE,
    )
}

/// What is wrong in a few words: `train ran out of memory, and 2 other steps`.
fn cause(what: &Failed<'_>, redactor: &Redactor) -> String {
    let Some(lead) = what.roots.first() else {
        let reason = what.reason.unwrap_or("no reason is recorded");
        return one_line(&clean(redactor, reason), LABEL);
    };
    let items = what
        .roots
        .iter()
        .filter(|r| r.step() == lead.step())
        .count();
    let others = what.roots.len() - items;
    let mut text = format!("{} {}", lead.step(), why(&lead.failure.failure, redactor));
    if items > 1 {
        text.push_str(&format!(" in {items} items"));
    }
    if others > 0 {
        text.push_str(&format!(", and {}", count(others, "other step")));
    }
    one_line(&text, LABEL)
}

/// Why an attempt failed, as the rest of a sentence about the step.
fn why(failure: &Failure, redactor: &Redactor) -> String {
    match failure.class {
        FailureClass::OutOfMemory => "ran out of memory".to_owned(),
        FailureClass::TimedOut => "timed out".to_owned(),
        FailureClass::Preempted => "was preempted".to_owned(),
        FailureClass::Lost => "was lost with its host".to_owned(),
        FailureClass::Unavailable => "could not reach a service it needs".to_owned(),
        _ => match (failure.signal, failure.exit_code) {
            (Some(signal), _) => format!("was ended by signal {signal}"),
            (None, Some(code)) => format!("exited with code {code}"),
            (None, None) => {
                let message = clean(redactor, &failure.message);
                format!("failed: {}", one_line(telling_line(&message), 60))
            }
        },
    }
}

/// The line that says what is wrong: the first one, but the last one of a Python traceback.
fn telling_line(message: &str) -> &str {
    let message = message.trim();
    let mut lines = message.lines();
    if message.starts_with("Traceback") {
        lines.next_back().unwrap_or("")
    } else {
        lines.next().unwrap_or("")
    }
}

/// Redacts text of any length, for a part that shows its start.
fn clean(redactor: &Redactor, text: &str) -> String {
    read(redactor, text).0
}

/// Redacts the first [`MAX_READ`] bytes and returns how many were not read. The end of a longer
/// text's part is dropped as well, since the cut may have split a secret there; no part of a
/// message shows as much as is left.
fn read(redactor: &Redactor, text: &str) -> (String, usize) {
    let start = prefix(text, MAX_READ);
    let mut clean = redactor.redact(start);
    let mut unread = text.len() - start.len();
    if unread > 0 {
        let kept = prefix(&clean, clean.len().saturating_sub(MAX_SECRET)).len();
        unread += clean.len() - kept;
        clean.truncate(kept);
    }
    (clean, unread)
}

fn root_line(root: &Root<'_>, redactor: &Redactor) -> String {
    let failure = &root.failure.failure;
    let is_user = failure.class == FailureClass::User;
    let (code, signal) = (failure.exit_code, failure.signal);
    let mut facts = vec![count(root.failure.attempts as usize, "attempt")];
    if !is_user {
        facts.extend(code.map(|c| format!("exit code {c}")));
        facts.extend(signal.map(|s| format!("signal {s}")));
    }
    let peak = root.peak.map(format_bytes);
    facts.extend(peak.map(|p| format!("peak memory {p}")));
    let why = match (code, signal) {
        // The message stands right below.
        (None, None) if is_user => "failed".to_owned(),
        _ => why(failure, redactor),
    };
    format!(
        "{} {why} ({})",
        one_line(&clean(redactor, &root.failure.step), LABEL),
        facts.join(", ")
    )
}

/// Where the logs of the last attempt lie, below the storage that holds the run's folder.
fn log_folder(occasion: &Occasion<'_>, root: &Root<'_>) -> Option<String> {
    let (step, item) = split_label(&root.failure.step);
    let run = occasion.run;
    let folder = RunFolder::new(&run.pipeline, run.date, run.id);
    let step = StepName::new(step).ok()?;
    let attempt = AttemptNo::new(root.failure.attempts.max(1));
    match item.map(str::parse) {
        None => Some(folder.attempt(&step, None, attempt).to_string()),
        Some(Ok(item)) => Some(folder.attempt(&step, Some(item), attempt).to_string()),
        // The item is named by its value: point at the folder of all items.
        Some(Err(_)) => Some(format!("{}/steps/{step}", folder.key())),
    }
}

fn base_facts(
    occasion: &Occasion<'_>,
    family: Family,
    cause: &str,
    failing: &str,
) -> BTreeMap<String, String> {
    BTreeMap::from(
        [
            (fact::RULE, family.as_str()),
            (fact::CAUSE, cause),
            (fact::FAILING, failing),
            ("date", &occasion.run.date.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    )
}

fn failed_facts(
    occasion: &Occasion<'_>,
    what: &Failed<'_>,
    failing: &Failing,
    cause: &str,
) -> BTreeMap<String, String> {
    let mut facts = base_facts(occasion, Family::RunFailed, cause, &failing.print());
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value);
        }
    };
    add("blocked", Some(what.blocked.to_string()));
    add("duration", Some(duration(occasion)));
    add("roots", Some(what.roots.len().to_string()));
    if let Some(root) = what.roots.first() {
        let failure = &root.failure.failure;
        add("step", Some(root.step().to_owned()));
        add("class", Some(failure.class.to_string()));
        add("attempts", Some(root.failure.attempts.to_string()));
        add("exit_code", failure.exit_code.map(|c| c.to_string()));
        add("signal", failure.signal.map(|s| s.to_string()));
        add("peak_memory", root.peak.map(format_bytes));
        add("memory", advice::memory(root.spec).map(format_bytes));
        add("log", log_folder(occasion, root));
    }
    facts
}

/// From the start of the run's first step to the event, in whole seconds.
fn duration(occasion: &Occasion<'_>) -> String {
    let start = occasion.run.started_at.unwrap_or(occasion.run.created_at);
    format_duration(Duration::from_secs(
        occasion.event.at.since(start).as_secs(),
    ))
}

/// The lines of a body, in order.
#[derive(Debug, Default)]
struct Body(String);

impl Body {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn item(&mut self, text: &str) {
        self.line(&format!("- {text}"));
    }

    fn quote(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!("  | {line}"));
        }
    }

    fn days(&mut self, failing: &Failing) {
        let Failing::Days(days) = failing else { return };
        let shown: Vec<String> = days
            .iter()
            .rev()
            .take(SHOWN_DAYS)
            .map(LogicalDate::to_string)
            .collect();
        let more = match days.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} earlier"),
        };
        if !days.is_empty() {
            self.line(&format!(
                "Days without a success: {}{more}",
                shown.join(", ")
            ));
        }
    }

    fn run(&mut self, occasion: &Occasion<'_>) {
        let run = occasion.run;
        let id: RunId = run.id;
        self.line(&format!(
            "Run: {id} of {}, {}",
            run.date,
            duration(occasion)
        ));
        for (what, commit) in [
            ("Pipeline", &run.pipeline_commit),
            ("Code", &run.code_commit),
        ] {
            if let Some(commit) = commit {
                self.line(&format!("{what} commit: {}", one_line(commit, 64)));
            }
        }
        if let Some(owner) = &occasion.pipeline.owner {
            self.line(&format!("Owner: {}", one_line(owner, LABEL)));
        }
    }

    /// The parts' budgets keep the body below the limit; the cut is for what nobody thought of.
    fn finish(self) -> String {
        let body = self.0.trim_end();
        if body.len() <= MAX_BODY {
            return body.to_owned();
        }
        const NOTE: &str = "\n(the rest is cut)";
        format!("{}{NOTE}", prefix(body, MAX_BODY - NOTE.len()))
    }
}

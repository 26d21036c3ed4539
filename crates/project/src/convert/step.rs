//! The steps of a pipeline file.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use windlass_core::{
    Action, ApproveSpec, Backoff, CachePolicy, ChildSpec, ClassRetry, Conditions, CopySpec,
    FailureClass, InputSource, Isolation, Join, LogicalName, LookupSpec, MapOver, MapSpec,
    OnCancel, OutputRef, PipelineName, PublishSpec, RepeatSpec, Resources, RetryPolicy, RunSpec,
    SoftwareSpec, StepName, StepPolicy, StepSpec, Template, TimeoutKind, Timeouts, WaitSpec,
    nearest,
};

use super::{Converter, DecodedSteps};
use crate::diagnostic::clip;
use crate::files::{
    After, BackoffFile, CacheFile, ChildFile, ClassFile, DefaultsFile, IsolationFile, JoinFile,
    MapFile, OnCancelFile, PublishFile, RetryFile, RunFile, SoftwareFile, StepFile, WaitFile,
    Words,
};

/// As many attempts a step may have.
const MOST_ATTEMPTS: u32 = 1_000;
/// How much memory may grow from one attempt to the next.
const MOST_GROWTH_PERCENT: u32 = 1_000;

/// What steps that don't say have.
#[derive(Default)]
pub(super) struct Defaults {
    retry: Option<RetryPolicy>,
    timeout: Option<Duration>,
    compute: Option<LogicalName>,
    pool: Option<LogicalName>,
    resources: Resources,
}

impl Converter<'_> {
    pub(super) fn defaults(&mut self, file: &DefaultsFile) -> Defaults {
        let name = |converter: &mut Self, key: &str, name: &Option<String>| {
            let name = name.as_ref()?;
            converter.logical(&format!("defaults/{key}"), name)
        };
        Defaults {
            retry: file.retry.as_ref().map(|r| self.retry("defaults/retry", r)),
            timeout: file.timeout.and_then(|t| self.limit("defaults/timeout", t)),
            compute: name(self, "compute", &file.compute),
            pool: name(self, "pool", &file.pool),
            resources: file.resources.as_ref().map_or_else(Resources::new, |r| {
                self.resources("defaults/resources", r, None)
            }),
        }
    }

    /// Converts a list of steps; `None` if one has no name, so that nothing is known of the graph.
    pub(super) fn steps(
        &mut self,
        list: &str,
        steps: DecodedSteps,
        defaults: &Defaults,
    ) -> Option<Vec<StepSpec>> {
        let mut specs = Vec::with_capacity(steps.len());
        let mut whole = true;
        for (i, step) in steps.into_iter().enumerate() {
            let spec =
                step.and_then(|s| self.step(&format!("{list}/{i}"), &s.file, s.good, defaults));
            whole &= spec.is_some();
            specs.extend(spec);
        }
        // Alike policies are one in memory.
        let mut shared: HashSet<Arc<StepPolicy>> = HashSet::new();
        for spec in &mut specs {
            match shared.get(&spec.policy) {
                Some(policy) => spec.policy = Arc::clone(policy),
                None => drop(shared.insert(Arc::clone(&spec.policy))),
            }
        }
        whole.then_some(specs)
    }

    /// Converts a step; `None` if it has no name that could stand in the graph.
    fn step(
        &mut self,
        at: &str,
        file: &StepFile,
        good: bool,
        defaults: &Defaults,
    ) -> Option<StepSpec> {
        let name = StepName::new(&file.name);
        let name = self.keep_name(&format!("{at}/name"), &file.name, name)?;
        let placeholder = || Action::Native("placeholder".into());
        let action = self.action(at, file, good);
        let mut spec = StepSpec::new(name, action.unwrap_or_else(placeholder));
        spec = self.edges(at, file.after.as_ref(), spec);
        if let Some(JoinFile::Any) = file.join {
            spec = spec.join(Join::Any);
        }
        spec.when = file.when.as_deref().map(Template::new);
        if let Some(map) = &file.map
            && let Some(map) = self.map(&format!("{at}/map"), map)
        {
            spec = spec.map(map);
        }
        if let Some(file) = &file.repeat {
            if Template::new(&file.until).is_literal() {
                self.reject(
                    &format!("{at}/repeat/until"),
                    format!("`{}` is the same in every round", clip(&file.until)),
                    "write an expression, such as \"{{ result.done }}\"",
                );
            }
            let delay = file.delay.map_or(Duration::ZERO, |d| d.0);
            spec = spec.repeat(RepeatSpec::new(file.until.as_str(), file.max).delay(delay));
        }
        let policy = self.policy(at, file, defaults);
        if policy != StepPolicy::default() {
            spec.policy = Arc::new(policy);
        }
        Some(spec)
    }

    fn edges(&mut self, at: &str, after: Option<&After>, mut spec: StepSpec) -> StepSpec {
        match after {
            None => {}
            Some(After::Steps(steps)) => {
                for (i, step) in steps.iter().enumerate() {
                    let path = format!("{at}/after/{i}");
                    if let Some(step) = self.keep_name(&path, step, StepName::new(step)) {
                        spec = spec.after(step);
                    }
                }
            }
            Some(After::Conditions(steps)) => {
                for (step, words) in steps {
                    let path = format!("{at}/after/{step}");
                    let on = self.conditions(&path, words);
                    let step = self.keep_name(&path, step, StepName::new(step));
                    if let (Some(step), Some(on)) = (step, on) {
                        spec = spec.after_on(step, on);
                    }
                }
            }
        }
        spec
    }

    fn conditions(&mut self, path: &str, words: &Words) -> Option<Conditions> {
        let mut set: Option<Conditions> = None;
        for (i, word) in words.iter().enumerate() {
            match Conditions::from_word(word) {
                Some(on) => set = Some(set.map_or(on, |s| s.or(on))),
                None => {
                    let path = match words {
                        Words::One(_) => path.to_owned(),
                        Words::Many(_) => format!("{path}/{i}"),
                    };
                    let known = ["succeeded", "failed", "skipped", "completed"];
                    let help = nearest(word, known).map_or_else(
                        || format!("conditions are {}", known.join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    self.reject(&path, format!("`{}` is no condition", clip(word)), &help);
                    return None;
                }
            }
        }
        if set.is_none() {
            let help = "write succeeded, failed, skipped or completed";
            self.reject(path, "an edge needs at least one condition", help);
        }
        set
    }

    fn map(&mut self, at: &str, file: &MapFile) -> Option<MapSpec> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts_well = file.item.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts_well || !file.item.chars().all(is_word) {
            self.reject(
                &format!("{at}/as"),
                format!("`{}` can't be a name in expressions", clip(&file.item)),
                "use letters, digits and `_`, starting with a letter",
            );
            return None;
        }
        let item = self.logical(&format!("{at}/as"), &file.item)?;
        let over = match &file.over {
            Value::Array(items) => MapOver::Literal(items.clone()),
            Value::String(text) if !Template::new(text).is_literal() => {
                MapOver::Expression(Template::new(text))
            }
            _ => {
                self.reject(
                    &format!("{at}/over"),
                    "a map goes over a list, or an expression that yields one",
                    "write `over: [a, b]` or `over: \"{{ params.NAME }}\"`",
                );
                return None;
            }
        };
        let mut map = MapSpec::new(over, item);
        map.max_parallel = file.max_parallel;
        map.tolerate_failed = file.tolerate_failed;
        Some(map)
    }

    fn policy(&mut self, at: &str, file: &StepFile, defaults: &Defaults) -> StepPolicy {
        let mut policy = StepPolicy::default();
        let runs = file.run.is_some();
        // A wait or a check has nothing that a second try or a time limit would help.
        let works = runs
            || file.copy.is_some()
            || file.publish.is_some()
            || file.delete.is_some()
            || file.lookup.is_some();
        policy.target = match &file.compute {
            Some(name) => self.logical(&format!("{at}/compute"), name),
            None => defaults.compute.clone().filter(|_| runs),
        };
        policy.pool = match &file.pool {
            Some(name) => self.logical(&format!("{at}/pool"), name),
            None => defaults.pool.clone().filter(|_| runs),
        };
        policy.resources = match &file.resources {
            Some(resources) => self.resources(&format!("{at}/resources"), resources, None),
            None if runs => defaults.resources.clone(),
            None => Resources::new(),
        };
        match (&file.retry, &defaults.retry) {
            (Some(retry), _) => policy.retry = self.retry(&format!("{at}/retry"), retry),
            (None, Some(retry)) if works => policy.retry = retry.clone(),
            (None, _) => {}
        }
        policy.timeouts = self.timeouts(at, file, defaults.timeout.filter(|_| works));
        policy.grace = file.grace.map(|g| g.0);
        policy.allow_failure = file.allow_failure;
        policy.idempotent = file.idempotent;
        policy.priority = file.priority;
        policy.cache = file.cache.as_ref().and_then(|c| self.cache(at, c));
        policy
    }

    fn cache(&mut self, at: &str, file: &CacheFile) -> Option<CachePolicy> {
        let mut cache = CachePolicy::new();
        match file {
            CacheFile::Plain(kept) => return kept.then_some(cache),
            CacheFile::Policy(file) => {
                cache.shared = file.shared;
                cache.version = file.version.as_deref().map(Into::into);
                let max_age = file.max_age;
                cache.max_age =
                    max_age.and_then(|age| self.limit(&format!("{at}/cache/max_age"), age));
            }
        }
        Some(cache)
    }

    fn timeouts(&mut self, at: &str, file: &StepFile, default: Option<Duration>) -> Timeouts {
        let given = file.timeouts.clone().unwrap_or_default();
        let mut timeouts = Timeouts::new();
        if file.timeout.is_some() && given.run.is_some() {
            self.reject(
                &format!("{at}/timeout"),
                "`timeout` and `timeouts.run` say the same thing twice",
                "take one of them away",
            );
        }
        let limits = [
            (TimeoutKind::Queue, given.queue, "timeouts/queue"),
            (TimeoutKind::Start, given.start, "timeouts/start"),
            (TimeoutKind::Run, given.run, "timeouts/run"),
            (TimeoutKind::Total, given.total, "timeouts/total"),
            (
                TimeoutKind::Heartbeat,
                given.heartbeat,
                "timeouts/heartbeat",
            ),
            (TimeoutKind::Run, file.timeout, "timeout"),
        ];
        if let Some(default) = default.filter(|_| file.timeout.or(given.run).is_none()) {
            timeouts = timeouts.with(TimeoutKind::Run, default);
        }
        for (kind, limit, key) in limits {
            if let Some(limit) = limit.and_then(|l| self.limit(&format!("{at}/{key}"), l)) {
                timeouts = timeouts.with(kind, limit);
            }
        }
        timeouts
    }

    fn retry(&mut self, at: &str, file: &RetryFile) -> RetryPolicy {
        self.attempts(at, file.max_attempts);
        let mut retry = RetryPolicy::attempts(file.max_attempts.unwrap_or(1));
        if let Some(backoff) = file
            .backoff
            .and_then(|b| self.backoff(&format!("{at}/backoff"), b))
        {
            retry = retry.with_backoff(backoff);
        }
        for (class, change) in &file.on {
            let class = class_of(*class);
            let at = format!("{at}/on/{class}");
            self.attempts(&at, change.max_attempts);
            if change
                .grow_memory_percent
                .is_some_and(|p| p > MOST_GROWTH_PERCENT)
            {
                self.reject(
                    &format!("{at}/grow_memory_percent"),
                    "memory would grow more than tenfold with each attempt",
                    "write at most 1000; 100 doubles it",
                );
            }
            let mut class_retry = ClassRetry::default();
            class_retry.max_attempts = change.max_attempts;
            class_retry.backoff = change
                .backoff
                .and_then(|b| self.backoff(&format!("{at}/backoff"), b));
            class_retry.grow_memory_percent = change.grow_memory_percent;
            retry = retry.with_class(class, class_retry);
        }
        retry
    }

    fn attempts(&mut self, at: &str, attempts: Option<u32>) {
        let (message, help) = match attempts {
            Some(0) => (
                "0 attempts would never run the step".to_owned(),
                "write at least 1",
            ),
            Some(n) if n > MOST_ATTEMPTS => {
                (format!("{n} attempts are too many"), "write at most 1000")
            }
            Some(_) | None => return,
        };
        self.reject(&format!("{at}/max_attempts"), message, help);
    }

    fn backoff(&mut self, at: &str, file: BackoffFile) -> Option<Backoff> {
        self.keep(at, Backoff::exponential(file.initial.0, file.max.0))
    }

    /// Chooses the one kind that a step has; of one that is not `good`, a kind may be missing
    /// because it didn't decode.
    fn action(&mut self, at: &str, file: &StepFile, good: bool) -> Option<Action> {
        let mut supported = true;
        if file.http.is_some() {
            self.unsupported(&format!("{at}/http"), "`http`");
            supported = false;
        }
        let kinds = [
            ("run", file.run.is_some()),
            ("copy", file.copy.is_some()),
            ("publish", file.publish.is_some()),
            ("delete", file.delete.is_some()),
            ("wait", file.wait.is_some()),
            ("approve", file.approve.is_some()),
            ("pipeline", file.pipeline.is_some()),
            ("lookup", file.lookup.is_some()),
            ("check", file.check.is_some()),
            ("fail", file.fail.is_some()),
        ];
        let given: Vec<&str> = kinds.iter().filter(|(_, g)| *g).map(|(n, _)| *n).collect();
        if !supported || (!good && given.is_empty()) {
            return None;
        }
        if given.len() != 1 {
            let all: Vec<&str> = kinds.iter().map(|(n, _)| *n).collect();
            let (path, message) = match given.as_slice() {
                [_, second, ..] => (
                    format!("{at}/{second}"),
                    format!(
                        "step `{}` does {} things: {}",
                        clip(&file.name),
                        given.len(),
                        given.join(", ")
                    ),
                ),
                _ => (
                    at.to_owned(),
                    format!("step `{}` does nothing", clip(&file.name)),
                ),
            };
            self.reject(
                &path,
                message,
                &format!("give it exactly one of {}", all.join(", ")),
            );
            return None;
        }
        if let Some(run) = &file.run {
            return Some(self.run(&format!("{at}/run"), run));
        }
        if let Some(compute) = &file.compute {
            self.reject(
                &format!("{at}/compute"),
                format!(
                    "only a `run` step has a compute target, and this is a `{}`",
                    given.join("")
                ),
                &format!("take `compute: {}` away", clip(compute)),
            );
        }
        if let Some(copy) = &file.copy {
            let mut spec = CopySpec::new(copy.from.as_str());
            spec.to = copy.to.as_deref().map(Template::new);
            return Some(Action::Copy(Box::new(spec)));
        }
        if let Some(publish) = &file.publish {
            return self.publish(&format!("{at}/publish"), publish);
        }
        if let Some(wait) = &file.wait {
            return self.wait(&format!("{at}/wait"), wait);
        }
        if let Some(ask) = &file.approve {
            let mut spec = ApproveSpec::default();
            spec.message = ask.message.as_deref().map(Arc::from);
            let by = ask.by.iter().flat_map(Words::iter);
            spec.by = by.map(|by| by.as_str().into()).collect();
            return Some(Action::Approve(Box::new(spec)));
        }
        if let Some(child) = &file.pipeline {
            return self.child(&format!("{at}/pipeline"), child);
        }
        let boxed = |text: &String| Box::new(Template::new(text));
        let lookup = file
            .lookup
            .as_ref()
            .map(|l| Action::Lookup(Box::new(LookupSpec::new(l.from.as_str()))));
        lookup
            .or_else(|| file.delete.as_ref().map(|t| Action::Delete(boxed(t))))
            .or_else(|| file.check.as_ref().map(|t| Action::Check(boxed(t))))
            .or_else(|| file.fail.as_ref().map(|t| Action::Fail(boxed(t))))
    }

    fn child(&mut self, at: &str, file: &ChildFile) -> Option<Action> {
        let name = PipelineName::new(&file.name);
        let mut spec = ChildSpec::new(self.keep_name(&format!("{at}/name"), &file.name, name)?);
        for (name, value) in &file.parameters {
            let path = format!("{at}/parameters/{name}");
            let value = match value {
                Value::String(text) => Template::new(text),
                Value::Null => {
                    self.reject(
                        &path,
                        "a parameter needs a value",
                        "write one, or take the line away",
                    );
                    continue;
                }
                // An expression keeps the type, which text alone wouldn't.
                other => Template::new(format!("{{{{ {other} }}}}")),
            };
            if let Some(name) = self.logical(&path, name) {
                spec.parameters.insert(name, value);
            }
        }
        spec.on_cancel = match file.on_cancel {
            OnCancelFile::Cancel => OnCancel::Cancel,
            OnCancelFile::Detach => OnCancel::Detach,
        };
        Some(Action::Pipeline(Box::new(spec)))
    }

    fn run(&mut self, at: &str, file: &RunFile) -> Action {
        let mut run = RunSpec::new(file.command.iter().map(String::as_str));
        run.code = match &file.code {
            None => None,
            Some(code) => self.inside(&format!("{at}/code"), code),
        };
        run.software = self.software(&format!("{at}/environment"), file.environment.as_ref());
        for (name, source) in &file.inputs {
            let path = format!("{at}/inputs/{name}");
            let source = if source.contains("://") {
                Some(InputSource::Storage(Template::new(source)))
            } else {
                self.output_ref(&path, source).map(InputSource::Step)
            };
            if let (Some(name), Some(source)) = (self.logical(&path, name), source) {
                run.inputs.insert(name, source);
            }
        }
        run.outputs = self.names(&format!("{at}/outputs"), &file.outputs);
        run.variables = file
            .variables
            .iter()
            .map(|(k, v)| (k.clone(), Template::new(v)))
            .collect();
        for (variable, secret) in &file.secrets {
            let path = format!("{at}/secrets/{variable}");
            if run.variables.contains_key(variable) {
                self.reject(
                    &path,
                    format!("`{}` is set by `variables` too", clip(variable)),
                    "take one of them away",
                );
            }
            match LogicalName::new(secret) {
                Ok(secret) => drop(run.secrets.insert(variable.clone(), secret)),
                Err(_) => self.reject_secretly(
                    &path,
                    "this is no name of a secret",
                    "write the name of one of the environment's `secrets`, never a value",
                ),
            }
        }
        run.network = file.network;
        run.require = file.require.iter().map(|i| isolation_of(*i)).collect();
        Action::Run(Box::new(run))
    }

    fn software(&mut self, at: &str, file: Option<&SoftwareFile>) -> SoftwareSpec {
        match file {
            None | Some(SoftwareFile::Host(true)) => SoftwareSpec::Host,
            Some(SoftwareFile::Host(false)) => {
                self.reject(
                    at,
                    "`host: false` says nothing",
                    "write `host: true`, or take it away",
                );
                SoftwareSpec::Host
            }
            Some(SoftwareFile::Python(lock)) => self
                .inside(&format!("{at}/python"), lock)
                .map_or(SoftwareSpec::Host, SoftwareSpec::Python),
            Some(SoftwareFile::R(lock)) => self
                .inside(&format!("{at}/r"), lock)
                .map_or(SoftwareSpec::Host, SoftwareSpec::R),
            Some(SoftwareFile::Container(image)) => {
                if image.trim().is_empty()
                    || image.chars().any(|c| c.is_whitespace() || c.is_control())
                {
                    self.reject(
                        &format!("{at}/container"),
                        format!("`{}` is no name of an image", clip(image)),
                        "write REGISTRY/NAME@sha256:DIGEST",
                    );
                }
                SoftwareSpec::Container(image.clone())
            }
        }
    }

    fn output_ref(&mut self, path: &str, text: &str) -> Option<OutputRef> {
        let parts = text.split_once('.');
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', '.']);
        let Some((step, output)) = parts.filter(|(s, o)| plain(s) && plain(o)) else {
            self.reject(
                path,
                format!("`{}` names no output", clip(text)),
                "write STEP.OUTPUT, or STORAGE://KEY",
            );
            return None;
        };
        Some(OutputRef {
            step: self.keep_name(path, step, StepName::new(step))?,
            output: self.logical(path, output)?,
        })
    }

    fn publish(&mut self, at: &str, file: &PublishFile) -> Option<Action> {
        let mut from = Vec::new();
        for (i, text) in file.from.iter().enumerate() {
            from.extend(self.output_ref(&format!("{at}/from/{i}"), text));
        }
        let dataset = self.logical(&format!("{at}/as"), &file.dataset)?;
        let mut publish = PublishSpec::new(from, dataset);
        publish.readers.clone_from(&file.readers);
        // Of none that can be read, it would be said that nothing is published.
        (!publish.from.is_empty() || file.from.iter().next().is_none())
            .then(|| Action::Publish(Box::new(publish)))
    }

    fn wait(&mut self, at: &str, file: &WaitFile) -> Option<Action> {
        if file.object.is_some() {
            self.unsupported(&format!("{at}/object"), "waiting for an object");
            return None;
        }
        let wait = match (&file.period, &file.until, &file.signal) {
            (Some(period), None, None) => WaitSpec::For(period.0),
            (None, Some(until), None) => WaitSpec::Until(Template::new(until)),
            (None, None, Some(name)) => {
                let checked = LogicalName::new(name);
                WaitSpec::Signal(self.keep_name(&format!("{at}/signal"), name, checked)?)
            }
            _ => {
                self.reject(
                    at,
                    "a wait is either `for` a time, `until` an instant, or for a `signal`",
                    "write `wait: { for: 10m }`, `wait: { until: 2026-11-03T06:00:00Z }`, or `wait: { signal: NAME }`",
                );
                return None;
            }
        };
        Some(Action::Wait(Box::new(wait)))
    }
}

const fn class_of(file: ClassFile) -> FailureClass {
    match file {
        ClassFile::User => FailureClass::User,
        ClassFile::OutOfMemory => FailureClass::OutOfMemory,
        ClassFile::TimedOut => FailureClass::TimedOut,
        ClassFile::Preempted => FailureClass::Preempted,
        ClassFile::Lost => FailureClass::Lost,
        ClassFile::Unavailable => FailureClass::Unavailable,
    }
}

const fn isolation_of(file: IsolationFile) -> Isolation {
    match file {
        IsolationFile::Files => Isolation::Files,
        IsolationFile::Network => Isolation::Network,
        IsolationFile::Processes => Isolation::Processes,
        IsolationFile::Memory => Isolation::Memory,
        IsolationFile::ProcessCount => Isolation::ProcessCount,
        IsolationFile::Cpu => Isolation::Cpu,
        IsolationFile::Syscalls => Isolation::Syscalls,
    }
}

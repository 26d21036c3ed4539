//! From the file types to the core's specs: names parsed, units resolved, kinds chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::{
    Action, Backoff, CatchUp, ChildSpec, ClassRetry, Conditions, CopySpec, FailureClass,
    InputSource, Isolation, Join, LogicalName, LookupSpec, MapOver, MapSpec, ObjectKey, OnFailure,
    OutcomeRule, OutputRef, Overlap, ParamSpec, ParamType, PipelineName, PipelineSpec, PublishSpec,
    Resources, RetryPolicy, RunSpec, ScheduleSpec, SoftwareSpec, StepName, StepPolicy, StepSpec,
    Template, TimeoutKind, Timeouts, WaitSpec,
};

use crate::diagnostic::Problem;
use crate::files::{
    After, BackoffFile, CatchUpFile, ClassFile, DefaultsFile, IsolationFile, JoinFile,
    OnFailureFile, OutcomeFile, OverlapFile, ParamFile, ParamTypeFile, PipelineFile, PublishFile,
    ResourcesFile, RetryFile, RunFile, ScheduleFile, SoftwareFile, Span, StepFile, WaitFile, Words,
};
use crate::yaml::Node;

/// Collects the problems of one file while it is converted.
pub(crate) struct Converter<'a> {
    pub(crate) root: &'a Node,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Converter<'a> {
    pub(crate) const fn new(root: &'a Node) -> Self {
        Self {
            root,
            problems: Vec::new(),
        }
    }

    pub(crate) fn report(&mut self, path: &str, message: impl Into<String>) -> &mut Problem {
        self.problems
            .push(Problem::at(self.root.find(path), message));
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// Keeps a value, or its error at a place.
    pub(crate) fn keep<T, E: std::fmt::Display>(
        &mut self,
        path: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                self.report(path, e.to_string());
                None
            }
        }
    }

    pub(crate) fn logical(&mut self, path: &str, name: &str) -> Option<LogicalName> {
        self.keep(path, LogicalName::new(name))
    }

    /// Checks a path that must stay in the project.
    pub(crate) fn inside(&mut self, path: &str, file: &str) -> Option<String> {
        match ObjectKey::parse(file) {
            Ok(key) if !key.as_str().is_empty() => Some(key.as_str().to_owned()),
            _ => {
                self.report(
                    path,
                    format!(
                        "`{}` doesn't stay in the project",
                        file.chars().take(80).collect::<String>()
                    ),
                )
                .help = Some("write a relative path without `..`".to_owned());
                None
            }
        }
    }

    fn unsupported(&mut self, path: &str, what: &str) {
        self.report(path, format!("{what} is not supported by this version"));
    }

    pub(crate) fn pipeline(
        &mut self,
        file: &PipelineFile,
        steps: Vec<Option<StepFile>>,
        finally: Vec<Option<StepFile>>,
    ) -> Option<PipelineSpec> {
        let name = self.keep("name", PipelineName::new(&file.name))?;
        let mut spec = PipelineSpec::new(name);
        spec.description = file.description.clone().unwrap_or_default();
        spec.owner.clone_from(&file.owner);
        for (name, param) in &file.parameters {
            if let Some(name) = self.logical(&format!("parameters/{name}"), name) {
                spec.parameters.insert(name, param_spec(param));
            }
        }
        spec.schedule = file.schedule.as_ref().map(schedule_spec);
        if file.triggers.is_some() {
            self.unsupported("triggers", "`triggers`");
        }
        spec.deadline = file.deadline.map(|d| d.0);
        spec.on_failure = match file.on_failure {
            Some(OnFailureFile::FailFast) => OnFailure::FailFast,
            Some(OnFailureFile::RunAll) | None => OnFailure::RunAll,
        };
        spec.outcome = match file.outcome {
            Some(OutcomeFile::Leaves) => OutcomeRule::Leaves,
            Some(OutcomeFile::Unhandled) | None => OutcomeRule::Unhandled,
        };
        spec.notify = file
            .notify
            .iter()
            .enumerate()
            .filter_map(|(i, n)| self.logical(&format!("notify/{i}"), n))
            .collect();
        let whole = steps.iter().chain(&finally).all(Option::is_some);
        spec.steps = self.steps("steps", steps, &file.defaults);
        spec.finally = self.steps("finally", finally, &file.defaults);
        (whole && self.problems.is_empty()).then_some(spec)
    }

    fn steps(
        &mut self,
        list: &str,
        steps: Vec<Option<StepFile>>,
        defaults: &DefaultsFile,
    ) -> Vec<StepSpec> {
        let mut specs = Vec::new();
        for (i, step) in steps.into_iter().enumerate() {
            specs.extend(step.and_then(|step| self.step(&format!("{list}/{i}"), &step, defaults)));
        }
        // Alike policies are one in memory.
        let mut shared: BTreeMap<String, Arc<StepPolicy>> = BTreeMap::new();
        for spec in &mut specs {
            let key = format!("{:?}", spec.policy);
            spec.policy = Arc::clone(
                shared
                    .entry(key)
                    .or_insert_with(|| Arc::clone(&spec.policy)),
            );
        }
        specs
    }

    fn step(&mut self, at: &str, file: &StepFile, defaults: &DefaultsFile) -> Option<StepSpec> {
        let name = self.keep(&format!("{at}/name"), StepName::new(&file.name))?;
        let action = self.action(at, file)?;
        let mut spec = StepSpec::new(name, action);
        match &file.after {
            None => {}
            Some(After::Steps(steps)) => {
                for (i, step) in steps.iter().enumerate() {
                    if let Some(step) = self.keep(&format!("{at}/after/{i}"), StepName::new(step)) {
                        spec = spec.after(step);
                    }
                }
            }
            Some(After::Conditions(steps)) => {
                for (step, words) in steps {
                    let path = format!("{at}/after/{step}");
                    let on = self.conditions(&path, words);
                    if let (Some(step), Some(on)) = (self.keep(&path, StepName::new(step)), on) {
                        spec = spec.after_on(step, on);
                    }
                }
            }
        }
        if let Some(JoinFile::Any) = file.join {
            spec = spec.join(Join::Any);
        }
        spec.when = file.when.as_deref().map(Template::new);
        if let Some(map) = &file.map {
            let item = self.logical(&format!("{at}/map/as"), &map.item)?;
            let over = match &map.over {
                serde_json::Value::Array(items) => MapOver::Literal(items.clone()),
                serde_json::Value::String(text) => MapOver::Expression(Template::new(text)),
                _ => {
                    self.report(
                        &format!("{at}/map/over"),
                        "a map goes over a list, or an expression that yields one",
                    );
                    return None;
                }
            };
            let mut spec_map = MapSpec::new(over, item);
            spec_map.max_parallel = map.max_parallel;
            spec_map.tolerate_failed = map.tolerate_failed;
            spec = spec.map(spec_map);
        }
        let policy = self.policy(at, file, defaults);
        spec.policy = Arc::new(policy);
        Some(spec)
    }

    fn conditions(&mut self, path: &str, words: &Words) -> Option<Conditions> {
        let mut set: Option<Conditions> = None;
        for word in words.iter() {
            match Conditions::from_word(word) {
                Some(on) => set = Some(set.map_or(on, |s| s.or(on))),
                None => {
                    let problem = self.report(path, format!("`{word}` is no condition"));
                    problem.help =
                        Some("conditions are succeeded, failed, skipped and completed".to_owned());
                    return None;
                }
            }
        }
        if set.is_none() {
            self.report(path, "an edge needs at least one condition");
        }
        set
    }

    fn policy(&mut self, at: &str, file: &StepFile, defaults: &DefaultsFile) -> StepPolicy {
        let mut policy = StepPolicy::default();
        let compute = file
            .compute
            .as_ref()
            .or(defaults.compute.as_ref().filter(|_| file.run.is_some()));
        policy.target = compute.and_then(|c| self.logical(&format!("{at}/compute"), c));
        let pool = file
            .pool
            .as_ref()
            .or(defaults.pool.as_ref().filter(|_| file.run.is_some()));
        policy.pool = pool.and_then(|p| self.logical(&format!("{at}/pool"), p));
        let resources = file
            .resources
            .as_ref()
            .or(defaults.resources.as_ref().filter(|_| file.run.is_some()));
        policy.resources = resources.map(resources_of).unwrap_or_default();
        if let Some(retry) = file.retry.as_ref().or(defaults.retry.as_ref()) {
            policy.retry = self.retry(&format!("{at}/retry"), retry);
        }
        let mut timeouts = Timeouts::new();
        let given = file.timeouts.clone().unwrap_or_default();
        let limits = [
            (TimeoutKind::Queue, given.queue),
            (TimeoutKind::Start, given.start),
            (
                TimeoutKind::Run,
                file.timeout.or(given.run).or(defaults.timeout),
            ),
            (TimeoutKind::Total, given.total),
            (TimeoutKind::Heartbeat, given.heartbeat),
        ];
        for (kind, limit) in limits {
            if let Some(Span(limit)) = limit {
                timeouts = timeouts.with(kind, limit);
            }
        }
        if file.timeout.is_some() && given.run.is_some() {
            self.report(
                &format!("{at}/timeout"),
                "`timeout` and `timeouts.run` say the same thing twice",
            );
        }
        policy.timeouts = timeouts;
        policy.grace = file.grace.map(|g| g.0);
        policy.allow_failure = file.allow_failure;
        policy.idempotent = file.idempotent;
        policy.priority = file.priority;
        policy
    }

    fn retry(&mut self, at: &str, file: &RetryFile) -> RetryPolicy {
        let mut retry = RetryPolicy::attempts(file.max_attempts.unwrap_or(1));
        if file.max_attempts == Some(0) {
            self.report(
                &format!("{at}/max_attempts"),
                "0 attempts would never run the step",
            )
            .help = Some("write at least 1".to_owned());
        }
        if let Some(backoff) = file
            .backoff
            .and_then(|b| self.backoff(&format!("{at}/backoff"), b))
        {
            retry = retry.with_backoff(backoff);
        }
        for (class, change) in &file.on {
            let mut class_retry = ClassRetry::default();
            class_retry.max_attempts = change.max_attempts;
            class_retry.backoff = change
                .backoff
                .and_then(|b| self.backoff(&format!("{at}/on"), b));
            class_retry.grow_memory_percent = change.grow_memory_percent;
            retry = retry.with_class(class_of(*class), class_retry);
        }
        retry
    }

    fn backoff(&mut self, at: &str, file: BackoffFile) -> Option<Backoff> {
        self.keep(at, Backoff::exponential(file.initial.0, file.max.0))
    }

    /// Chooses the one kind that a step has.
    fn action(&mut self, at: &str, file: &StepFile) -> Option<Action> {
        for (name, value) in [
            ("approve", &file.approve),
            ("http", &file.http),
            ("repeat", &file.repeat),
        ] {
            if value.is_some() {
                self.unsupported(&format!("{at}/{name}"), &format!("`{name}`"));
                return None;
            }
        }
        let kinds = [
            ("run", file.run.is_some()),
            ("copy", file.copy.is_some()),
            ("publish", file.publish.is_some()),
            ("delete", file.delete.is_some()),
            ("wait", file.wait.is_some()),
            ("pipeline", file.pipeline.is_some()),
            ("lookup", file.lookup.is_some()),
            ("check", file.check.is_some()),
            ("fail", file.fail.is_some()),
        ];
        let given: Vec<&str> = kinds.iter().filter(|(_, g)| *g).map(|(n, _)| *n).collect();
        if given.len() != 1 {
            let message = match given.as_slice() {
                [] => "the step does nothing".to_owned(),
                many => format!("the step has {} kinds: {}", many.len(), many.join(", ")),
            };
            let all: Vec<&str> = kinds.iter().map(|(n, _)| *n).collect();
            self.report(at, message).help =
                Some(format!("give it exactly one of {}", all.join(", ")));
            return None;
        }
        if let Some(run) = &file.run {
            return self.run(&format!("{at}/run"), run);
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
        if let Some(child) = &file.pipeline {
            let mut spec = ChildSpec::new(self.keep(
                &format!("{at}/pipeline/name"),
                PipelineName::new(&child.name),
            )?);
            for (name, value) in &child.parameters {
                let name = self.logical(&format!("{at}/pipeline/parameters/{name}"), name)?;
                spec.parameters.insert(name, Template::new(value));
            }
            return Some(Action::Pipeline(Box::new(spec)));
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

    fn run(&mut self, at: &str, file: &RunFile) -> Option<Action> {
        let mut run = RunSpec::new(file.command.iter().map(String::as_str));
        run.code = match &file.code {
            None => None,
            Some(code) => Some(self.inside(&format!("{at}/code"), code)?),
        };
        run.software = match &file.environment {
            None | Some(SoftwareFile::Host(true)) => SoftwareSpec::Host,
            Some(SoftwareFile::Host(false)) => {
                self.report(&format!("{at}/environment"), "`host: false` says nothing")
                    .help = Some("write `host: true`, or take it away".to_owned());
                return None;
            }
            Some(
                SoftwareFile::Python(what) | SoftwareFile::R(what) | SoftwareFile::Container(what),
            ) => {
                self.unsupported(
                    &format!("{at}/environment"),
                    &format!("the environment `{what}`"),
                );
                return None;
            }
        };
        for (name, source) in &file.inputs {
            let path = format!("{at}/inputs/{name}");
            let name = self.logical(&path, name)?;
            let source = if source.contains("://") {
                InputSource::Storage(Template::new(source))
            } else {
                InputSource::Step(self.output_ref(&path, source)?)
            };
            run.inputs.insert(name, source);
        }
        for (i, output) in file.outputs.iter().enumerate() {
            run.outputs
                .push(self.logical(&format!("{at}/outputs/{i}"), output)?);
        }
        run.variables = file
            .variables
            .iter()
            .map(|(k, v)| (k.clone(), Template::new(v)))
            .collect();
        for (variable, secret) in &file.secrets {
            let secret = self.logical(&format!("{at}/secrets/{variable}"), secret)?;
            run.secrets.insert(variable.clone(), secret);
        }
        run.network = file.network;
        run.require = file.require.iter().map(|i| isolation_of(*i)).collect();
        Some(Action::Run(Box::new(run)))
    }

    fn output_ref(&mut self, path: &str, text: &str) -> Option<OutputRef> {
        let Some((step, output)) = text.split_once('.') else {
            self.report(path, format!("`{text}` names no output")).help =
                Some("write STEP.OUTPUT, or STORAGE://KEY".to_owned());
            return None;
        };
        Some(OutputRef {
            step: self.keep(path, StepName::new(step))?,
            output: self.logical(path, output)?,
        })
    }

    fn publish(&mut self, at: &str, file: &PublishFile) -> Option<Action> {
        let mut from = Vec::new();
        for (i, text) in file.from.iter().enumerate() {
            from.push(self.output_ref(&format!("{at}/from/{i}"), text)?);
        }
        let mut publish = PublishSpec::new(from, self.logical(&format!("{at}/as"), &file.dataset)?);
        publish.readers.clone_from(&file.readers);
        Some(Action::Publish(Box::new(publish)))
    }

    fn wait(&mut self, at: &str, file: &WaitFile) -> Option<Action> {
        for (name, value) in [("signal", &file.signal), ("object", &file.object)] {
            if value.is_some() {
                self.unsupported(&format!("{at}/{name}"), &format!("waiting for a {name}"));
                return None;
            }
        }
        let wait = match (&file.period, &file.until) {
            (Some(period), None) => WaitSpec::For(period.0),
            (None, Some(until)) => WaitSpec::Until(Template::new(until)),
            _ => {
                self.report(at, "a wait is either `for` a time or `until` an instant");
                return None;
            }
        };
        Some(Action::Wait(Box::new(wait)))
    }
}

pub(crate) fn resources_of(file: &ResourcesFile) -> Resources {
    let mut resources = Resources::new();
    let known = [
        ("cpu", file.cpu.map(|c| c.0)),
        ("memory", file.memory.map(|b| b.0)),
        ("disk", file.disk.map(|b| b.0)),
        ("gpu", file.gpu.map(|c| c.0)),
    ];
    for (name, amount) in known {
        if let Some(amount) = amount {
            resources = resources.named(name, amount);
        }
    }
    file.other
        .iter()
        .fold(resources, |r, (name, amount)| r.named(name, *amount))
}

pub(crate) fn param_spec(file: &ParamFile) -> ParamSpec {
    let mut spec = ParamSpec::default();
    spec.kind = param_type(file.kind);
    spec.items = file.items.map(param_type);
    spec.default.clone_from(&file.default);
    spec.allowed.clone_from(&file.allowed);
    spec.minimum = file.minimum;
    spec.maximum = file.maximum;
    spec.description.clone_from(&file.description);
    spec
}

const fn param_type(file: ParamTypeFile) -> ParamType {
    match file {
        ParamTypeFile::String => ParamType::String,
        ParamTypeFile::Integer => ParamType::Integer,
        ParamTypeFile::Number => ParamType::Number,
        ParamTypeFile::Boolean => ParamType::Boolean,
        ParamTypeFile::Array => ParamType::Array,
        ParamTypeFile::Object => ParamType::Object,
    }
}

pub(crate) fn schedule_spec(file: &ScheduleFile) -> ScheduleSpec {
    let mut spec = ScheduleSpec::new(&file.cron, &file.timezone);
    spec.catch_up = match file.catch_up {
        None | Some(CatchUpFile::None) => CatchUp::None,
        Some(CatchUpFile::Latest) => CatchUp::Latest,
        Some(CatchUpFile::All) => CatchUp::All,
    };
    spec.overlap = match file.overlap {
        None | Some(OverlapFile::Skip) => Overlap::Skip,
        Some(OverlapFile::Queue) => Overlap::Queue,
        Some(OverlapFile::Allow) => Overlap::Allow,
        Some(OverlapFile::CancelRunning) => Overlap::CancelRunning,
    };
    spec
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

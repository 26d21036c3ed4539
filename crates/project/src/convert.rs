//! From the file types to the core's specs: names parsed, units resolved, kinds chosen.
//!
//! What is wrong is collected with its place, and the rest is converted all the same, so that the
//! rules of the graph can be checked in the same look: a step that can't be converted leaves a
//! placeholder with its name and edges.

mod step;

use std::time::Duration;

use windlass_core::{
    CatchUp, LogicalName, ObjectKey, OnFailure, OutcomeRule, Overlap, ParamSpec, ParamType,
    PipelineName, PipelineSpec, Resources, ScheduleSpec,
};

use crate::diagnostic::{Problem, clip};
use crate::files::{
    CatchUpFile, OnFailureFile, OutcomeFile, OverlapFile, ParamFile, ParamTypeFile, PipelineFile,
    ResourcesFile, ScheduleFile, Span, StepFile,
};
use crate::schedule;
use crate::yaml::Node;

/// A step as decoded.
pub(crate) struct DecodedStep {
    pub(crate) file: StepFile,
    /// False if something of it was wrong and left out.
    pub(crate) good: bool,
}

/// A list of steps as decoded; `None` for one of which nothing is known.
pub(crate) type DecodedSteps = Vec<Option<DecodedStep>>;

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

    /// Reports a problem with what to do about it.
    pub(crate) fn reject(&mut self, path: &str, message: impl Into<String>, help: &str) {
        self.report(path, message).help = Some(help.to_owned());
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
        self.keep_name(path, name, LogicalName::new(name))
    }

    /// Keeps a name, or says which rule it breaks.
    pub(crate) fn keep_name<T>(
        &mut self,
        path: &str,
        name: &str,
        result: Result<T, windlass_core::InvalidName>,
    ) -> Option<T> {
        match result {
            Ok(name) => Some(name),
            Err(e) => {
                let message = if name.is_empty() {
                    "a name can't be empty".to_owned()
                } else {
                    format!("`{}` can't be a name here", clip(name))
                };
                self.reject(path, message, e.rule());
                None
            }
        }
    }

    /// Reports that a key is missing, unless it is there and was wrong.
    pub(crate) fn missing<T>(&mut self, key: &str) -> Option<T> {
        if self.root.get(key).is_none() {
            self.reject("", format!("`{key}` is missing"), &format!("add `{key}:`"));
        }
        None
    }

    /// Checks a path that must stay in the project.
    pub(crate) fn inside(&mut self, path: &str, file: &str) -> Option<String> {
        match ObjectKey::parse(file) {
            Ok(key) if !key.as_str().is_empty() => Some(key.as_str().to_owned()),
            _ => {
                self.reject(
                    path,
                    format!("the path `{}` doesn't stay in the project", clip(file)),
                    "write a relative path, its parts joined by `/`, none of them `.` or `..`",
                );
                None
            }
        }
    }

    pub(crate) fn unsupported(&mut self, path: &str, what: &str) {
        self.report(path, format!("{what} is not supported by this version"));
    }

    /// Keeps a time limit, which can't be zero.
    pub(crate) fn limit(&mut self, path: &str, limit: Span) -> Option<Duration> {
        if limit.0.is_zero() {
            self.reject(
                path,
                "a limit of 0s would end it before it starts",
                "write a longer time, or take the limit away",
            );
            return None;
        }
        Some(limit.0)
    }

    /// Converts a pipeline; what is wrong with it is in `problems`.
    ///
    /// Returns nothing if a step has no name, since then nothing is known of the graph.
    pub(crate) fn pipeline(
        &mut self,
        name: PipelineName,
        file: &PipelineFile,
        steps: DecodedSteps,
        finally: DecodedSteps,
    ) -> Option<PipelineSpec> {
        let mut spec = PipelineSpec::new(name);
        spec.description = file.description.clone().unwrap_or_default();
        spec.owner.clone_from(&file.owner);
        for (name, param) in &file.parameters {
            let at = format!("parameters/{name}");
            if let Some(name) = self.logical(&at, name) {
                spec.parameters.insert(name, self.parameter(&at, param));
            }
        }
        // A parameter that didn't decode is known by its name, so that its uses are no errors too.
        for key in self.root.get("parameters").into_iter().flat_map(Node::keys) {
            if let Ok(name) = LogicalName::new(&key.name) {
                spec.parameters.entry(name).or_default();
            }
        }
        if let Some(schedule) = &file.schedule {
            spec.schedule = Some(self.schedule("schedule", schedule));
        }
        if file.triggers.is_some() {
            self.unsupported("triggers", "`triggers`");
        }
        spec.deadline = file.deadline.and_then(|d| self.limit("deadline", d));
        spec.on_failure = match file.on_failure {
            Some(OnFailureFile::FailFast) => OnFailure::FailFast,
            Some(OnFailureFile::RunAll) | None => OnFailure::RunAll,
        };
        spec.outcome = match file.outcome {
            Some(OutcomeFile::Leaves) => OutcomeRule::Leaves,
            Some(OutcomeFile::Unhandled) | None => OutcomeRule::Unhandled,
        };
        spec.notify = self.names("notify", &file.notify);
        let defaults = self.defaults(&file.defaults);
        let steps = self.steps("steps", steps, &defaults);
        let finally = self.steps("finally", finally, &defaults);
        spec.steps = steps?;
        spec.finally = finally?;
        Some(spec)
    }

    /// Keeps the good ones of a list of names.
    pub(crate) fn names(&mut self, at: &str, names: &[String]) -> Vec<LogicalName> {
        names
            .iter()
            .enumerate()
            .filter_map(|(i, n)| self.logical(&format!("{at}/{i}"), n))
            .collect()
    }

    /// Converts what a parameter may be.
    pub(crate) fn parameter(&mut self, at: &str, file: &ParamFile) -> ParamSpec {
        if file.items.is_some() && !matches!(file.kind, ParamTypeFile::Array) {
            self.reject(
                &format!("{at}/items"),
                "only an array has items",
                "take `items` away, or write `type: array`",
            );
        }
        let numbers =
            |kind: ParamTypeFile| matches!(kind, ParamTypeFile::Integer | ParamTypeFile::Number);
        if !numbers(file.kind) && !file.items.is_some_and(numbers) {
            for (name, bound) in [("minimum", file.minimum), ("maximum", file.maximum)] {
                if bound.is_some() {
                    self.reject(
                        &format!("{at}/{name}"),
                        format!("only a number has a {name}"),
                        "take it away, or write `type: integer` or `type: number`",
                    );
                }
            }
        }
        let spec = param_spec(file);
        // Each value of `enum` must fit the type; for an array, that of its items.
        let mut item = spec.clone();
        item.allowed = Vec::new();
        let of_items = (item.kind == ParamType::Array)
            .then_some(item.items)
            .flatten();
        item.kind = of_items.unwrap_or(item.kind);
        if spec.kind != ParamType::Array || of_items.is_some() {
            for (i, value) in file.allowed.iter().enumerate() {
                self.keep(&format!("{at}/enum/{i}"), item.check(value));
            }
        }
        spec
    }

    /// Converts a schedule.
    pub(crate) fn schedule(&mut self, at: &str, file: &ScheduleFile) -> ScheduleSpec {
        if let Err((message, help)) = schedule::check_cron(&file.cron) {
            self.reject(&format!("{at}/cron"), message, &help);
        }
        if let Err(help) = schedule::check_zone(&file.timezone) {
            self.reject(
                &format!("{at}/timezone"),
                format!("there is no time zone `{}`", clip(&file.timezone)),
                &help,
            );
        }
        schedule_spec(file)
    }

    /// Converts amounts; `whole` says what zero would mean, if it can't be written.
    pub(crate) fn resources(
        &mut self,
        at: &str,
        file: &ResourcesFile,
        zero: Option<&str>,
    ) -> Resources {
        let mut resources = Resources::new();
        for (name, amount) in &file.amounts {
            let at = format!("{at}/{name}");
            if self.logical(&at, name).is_none() {
                continue;
            }
            if let (0, Some(zero)) = (amount, zero) {
                self.reject(
                    &at,
                    format!("0 {name} {zero}"),
                    "write at least 1, or take it away",
                );
            }
            resources = resources.named(name, *amount);
        }
        resources
    }
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

fn schedule_spec(file: &ScheduleFile) -> ScheduleSpec {
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

//! Checks a [`PipelineSpec`] before anything runs, and reports everything that is wrong at once.
//!
//! Each [`Problem`] names its place by a path into the pipeline file (`steps/3/after/train`), so
//! that whoever read the file can say line and column. What isn't known (no list of targets, say)
//! isn't checked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

use crate::cache::CachePolicy;
use crate::expression::{Expressions, LiteralsOnly};
use crate::graph::{Graph, Predecessor};
use crate::ids::{LogicalName, PipelineName};
use crate::nearest::nearest;
use crate::resources::{Resources, format_amount};
use crate::spec::{
    Action, Conditions, InputSource, Join, MapOver, MapSpec, OutputRef, PipelineSpec, RepeatSpec,
    RunSpec, StepSpec, Template, WaitSpec,
};
use crate::storage::StorageUri;

/// One thing that is wrong with a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where: parts of the pipeline file joined by `/`, list entries by number.
    pub path: String,
    /// Bytes within the text at that place, where known.
    pub span: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that belong to it, each with a few words.
    pub related: Vec<(String, String)>,
}

impl Problem {
    /// Returns a problem without help.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            span: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds another place that belongs to it.
    #[must_use]
    pub fn related(mut self, path: impl Into<String>, label: impl Into<String>) -> Self {
        self.related.push((path.into(), label.into()));
        self
    }

    fn did_you_mean<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(name, known) {
            Some(known) => self.help(format!("did you mean `{known}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        self.help.iter().try_for_each(|h| write!(f, " ({h})"))
    }
}

/// What is known around a pipeline; a `None` is not checked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checks<'a> {
    /// The expression language.
    pub expressions: &'a dyn Expressions,
    /// Compute targets and what each has in all.
    pub targets: Option<BTreeMap<LogicalName, Resources>>,
    /// Target of steps that name none.
    pub default_target: Option<LogicalName>,
    /// Pools and their limits.
    pub pools: Option<BTreeMap<LogicalName, Resources>>,
    /// Storages.
    pub storages: Option<BTreeSet<LogicalName>>,
    /// Notifiers.
    pub notifiers: Option<BTreeSet<LogicalName>>,
    /// Secrets.
    pub secrets: Option<BTreeSet<LogicalName>>,
    /// Pipelines that a step may start.
    pub pipelines: Option<BTreeSet<PipelineName>>,
}

impl<'a> Checks<'a> {
    /// Returns checks that know nothing but the expression language.
    #[must_use]
    pub const fn new(expressions: &'a dyn Expressions) -> Self {
        Self {
            expressions,
            targets: None,
            default_target: None,
            pools: None,
            storages: None,
            notifiers: None,
            secrets: None,
            pipelines: None,
        }
    }
}

impl Default for Checks<'_> {
    fn default() -> Self {
        Self::new(&LiteralsOnly)
    }
}

/// Up to this many steps the rarer mistakes (a step that can never run, a name of a step that is
/// no ancestor) are looked for; they take a bit for each pair of steps.
const DEEP_CHECK_STEPS: u32 = 5_000;

/// Only this many problems of a pipeline come with the nearest known name: looking one up compares
/// with every name, and whoever has more mistakes than that has one cause for all.
const SUGGESTIONS: u32 = 100;

/// Checks a pipeline and freezes its graph.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn validate(spec: &PipelineSpec, checks: &Checks<'_>) -> Result<Graph, Vec<Problem>> {
    let mut v = Validator {
        spec,
        checks,
        index: HashMap::new(),
        problems: Vec::new(),
        suggestions: 0,
    };
    v.names();
    let graph = v.graph();
    v.parameters();
    for (i, step) in spec.all_steps().enumerate() {
        v.step(i, step);
    }
    let small_graph = graph.as_ref().filter(|g| g.len() <= DEEP_CHECK_STEPS);
    if let Some(graph) = small_graph {
        v.reachability(graph);
    }
    v.references(small_graph);
    v.problems
        .sort_by_cached_key(|p| (sort_key(&p.path), p.path.clone()));
    match graph {
        Some(graph) if v.problems.is_empty() => Ok(graph),
        _ => Err(v.problems),
    }
}

/// Orders `steps/2` before `steps/10` and `steps` before `finally`.
fn sort_key(path: &str) -> (u8, u32) {
    let mut parts = path.split('/');
    let head = match parts.next() {
        Some("steps") => 1,
        Some("finally") => 2,
        _ => 0,
    };
    (head, parts.next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

struct Validator<'a> {
    spec: &'a PipelineSpec,
    checks: &'a Checks<'a>,
    index: HashMap<&'a str, u32>,
    problems: Vec<Problem>,
    suggestions: u32,
}

impl<'a> Validator<'a> {
    fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn path(&self, step: usize) -> String {
        match step.checked_sub(self.spec.steps.len()) {
            None => format!("steps/{step}"),
            Some(i) => format!("finally/{i}"),
        }
    }

    fn step_at(&self, step: u32) -> &'a StepSpec {
        let i = step as usize;
        self.spec
            .steps
            .get(i)
            .unwrap_or_else(|| &self.spec.finally[i - self.spec.steps.len()])
    }

    fn names(&mut self) {
        if self.spec.steps.is_empty() {
            self.report(
                Problem::new("steps", "the pipeline has no steps").help("add at least one step"),
            );
        }
        self.index.reserve(self.spec.steps.len());
        for (i, step) in self.spec.all_steps().enumerate() {
            if let Some(first) = self.index.insert(step.name.as_str(), i as u32) {
                self.index.insert(step.name.as_str(), first);
                let problem = Problem::new(
                    format!("{}/name", self.path(i)),
                    format!("step name `{}` is used twice", step.name),
                )
                .related(
                    format!("{}/name", self.path(first as usize)),
                    "first used here",
                )
                .help("give each step a name of its own");
                self.report(problem);
            }
        }
    }

    fn unknown_step(&mut self, path: String, name: &str) -> Problem {
        let problem = Problem::new(path, format!("there is no step `{name}`"));
        self.suggestions += 1;
        if self.suggestions > SUGGESTIONS {
            return problem;
        }
        // In the order of the file, so that of two names as near always the same is meant.
        problem.did_you_mean(name, self.spec.all_steps().map(|s| s.name.as_str()))
    }

    /// Collects the edges that `after`, inputs and publications make.
    fn graph(&mut self) -> Option<Graph> {
        let finally_start = self.spec.steps.len();
        let mut edges = Vec::with_capacity(self.spec.all_steps().map(|s| s.edges.len()).sum());
        // For each step the latest one (from 1) that has an edge to it, so that a step with a
        // million predecessors isn't compared with itself a million times.
        let mut latest_successor = vec![0_u32; finally_start + self.spec.finally.len()];
        let before = self.problems.len();
        for (i, step) in self.spec.all_steps().enumerate() {
            let explicit = step.edges.iter().map(|e| (e.step.as_str(), e.on, None));
            let derived = output_refs(&step.action)
                .into_iter()
                .map(|(r, path)| (r.step.as_str(), Conditions::SUCCEEDED, Some(path)));
            for (name, on, derived_path) in explicit.chain(derived) {
                let is_derived = derived_path.is_some();
                let path = || {
                    let part = derived_path.unwrap_or_else(|| format!("after/{name}"));
                    format!("{}/{part}", self.path(i))
                };
                match self.index.get(name) {
                    None => {
                        let path = path();
                        let problem = self.unknown_step(path, name);
                        self.report(problem);
                    }
                    Some(&from) if from as usize >= finally_start && i < finally_start => {
                        let problem = Problem::new(
                            path(),
                            format!("`{name}` is a `finally` step; it runs after all others"),
                        )
                        .help("move one of the two steps");
                        self.report(problem);
                    }
                    Some(&from) => {
                        let latest = &mut latest_successor[from as usize];
                        if std::mem::replace(latest, i as u32 + 1) <= i as u32 {
                            edges.push((from, i as u32, on));
                        } else if !is_derived {
                            let problem = Problem::new(path(), format!("`{name}` is named twice"))
                                .help("name each step once, with a list of conditions");
                            self.report(problem);
                        }
                    }
                }
            }
        }
        if self.problems.len() > before {
            return None;
        }
        let joins = self.spec.all_steps().map(|s| s.join).collect();
        match Graph::freeze(joins, finally_start as u32, &edges) {
            Ok(graph) => Some(graph),
            Err(cycle) => {
                self.report_cycle(&cycle);
                None
            }
        }
    }

    fn report_cycle(&mut self, cycle: &[u32]) {
        let Some(&first) = cycle.first() else { return };
        let names: Vec<&str> = cycle
            .iter()
            .chain([&first])
            .map(|s| self.step_at(*s).name.as_str())
            .collect();
        let shown = if names.len() > 12 {
            format!(
                "{} → … → {}",
                names[..6].join(" → "),
                names[names.len() - 5..].join(" → ")
            )
        } else {
            names.join(" → ")
        };
        let message = if cycle.len() == 1 {
            format!("step `{}` waits for itself", names[0])
        } else {
            format!(
                "{} steps wait for each other in a circle: {shown}",
                cycle.len()
            )
        };
        self.report(
            Problem::new(self.path(first as usize), message).help("take one of these edges away"),
        );
    }

    fn parameters(&mut self) {
        for (name, spec) in &self.spec.parameters {
            if let Some(default) = &spec.default
                && let Err(message) = spec.check(default)
            {
                self.report(Problem::new(format!("parameters/{name}/default"), message));
            }
            if let (Some(least), Some(most)) = (spec.minimum, spec.maximum)
                && least > most
            {
                self.report(Problem::new(
                    format!("parameters/{name}/minimum"),
                    format!("the minimum {least} is more than the maximum {most}"),
                ));
            }
        }
        for (i, notifier) in self.spec.notify.iter().enumerate() {
            let problem = self.unknown(
                &format!("notify/{i}"),
                "notifier",
                notifier.as_str(),
                self.checks.notifiers.as_ref().map(|k| k.iter()),
            );
            self.problems.extend(problem);
        }
    }

    /// Returns a problem if a list of names is known and doesn't have this one.
    fn unknown<'k>(
        &self,
        path: &str,
        what: &str,
        name: &str,
        known: Option<impl Iterator<Item = &'k LogicalName>>,
    ) -> Option<Problem> {
        let known: Vec<&str> = known?.map(LogicalName::as_str).collect();
        if known.contains(&name) {
            return None;
        }
        let problem = Problem::new(path, format!("the environment has no {what} `{name}`"));
        Some(match nearest(name, known.iter().copied()) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => problem.help(format!("it has no {what} at all")),
            None => problem.help(format!("it has {}", known.join(", "))),
        })
    }

    fn step(&mut self, i: usize, step: &'a StepSpec) {
        let at = self.path(i);
        self.policy(&at, step);
        for (output, path) in output_refs(&step.action) {
            self.output_exists(&format!("{at}/{path}"), output);
        }
        if let Some(map) = &step.map {
            self.map(&at, map);
        }
        if let Some(repeat) = &step.repeat {
            self.repeat(&at, step, repeat);
        }
        if step.join == Join::Any && step.edges.is_empty() && output_refs(&step.action).is_empty() {
            self.report(
                Problem::new(format!("{at}/join"), "`join: any` needs a step before")
                    .help("add `after`, or take `join` away"),
            );
        }
        match &step.action {
            Action::Run(run) => self.run_action(&at, run),
            Action::Copy(copy) => {
                self.uri(&format!("{at}/copy/from"), &copy.from);
                copy.to
                    .iter()
                    .for_each(|to| self.uri(&format!("{at}/copy/to"), to));
            }
            Action::Delete(what) => self.uri(&format!("{at}/delete"), what),
            Action::Lookup(lookup) => self.uri(&format!("{at}/lookup/from"), &lookup.from),
            Action::Publish(publish) => {
                if publish.from.is_empty() {
                    self.report(
                        Problem::new(format!("{at}/publish/from"), "nothing is published")
                            .help("name at least one STEP.OUTPUT"),
                    );
                }
                for (n, reader) in publish.readers.iter().enumerate() {
                    if !["user:", "group:", "service:"]
                        .iter()
                        .any(|p| reader.strip_prefix(p).is_some_and(|r| !r.is_empty()))
                    {
                        let problem = Problem::new(
                            format!("{at}/publish/readers/{n}"),
                            format!("`{reader}` is no principal"),
                        )
                        .help("write user:NAME, group:NAME or service:NAME");
                        self.report(problem);
                    }
                }
            }
            Action::Pipeline(child) => {
                if let Some(known) = &self.checks.pipelines
                    && !known.contains(&child.pipeline)
                {
                    let problem = Problem::new(
                        format!("{at}/pipeline/name"),
                        format!("there is no pipeline `{}`", child.pipeline),
                    )
                    .did_you_mean(
                        child.pipeline.as_str(),
                        known.iter().map(PipelineName::as_str),
                    );
                    self.report(problem);
                }
            }
            Action::Wait(wait) => {
                if let WaitSpec::Until(until) = &**wait
                    && until.is_literal()
                    && let Err(e) = until.as_str().parse::<crate::Timestamp>()
                {
                    self.report(Problem::new(format!("{at}/wait/until"), e.to_string()));
                }
            }
            Action::Native(_) | Action::Check(_) | Action::Fail(_) | Action::Approve(_) => {}
        }
        if step.map.is_some() && step.action.awaits(&step.name).is_some() {
            let problem = Problem::new(
                format!("{at}/map"),
                "a step that waits for people or signals can't be mapped",
            );
            self.report(problem.help("map a `pipeline` step, and wait in that pipeline"));
        }
    }

    fn repeat(&mut self, at: &str, step: &StepSpec, repeat: &RepeatSpec) {
        if repeat.max == 0 {
            let problem = Problem::new(
                format!("{at}/repeat/max"),
                "0 rounds would never run the step",
            );
            self.report(problem.help("write at least 1"));
        }
        if step.map.is_some() {
            let problem = Problem::new(
                format!("{at}/repeat"),
                "a step can't be mapped and repeated at once",
            );
            self.report(problem.help("repeat a step before it, and map over its result"));
        }
        match step.action {
            Action::Native(_)
            | Action::Run(_)
            | Action::Copy(_)
            | Action::Publish(_)
            | Action::Delete(_)
            | Action::Lookup(_) => {}
            Action::Wait(_)
            | Action::Approve(_)
            | Action::Pipeline(_)
            | Action::Check(_)
            | Action::Fail(_) => {
                let kind = step.action.kind();
                let problem = Problem::new(
                    format!("{at}/repeat"),
                    format!("`{kind}` steps can't be repeated"),
                );
                let help =
                    "steps that can are run, copy, publish, delete, lookup and code of the host";
                self.report(problem.help(help));
            }
        }
    }

    fn policy(&mut self, at: &str, step: &StepSpec) {
        let policy = &*step.policy;
        let mut found = Vec::new();
        if let Some(pool) = &policy.pool {
            found.extend(self.unknown(
                &format!("{at}/pool"),
                "pool",
                pool.as_str(),
                self.checks.pools.as_ref().map(|k| k.keys()),
            ));
            if let Some(limit) = self.checks.pools.as_ref().and_then(|p| p.get(pool)) {
                found.extend(impossible(
                    at,
                    &policy.resources,
                    limit,
                    &format!("pool `{pool}`"),
                ));
            }
        }
        if matches!(step.action, Action::Run(_))
            && let Some(targets) = &self.checks.targets
        {
            match policy
                .target
                .as_ref()
                .or(self.checks.default_target.as_ref())
            {
                None => found.push(
                    Problem::new(
                        format!("{at}/compute"),
                        "no compute target is named and the environment has no default",
                    )
                    .help(
                        "add `compute: NAME` to the step, or `default_compute` to the environment",
                    ),
                ),
                Some(target) => {
                    found.extend(self.unknown(
                        &format!("{at}/compute"),
                        "compute target",
                        target.as_str(),
                        Some(targets.keys()),
                    ));
                    if let Some(total) = targets.get(target) {
                        found.extend(impossible(
                            at,
                            &policy.resources,
                            total,
                            &format!("compute target `{target}`"),
                        ));
                    }
                }
            }
        }
        if policy.retry.max_attempts() > 1_000 {
            found.push(
                Problem::new(
                    format!("{at}/retry/max_attempts"),
                    format!("{} attempts are too many", policy.retry.max_attempts()),
                )
                .help("at most 1000"),
            );
        }
        if let Some(cache) = &policy.cache {
            found.extend(uncacheable(at, step, cache));
        }
        self.problems.extend(found);
    }

    fn map(&mut self, at: &str, map: &MapSpec) {
        if let MapOver::Literal(items) = &map.over
            && items.len() > MapSpec::MAX_ITEMS
        {
            self.report(Problem::new(
                format!("{at}/map/over"),
                format!("{} items are more than {}", items.len(), MapSpec::MAX_ITEMS),
            ));
        }
        if map.max_parallel == Some(0) {
            self.report(
                Problem::new(
                    format!("{at}/map/max_parallel"),
                    "with 0 items at once nothing would ever run",
                )
                .help("write at least 1"),
            );
        }
        if ["params", "run", "steps", "item_index"].contains(&map.item.as_str()) {
            self.report(
                Problem::new(
                    format!("{at}/map/as"),
                    format!("`{}` already means something in expressions", map.item),
                )
                .help("choose another name"),
            );
        }
    }

    fn run_action(&mut self, at: &str, run: &RunSpec) {
        if run
            .command
            .first()
            .is_none_or(|c| c.as_str().trim().is_empty())
        {
            self.report(
                Problem::new(format!("{at}/run/command"), "the command is empty")
                    .help("write [PROGRAM, ARGUMENT, …]"),
            );
        }
        let mut seen = BTreeSet::new();
        for (n, output) in run.outputs.iter().enumerate() {
            if !seen.insert(output) {
                self.report(Problem::new(
                    format!("{at}/run/outputs/{n}"),
                    format!("output `{output}` is named twice"),
                ));
            }
        }
        for (name, source) in &run.inputs {
            if let InputSource::Storage(uri) = source {
                self.uri(&format!("{at}/run/inputs/{name}"), uri);
            }
        }
        for variable in run.variables.keys().chain(run.secrets.keys()) {
            let good = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && variable
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let part = if run.variables.contains_key(variable) {
                "variables"
            } else {
                "secrets"
            };
            if !good {
                self.report(Problem::new(
                    format!("{at}/run/{part}/{variable}"),
                    format!("`{variable}` is no name of an environment variable"),
                ));
            } else if variable.starts_with("WINDLASS_") {
                self.report(Problem::new(
                    format!("{at}/run/{part}/{variable}"),
                    "names that start with WINDLASS_ are set by the engine",
                ));
            }
        }
        for (variable, secret) in &run.secrets {
            let path = format!("{at}/run/secrets/{variable}");
            let problem = self.unknown(
                &path,
                "secret",
                secret.as_str(),
                self.checks.secrets.as_ref().map(|k| k.iter()),
            );
            self.problems.extend(problem);
        }
    }

    fn uri(&mut self, path: &str, uri: &Template) {
        // What stands before the first hole must at least name a storage.
        let text = uri.as_str();
        let head = text.split("{{").next().unwrap_or(text);
        if uri.is_literal() {
            match StorageUri::parse(text) {
                Ok(uri) => {
                    let problem = self.unknown(
                        path,
                        "storage",
                        uri.storage.as_str(),
                        self.checks.storages.as_ref().map(|k| k.iter()),
                    );
                    self.problems.extend(problem);
                }
                Err(e) => self.report(Problem::new(path, e.to_string())),
            }
        } else if let Some((storage, key)) = head.split_once("://") {
            let problem = self.unknown(
                path,
                "storage",
                storage,
                self.checks.storages.as_ref().map(|k| k.iter()),
            );
            self.problems.extend(problem);
            let all = without_holes(text);
            let beyond = all.split_once("://").map_or("", |(_, key)| key);
            if beyond.split('/').any(|part| part == "..") || key.starts_with('/') {
                self.report(
                    Problem::new(path, format!("{text:?} would leave its storage"))
                        .help("write STORAGE://KEY without `..`"),
                );
            }
        }
    }

    fn output_exists(&mut self, path: &str, wanted: &OutputRef) {
        let Some(&step) = self.index.get(wanted.step.as_str()) else {
            return;
        };
        let outputs: Vec<&str> = match &self.step_at(step).action {
            Action::Run(run) => run.outputs.iter().map(LogicalName::as_str).collect(),
            Action::Copy(copy) if copy.to.is_none() => vec!["data"],
            // Code of the host may hand on any artifact.
            Action::Native(_) => return,
            Action::Copy(_)
            | Action::Publish(_)
            | Action::Delete(_)
            | Action::Wait(_)
            | Action::Approve(_)
            | Action::Pipeline(_)
            | Action::Lookup(_)
            | Action::Check(_)
            | Action::Fail(_) => Vec::new(),
        };
        if !outputs.contains(&wanted.output.as_str()) {
            let problem = Problem::new(
                path,
                format!("step `{}` has no output `{}`", wanted.step, wanted.output),
            );
            let problem = match nearest(wanted.output.as_str(), outputs.iter().copied()) {
                Some(near) => problem.help(format!("did you mean `{}.{near}`?", wanted.step)),
                None if outputs.is_empty() => problem.help("it has no outputs"),
                None => problem.help(format!("it has {}", outputs.join(", "))),
            };
            self.report(problem);
        }
    }

    /// Finds steps that no course of events could ever start.
    ///
    /// Exact where all edges are joined by `all` and none waits for a skipped step; elsewhere the
    /// question is as hard as satisfiability, and a step that can't start may be missed, but one
    /// that can is never reported.
    fn reachability(&mut self, graph: &Graph) {
        let can_fail_only = |s: u32| matches!(self.step_at(s).action, Action::Fail(_));
        let all = 0..graph.len();
        let only_successes = all.clone().all(|s| {
            let mut after = graph.successors(s).iter();
            after.all(|e| e.on.contains(Conditions::SUCCEEDED) && !can_fail_only(s))
        });
        if only_successes {
            // If everything succeeds, everything starts.
            return;
        }
        let mut demands = Demands::new(graph.len());
        let mut ends: Vec<u8> = vec![0; graph.len() as usize];
        for step in graph.topological_order() {
            let possible = |e: &&Predecessor| e.on.bits() & ends[e.step as usize] != 0;
            let before = graph.predecessors(step);
            let conflict = match graph.join(step) {
                Join::All => before.iter().find_map(|edge| {
                    if !possible(&edge) {
                        return Some((edge, None));
                    }
                    demands.add(step, edge, ends[edge.step as usize]);
                    Some((edge, Some(demands.contradiction(step)?)))
                }),
                Join::Any => {
                    let holding = before.iter().filter(possible);
                    demands.add_common(step, holding, &ends);
                    let first = before
                        .first()
                        .filter(|_| !before.iter().any(|e| possible(&e)));
                    first.map(|edge| (edge, None))
                }
            };
            if let Some((edge, other)) = conflict {
                self.report_unreachable(step, edge.step, edge.on, other);
                ends[step as usize] = Conditions::SKIPPED.bits();
                continue;
            }
            let spec = self.step_at(step);
            let runs = match spec.action {
                Action::Fail(_) => Conditions::FAILED,
                _ => Conditions::COMPLETED,
            };
            let surely_holds = |e: &Predecessor| ends[e.step as usize] & !e.on.bits() == 0;
            let surely_starts = match graph.join(step) {
                Join::All => before.iter().all(surely_holds),
                Join::Any => before.iter().any(surely_holds),
            };
            let may_skip = spec.when.is_some() || !surely_starts;
            let skips = if may_skip {
                Conditions::SKIPPED.bits()
            } else {
                0
            };
            ends[step as usize] = runs.bits() | skips;
        }
    }

    fn report_unreachable(&mut self, step: u32, from: u32, on: Conditions, other: Option<u32>) {
        let (name, from_name) = (&self.step_at(step).name, &self.step_at(from).name);
        let words = on.words().join(" or ");
        let message = match other {
            None => {
                format!("step `{name}` can never start: `{from_name}` can never end as {words}")
            }
            Some(other) if other == from => format!(
                "step `{name}` can never start: it needs `{from_name}` {words}, which contradicts what another step that it needs waits for"
            ),
            Some(other) => format!(
                "step `{name}` can never start: it needs `{from_name}` {words}, which contradicts what it needs of `{}`",
                self.step_at(other).name
            ),
        };
        self.report(
            Problem::new(self.path(step as usize), message)
                .help("change a condition, or use `join: any`"),
        );
    }

    /// Checks the names that templates use; without a graph, not whether a step waits for them.
    fn references(&mut self, graph: Option<&Graph>) {
        let mut ancestors = None;
        for (i, step) in self.spec.all_steps().enumerate() {
            let at = self.path(i);
            for (own, template, sees_item) in templates(step) {
                if template.is_literal() {
                    continue;
                }
                let path = format!("{at}/{own}");
                let found = match self.checks.expressions.references(template) {
                    Ok(found) => found,
                    Err(e) => {
                        self.report(Problem {
                            span: e.span,
                            ..Problem::new(path, e.message)
                        });
                        continue;
                    }
                };
                let item = step
                    .map
                    .as_ref()
                    .filter(|_| sees_item)
                    .map(|m| m.item.as_str());
                let mut known = vec!["params", "run", "steps"];
                known.extend(item);
                known.extend(item.map(|_| "item_index"));
                if own == "repeat/until" {
                    known.extend(RepeatSpec::NAMES);
                }
                for name in found.names.iter().filter(|n| !known.contains(&n.as_str())) {
                    let problem =
                        Problem::new(&path, format!("there is no `{name}` in expressions here"));
                    let problem = match nearest(name, known.iter().copied()) {
                        Some(near) => problem.help(format!("did you mean `{near}`?")),
                        None => problem.help(format!("known are {}", known.join(", "))),
                    };
                    self.report(problem);
                }
                for param in found
                    .params
                    .iter()
                    .filter(|p| !self.spec.parameters.contains_key(p.as_str()))
                {
                    let problem = Problem::new(&path, format!("there is no parameter `{param}`"));
                    let problem = problem
                        .did_you_mean(param, self.spec.parameters.keys().map(LogicalName::as_str));
                    self.report(problem);
                }
                for name in &found.steps {
                    match self.index.get(name.as_str()) {
                        None => {
                            let problem = self.unknown_step(path.clone(), name);
                            self.report(problem);
                        }
                        Some(&other) => {
                            let waits = graph.is_none_or(|graph| {
                                ancestors
                                    .get_or_insert_with(|| Ancestors::of(graph))
                                    .has(i as u32, other)
                            });
                            if !waits {
                                let problem = Problem::new(&path, format!("step `{}` doesn't wait for `{name}`, so it can't use its result", step.name))
                                    .help(format!("add `after: [{name}]`"));
                                self.report(problem);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// For each step, which ends of the steps before it would keep it from starting.
///
/// Three planes of bits (succeeded, failed, skipped), a row for each step, a bit for each step before.
struct Demands {
    words: usize,
    forbidden: Vec<u64>,
}

impl Demands {
    fn new(steps: u32) -> Self {
        let words = (steps as usize).div_ceil(64);
        Self {
            words,
            forbidden: vec![0; 3 * words * steps as usize],
        }
    }

    fn row(&self, step: u32) -> Range<usize> {
        let len = 3 * self.words;
        step as usize * len..(step as usize + 1) * len
    }

    /// Returns what an edge demands if it is to hold, given how the step before may end.
    fn of_edge(&self, edge: &Predecessor, ends: u8) -> Vec<u64> {
        // A step that was not skipped has started, so what its start demanded was so.
        let mut demanded = if edge.on.contains(Conditions::SKIPPED) {
            vec![0; 3 * self.words]
        } else {
            self.forbidden[self.row(edge.step)].to_vec()
        };
        for plane in 0..3 {
            if edge.on.bits() & ends & (1 << plane) == 0 {
                demanded[plane * self.words + edge.step as usize / 64] |= 1 << (edge.step % 64);
            }
        }
        demanded
    }

    /// Adds what an edge demands to what `step` does.
    fn add(&mut self, step: u32, edge: &Predecessor, ends: u8) {
        let demanded = self.of_edge(edge, ends);
        let row = self.row(step);
        for (all, new) in self.forbidden[row].iter_mut().zip(demanded) {
            *all |= new;
        }
    }

    /// Makes `step` demand what all of the edges do, since one of them is enough.
    fn add_common<'e>(
        &mut self,
        step: u32,
        edges: impl Iterator<Item = &'e Predecessor>,
        ends: &[u8],
    ) {
        let demanded = edges.map(|e| self.of_edge(e, ends[e.step as usize]));
        let common = demanded.reduce(|mut all, new| {
            all.iter_mut().zip(new).for_each(|(all, new)| *all &= new);
            all
        });
        if let Some(common) = common {
            let row = self.row(step);
            self.forbidden[row].copy_from_slice(&common);
        }
    }

    /// Returns a step before `step` to which no end is left.
    fn contradiction(&self, step: u32) -> Option<u32> {
        let row = &self.forbidden[self.row(step)];
        (0..self.words).find_map(|w| {
            let none_left = row[w] & row[self.words + w] & row[2 * self.words + w];
            (none_left != 0).then(|| w as u32 * 64 + none_left.trailing_zeros())
        })
    }
}

/// For each step, which steps surely ended before it.
struct Ancestors {
    words: usize,
    bits: Vec<u64>,
}

impl Ancestors {
    fn of(graph: &Graph) -> Self {
        let steps = graph.len() as usize;
        let words = steps.div_ceil(64);
        let mut bits = vec![0_u64; words * steps];
        for step in graph.topological_order() {
            let s = step as usize;
            if graph.is_finally(step) {
                for main in 0..graph.finally_start() as usize {
                    bits[s * words + main / 64] |= 1 << (main % 64);
                }
            }
            for edge in graph.predecessors(step) {
                let p = edge.step as usize;
                for w in 0..words {
                    bits[s * words + w] |= bits[p * words + w];
                }
                bits[s * words + p / 64] |= 1 << (p % 64);
            }
        }
        Self { words, bits }
    }

    fn has(&self, step: u32, ancestor: u32) -> bool {
        let a = ancestor as usize;
        self.bits[step as usize * self.words + a / 64] & (1 << (a % 64)) != 0
    }
}

/// Returns why the results of a step can't be kept.
fn uncacheable(at: &str, step: &StepSpec, cache: &CachePolicy) -> Vec<Problem> {
    let problem = |below: &str, what: &str, help: &str| {
        Problem::new(format!("{at}/cache{below}"), what).help(help)
    };
    let mut found = Vec::new();
    match &step.action {
        Action::Run(_) => {}
        Action::Native(_) if cache.version.is_none() => found.push(problem(
            "",
            "nobody can see when code in Rust changes",
            "give its results a `version`, and another one whenever the code changes",
        )),
        Action::Native(_) => {}
        other => {
            let what = format!("the results of a `{}` step can't be kept", other.kind());
            found.push(problem(
                "",
                &what,
                "take `cache` away; only `run` steps have kept results",
            ));
        }
    }
    if step.join == Join::Any {
        let what =
            "a step that doesn't wait for all steps before it has no result that could be kept";
        found.push(problem("", what, "take `cache` or `join: any` away"));
    }
    if step.repeat.is_some() {
        let what = "a step that is repeated would be served the same result in each round";
        found.push(problem("", what, "take `cache` or `repeat` away"));
    }
    if cache.max_age == Some(std::time::Duration::ZERO) {
        let what = "no result is younger than that";
        found.push(problem(
            "/max_age",
            what,
            "write a longer time, or take `cache` away",
        ));
    }
    found
}

fn impossible(at: &str, request: &Resources, limit: &Resources, what: &str) -> Option<Problem> {
    let excess = request.first_excess(&Resources::new(), limit)?;
    let message = format!(
        "asks for {} {}, but {what} has {} in all",
        format_amount(excess.name, excess.asked),
        excess.name,
        format_amount(excess.name, excess.limit)
    );
    Some(
        Problem::new(format!("{at}/resources/{}", excess.name), message)
            .help("ask for less, or choose another target or pool"),
    )
}

/// Returns the outputs of other steps that an action uses, each with its path in the file.
#[must_use]
pub fn output_refs(action: &Action) -> Vec<(&OutputRef, String)> {
    match action {
        Action::Run(run) => run
            .inputs
            .iter()
            .filter_map(|(name, source)| match source {
                InputSource::Step(r) => Some((r, format!("run/inputs/{name}"))),
                InputSource::Storage(_) => None,
            })
            .collect(),
        Action::Publish(publish) => publish
            .from
            .iter()
            .enumerate()
            .map(|(i, r)| (r, format!("publish/from/{i}")))
            .collect(),
        Action::Native(_)
        | Action::Copy(_)
        | Action::Delete(_)
        | Action::Wait(_)
        | Action::Approve(_)
        | Action::Pipeline(_)
        | Action::Lookup(_)
        | Action::Check(_)
        | Action::Fail(_) => Vec::new(),
    }
}

/// Returns the templates of a step, each with its path and whether it sees the item of a map.
#[must_use]
pub fn templates(step: &StepSpec) -> Vec<(String, &Template, bool)> {
    let mut all = Vec::new();
    if let Some(when) = &step.when {
        all.push(("when".to_owned(), when, false));
    }
    if let Some(repeat) = &step.repeat {
        all.push(("repeat/until".to_owned(), &repeat.until, false));
    }
    if let Some(MapOver::Expression(over)) = step.map.as_ref().map(|m| &m.over) {
        all.push(("map/over".to_owned(), over, false));
    }
    match &step.action {
        Action::Run(run) => {
            all.extend(
                run.command
                    .iter()
                    .enumerate()
                    .map(|(i, t)| (format!("run/command/{i}"), t, true)),
            );
            all.extend(
                run.variables
                    .iter()
                    .map(|(k, t)| (format!("run/variables/{k}"), t, true)),
            );
            all.extend(run.inputs.iter().filter_map(|(k, s)| match s {
                InputSource::Storage(t) => Some((format!("run/inputs/{k}"), t, true)),
                InputSource::Step(_) => None,
            }));
        }
        Action::Copy(copy) => {
            all.push(("copy/from".to_owned(), &copy.from, true));
            all.extend(copy.to.iter().map(|t| ("copy/to".to_owned(), t, true)));
        }
        Action::Delete(t) => all.push(("delete".to_owned(), t, true)),
        Action::Lookup(l) => all.push(("lookup/from".to_owned(), &l.from, true)),
        Action::Check(t) => all.push(("check".to_owned(), t, true)),
        Action::Fail(t) => all.push(("fail".to_owned(), t, true)),
        Action::Wait(wait) => {
            if let WaitSpec::Until(t) = &**wait {
                all.push(("wait/until".to_owned(), t, true));
            }
        }
        Action::Pipeline(child) => all.extend(
            child
                .parameters
                .iter()
                .map(|(k, t)| (format!("pipeline/parameters/{k}"), t, true)),
        ),
        Action::Native(_) | Action::Publish(_) | Action::Approve(_) => {}
    }
    all
}

/// Returns a text with a letter in the place of each hole: what is left is there in every run.
fn without_holes(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(open) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let close = if rest[open..].starts_with("{{") {
            "}}"
        } else {
            "%}"
        };
        out.push_str(&rest[..open]);
        out.push('x');
        let end = rest[open..].find(close).map(|n| open + n + 2);
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out + rest
}

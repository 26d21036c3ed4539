//! What the files of a project mean to each other: names, owners, code, resources, child pipelines.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::{
    Action, CPU, Checks, ChildSpec, DISK, GPU, LogicalName, MEMORY, PipelineName, PipelineSpec,
    PoolTree, Resources, SoftwareSpec, StepName, validate,
};

use super::{Draft, Loader, Parsed};
use crate::diagnostic::{Problem, Severity, clip};
use crate::environment::{ComputeBinding, EnvironmentSpec};
use crate::expression::Jinja;
use crate::yaml::{Node, Value};

impl Loader {
    /// Puts the environment's values of parameters in the place of the pipelines' defaults.
    pub(super) fn override_parameters(
        &mut self,
        drafts: &mut [Draft],
        environment: &EnvironmentSpec,
        parsed: &Parsed,
    ) {
        let mut problems = Vec::new();
        for (pipeline, values) in &environment.parameters {
            let at = format!("parameters/{pipeline}");
            let known: Vec<String> = drafts.iter().map(|d| d.spec.name.to_string()).collect();
            let found = drafts
                .iter_mut()
                .find(|d| d.spec.name.as_str() == pipeline.as_str());
            let Some(draft) = found else {
                let what = format!("there is no pipeline `{}`", clip(pipeline));
                let problem = Problem::at(parsed.root.find_key(&at), what);
                let known = known.iter().map(String::as_str);
                problems.push(problem.nearest(pipeline, known, "the project has none"));
                continue;
            };
            for (name, value) in values {
                let at = format!("{at}/{name}");
                let parameters = &mut draft.spec.parameters;
                match parameters.get_mut(name.as_str()) {
                    Some(spec) => match spec.check(value) {
                        Ok(()) => spec.default = Some(value.clone()),
                        Err(why) => problems.push(Problem::at(parsed.root.find(&at), why)),
                    },
                    None => {
                        let what = format!("`{pipeline}` has no parameter `{}`", clip(name));
                        let problem = Problem::at(parsed.root.find_key(&at), what);
                        let known = parameters.keys().map(LogicalName::as_str);
                        problems.push(problem.nearest(name, known, "it has none"));
                    }
                }
            }
        }
        self.report(&parsed.source, problems);
    }

    /// Validates every pipeline with what the environment and the other pipelines say.
    ///
    /// Without an environment only what doesn't need one is checked. `names` are those of all
    /// pipeline files, the broken ones too.
    pub(super) fn check(
        &mut self,
        drafts: &[Draft],
        names: Vec<PipelineName>,
        environment: Option<&EnvironmentSpec>,
    ) {
        let language = Jinja::new();
        let mut checks = environment.map_or_else(
            || Checks::new(&language),
            |environment| checks_of(&language, environment),
        );
        checks.pipelines = Some(names.into_iter().collect());
        let pools = environment.map(pools_of).unwrap_or_default();
        for (i, draft) in drafts.iter().enumerate() {
            let mut problems: Vec<(String, Problem)> = validate(&draft.spec, &checks)
                .err()
                .unwrap_or_default()
                .into_iter()
                .filter(|p| p.path != "steps" || has_no_steps(draft))
                .map(|p| (p.path.clone(), placed(draft.origin(&p.path), p)))
                .collect();
            problems.extend(self.files_of(draft));
            if let Some(environment) = environment {
                problems.extend(resource_names(draft, environment));
                problems.extend(software(draft, environment));
            }
            problems.extend(children(draft, drafts));
            problems.extend(held_for_children(draft, drafts, &pools));
            problems.extend(
                drafts[..i]
                    .iter()
                    .filter(|d| d.is_named() && draft.is_named())
                    .find(|d| d.spec.name == draft.spec.name)
                    .map(|first| ("name".to_owned(), named_twice(draft, first))),
            );
            problems.sort_by_key(|(_, p)| p.span.as_ref().map(|s| s.start));
            for (path, problem) in problems {
                self.of_draft(draft, &path, problem, Severity::Error);
            }
            let named = environment.filter(|_| draft.is_named());
            if let Some((path, problem, severity)) = named.and_then(|e| owner(draft, e)) {
                self.of_draft(draft, path, problem, severity);
            }
        }
        for (draft, path, problem) in circles(drafts) {
            self.of_draft(draft, &path, problem, Severity::Error);
        }
    }

    /// Adds a problem of a pipeline in the file that the path comes from.
    fn of_draft(&mut self, draft: &Draft, path: &str, problem: Problem, severity: Severity) {
        let origin = draft.origin(path);
        let problem = if std::ptr::eq(origin, &draft.file) {
            problem
        } else {
            let used = draft.file.root.find("template");
            problem.elsewhere(&draft.file.source, used, "the template is used here")
        };
        self.add(&origin.source, problem, severity);
    }

    /// Finds folders of code and lock files that aren't there.
    fn files_of(&self, draft: &Draft) -> Vec<(String, Problem)> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for (at, run) in steps(&draft.spec).filter_map(|(at, action)| match action {
            Action::Run(run) => Some((at, run)),
            _ => None,
        }) {
            let lock = match &run.software {
                SoftwareSpec::Python(lock) => Some(("environment/python", lock, false)),
                SoftwareSpec::R(lock) => Some(("environment/r", lock, false)),
                _ => None,
            };
            let code = run.code.as_ref().map(|code| ("code", code, true));
            for (key, file, is_folder) in code.into_iter().chain(lock) {
                if !seen.insert((file, is_folder)) {
                    continue;
                }
                let path = self.root.join(file);
                let what = if is_folder { "folder" } else { "file" };
                let exists = if is_folder {
                    path.is_dir()
                } else {
                    path.is_file()
                };
                let (message, help) = if !exists {
                    (
                        format!("there is no {what} `{}`", clip(file)),
                        format!("write the {what}'s path from the project's own folder"),
                    )
                } else if !self.stays_inside(&path) {
                    (
                        format!(
                            "the {what} `{}` is a link that leads out of the project",
                            clip(file)
                        ),
                        "copy what it links to".to_owned(),
                    )
                } else {
                    continue;
                };
                let at = format!("{at}/run/{key}");
                let place = draft.origin(&at).root.find(&at);
                problems.push((at, Problem::at(place, message).help(help)));
            }
        }
        problems
    }
}

fn checks_of<'a>(language: &'a Jinja, environment: &EnvironmentSpec) -> Checks<'a> {
    let mut checks = Checks::new(language);
    let targets = environment.compute.iter();
    checks.targets = Some(targets.map(|(n, c)| (n.clone(), capacity(c))).collect());
    checks
        .default_target
        .clone_from(&environment.default_compute);
    checks.pools = Some(pools_of(environment).limits().clone());
    checks.storages = Some(environment.storages.keys().cloned().collect());
    checks.notifiers = Some(environment.notifiers.keys().cloned().collect());
    checks.secrets = Some(environment.secrets.keys().cloned().collect());
    checks
}

/// Pools that can't be are told with the environment.
fn pools_of(environment: &EnvironmentSpec) -> PoolTree {
    PoolTree::new(&environment.quotas).unwrap_or_default()
}

/// A target without figures is as large as its machine, which is found out when it is opened.
fn capacity(compute: &ComputeBinding) -> Resources {
    match compute {
        ComputeBinding::Process { capacity, .. } => capacity.clone(),
    }
}

/// Iterates over the actions of a pipeline with the path of each step.
fn steps(spec: &PipelineSpec) -> impl Iterator<Item = (String, &Action)> {
    let of = |list: &'static str| {
        move |(i, step)| {
            let step: &windlass_core::StepSpec = step;
            (format!("{list}/{i}"), &step.action)
        }
    };
    let main = spec.steps.iter().enumerate().map(of("steps"));
    main.chain(spec.finally.iter().enumerate().map(of("finally")))
}

/// Finds the place of a problem of validation in its file.
fn placed(parsed: &Parsed, problem: windlass_core::Problem) -> Problem {
    let text = &parsed.source.text;
    let mut span = parsed.root.find(&problem.path);
    if let Some(node) = parsed.root.scalar(&problem.path) {
        let bytes = problem.span.map(|(start, end)| start..end);
        if let Some(bytes) = bytes.or_else(|| named(node, &problem.message)) {
            span = node.within(text, bytes);
        }
    }
    let placed = Problem::at(span, problem.message);
    let placed = problem
        .related
        .into_iter()
        .fold(placed, |p, (path, label)| {
            p.related(parsed.root.find(&path), label)
        });
    match problem.help {
        Some(help) => placed.help(help),
        None => placed,
    }
}

/// Returns where an expression says the name that a message is about, if it says it once.
fn named(node: &Node, message: &str) -> Option<std::ops::Range<usize>> {
    let text = node.text().filter(|t| t.contains("{{"))?;
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    quoted.find_map(|name| {
        let mut found = text.match_indices(name).filter(|(at, _)| {
            let before = text[..*at].chars().next_back();
            let after = text[at + name.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        });
        let (at, _) = found.next()?;
        found.next().is_none().then_some(at..at + name.len())
    })
}

/// Returns true if a pipeline has no steps, and not just none that could be read.
fn has_no_steps(draft: &Draft) -> bool {
    let steps = draft.origin("steps").root.get("steps");
    steps.is_none_or(|s| s.value == Value::List(Vec::new()))
}

fn named_twice(draft: &Draft, first: &Draft) -> Problem {
    let place = |d: &Draft| d.file.root.find("name");
    Problem::at(
        place(draft),
        format!("there are two pipelines `{}`", draft.spec.name),
    )
    .elsewhere(&first.file.source, place(first), "first used here")
    .help("give each pipeline a name of its own")
}

fn owner(
    draft: &Draft,
    environment: &EnvironmentSpec,
) -> Option<(&'static str, Problem, Severity)> {
    let severity = if environment.protected {
        Severity::Error
    } else {
        Severity::Warning
    };
    let (path, problem) = match &draft.spec.owner {
        None => {
            let place = draft.file.root.find("name");
            let what = format!("pipeline `{}` has no owner", draft.spec.name);
            let help = "add `owner: TEAM`, so that somebody hears when it fails";
            ("name", Problem::at(place, what).help(help))
        }
        Some(owner) if !environment.owners.contains_key(owner) => {
            let place = draft.origin("owner").root.find("owner");
            let what = format!("the environment has no owner `{}`", clip(owner));
            let known = environment.owners.keys().map(String::as_str);
            let none = format!(
                "add it to `owners` of environments/{}.yaml",
                environment.name
            );
            (
                "owner",
                Problem::at(place, what).nearest(owner, known, none),
            )
        }
        Some(_) => return None,
    };
    Some((path, problem, severity))
}

/// Finds amounts that no pool counts, which would be asked for in vain.
fn resource_names(draft: &Draft, environment: &EnvironmentSpec) -> Vec<(String, Problem)> {
    let mut known: BTreeSet<&str> = [CPU, MEMORY, DISK, GPU].into();
    let limits = environment.quotas.iter().map(windlass_core::Quota::limit);
    known.extend(limits.flat_map(|l| l.iter().map(|(name, _)| name)));
    let mut problems = Vec::new();
    let all = draft.spec.all_steps().zip(steps(&draft.spec));
    for (step, (at, _)) in all {
        for (name, _) in step
            .policy
            .resources
            .iter()
            .filter(|(n, _)| !known.contains(n))
        {
            let own = format!("{at}/resources");
            let root = |path: &str| &draft.origin(path).root;
            let at = if root(&own).scalar(&format!("{own}/{name}")).is_some() {
                own
            } else {
                "defaults/resources".to_owned()
            };
            let place = root(&at).find_key(&format!("{at}/{name}"));
            let what = format!("no pool of the environment counts `{}`", clip(name));
            let problem = Problem::at(place, what);
            let problem = problem.nearest(name, known.iter().copied(), "");
            problems.push((at, problem));
        }
    }
    problems
}

/// Finds software that the step's target can't provide.
fn software(draft: &Draft, environment: &EnvironmentSpec) -> Vec<(String, Problem)> {
    let mut problems = Vec::new();
    for (step, (at, action)) in draft.spec.all_steps().zip(steps(&draft.spec)) {
        let Action::Run(run) = action else { continue };
        let (key, what) = match &run.software {
            SoftwareSpec::Python(lock) => ("python", lock),
            SoftwareSpec::R(lock) => ("r", lock),
            SoftwareSpec::Container(image) => ("container", image),
            _ => continue,
        };
        let target = step.policy.target.as_ref();
        let target = target.or(environment.default_compute.as_ref());
        let binding = target.and_then(|t| Some((t, environment.compute.get(t)?)));
        if let Some((target, ComputeBinding::Process { .. })) = binding {
            let at = format!("{at}/run/environment");
            let message = format!(
                "compute target `{target}` runs the host's software and can't provide `{}`: that is not supported by this version",
                clip(what)
            );
            let place = draft.origin(&at).root.find_key(&format!("{at}/{key}"));
            let problem = Problem::at(place, message);
            let help = "write `environment: { host: true }`, and install the software on the host";
            problems.push((at, problem.help(help)));
        }
    }
    problems
}

fn child_of(action: &Action) -> Option<&ChildSpec> {
    match action {
        Action::Pipeline(child) => Some(child),
        _ => None,
    }
}

/// Checks what steps give to the pipelines that they run.
fn children(draft: &Draft, drafts: &[Draft]) -> Vec<(String, Problem)> {
    let mut problems = Vec::new();
    for (at, action) in steps(&draft.spec) {
        let child = child_of(action);
        let Some((child, called)) = child.and_then(|child| {
            let called = drafts.iter().find(|d| d.spec.name == child.pipeline)?;
            Some((child, &called.spec))
        }) else {
            continue;
        };
        let root = &draft.origin(&at).root;
        for name in child.parameters.keys() {
            if !called.parameters.contains_key(name) {
                let path = format!("{at}/pipeline/parameters/{name}");
                let what = format!("`{}` has no parameter `{name}`", called.name);
                let known = called.parameters.keys().map(LogicalName::as_str);
                let problem = Problem::at(root.find_key(&path), what);
                problems.push((path, problem.nearest(name.as_str(), known, "it has none")));
            }
        }
        for (name, spec) in &called.parameters {
            if spec.default.is_none() && !child.parameters.contains_key(name) {
                let path = format!("{at}/pipeline/name");
                let what = format!("`{}` needs the parameter `{name}`", called.name);
                let help = format!(
                    "add it to `parameters`; it is a value of type {}",
                    spec.kind.as_str()
                );
                problems.push((path.clone(), Problem::at(root.find(&path), what).help(help)));
            }
        }
    }
    problems
}

/// Finds steps that hold room of a pool while the pipeline that they run needs room of it: each would
/// wait for the other once the pool is full.
fn held_for_children(draft: &Draft, drafts: &[Draft], pools: &PoolTree) -> Vec<(String, Problem)> {
    let mut problems = Vec::new();
    for (step, (at, action)) in draft.spec.all_steps().zip(steps(&draft.spec)) {
        let (Some(pool), Some(child)) = (&step.policy.pool, child_of(action)) else {
            continue;
        };
        let held = |other: &LogicalName| {
            let around = pools.path(other);
            other == pool || pools.path(pool).iter().any(|held| around.contains(held))
        };
        let Some((pipeline, needs)) = who_needs(held, &child.pipeline, drafts) else {
            continue;
        };
        let at = format!("{at}/pool");
        let message = format!(
            "the step holds room of pool `{pool}` while `{pipeline}` runs, whose step `{needs}` needs room of it"
        );
        let problem = Problem::at(draft.origin(&at).root.find_key(&at), message);
        let help = "take the line away: the steps of that pipeline take the room that they need";
        problems.push((at, problem.help(help)));
    }
    problems
}

/// Returns a step that needs room of a pool that is held, of a pipeline or of one that it runs.
fn who_needs<'a>(
    held: impl Fn(&LogicalName) -> bool,
    first: &'a PipelineName,
    drafts: &'a [Draft],
) -> Option<(&'a PipelineName, &'a StepName)> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![first]);
    while let Some(name) = open.pop() {
        let Some(draft) = drafts.iter().find(|d| d.spec.name == *name) else {
            continue;
        };
        if !seen.insert(name) {
            continue;
        }
        for step in draft.spec.all_steps() {
            match child_of(&step.action) {
                Some(child) => open.push(&child.pipeline),
                None if step.policy.pool.as_ref().is_some_and(&held) => {
                    return Some((&draft.spec.name, &step.name));
                }
                None => {}
            }
        }
    }
    None
}

/// Finds pipelines that would run themselves without end.
fn circles(drafts: &[Draft]) -> Vec<(&Draft, String, Problem)> {
    let index: BTreeMap<&PipelineName, usize> = drafts
        .iter()
        .enumerate()
        .map(|(i, d)| (&d.spec.name, i))
        .collect();
    let called: Vec<Vec<(usize, String)>> = drafts
        .iter()
        .map(|d| {
            steps(&d.spec)
                .filter_map(|(at, action)| {
                    let called = index.get(&child_of(action)?.pipeline)?;
                    Some((*called, format!("{at}/pipeline/name")))
                })
                .collect()
        })
        .collect();
    let mut found = Vec::new();
    let mut done = vec![false; drafts.len()];
    for start in 0..drafts.len() {
        // The way down from `start`: each pipeline with the next of its calls to follow.
        let mut way = vec![(start, 0)];
        while let Some((at, next)) = way.last_mut() {
            let (at, call) = (*at, called[*at].get(*next));
            *next += 1;
            let Some((callee, path)) = call.filter(|_| !done[at]) else {
                done[at] = true;
                way.pop();
                continue;
            };
            if let Some(first) = way.iter().position(|(p, _)| p == callee) {
                let mut names: Vec<&str> = way[first..]
                    .iter()
                    .map(|(p, _)| drafts[*p].spec.name.as_str())
                    .collect();
                names.push(drafts[*callee].spec.name.as_str());
                let draft = &drafts[at];
                let problem = Problem::at(
                    draft.origin(path).root.find(path),
                    format!(
                        "pipelines run each other in a circle: {}",
                        names.join(" → ")
                    ),
                );
                found.push((
                    draft,
                    path.clone(),
                    problem.help("take one of these steps away"),
                ));
            } else if !done[*callee] {
                way.push((*callee, 0));
            }
        }
    }
    found
}

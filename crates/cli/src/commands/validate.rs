//! `validate`: everything that is wrong with a project, at once, in every environment.

use std::process::ExitCode;

use windlass::project::{Diagnostic, Project};

use super::{Failure, root};
use crate::args::Place;
use crate::exit::Exit;
use crate::json;
use crate::print::out;

/// Checks one environment, or all: pipelines are the same in each, and what they need is not.
pub(crate) fn validate(place: &Place, as_json: bool) -> Result<ExitCode, Failure> {
    let root = root(place)?;
    let names = match &place.environment {
        Some(name) => vec![Some(name.clone())],
        // A project without environments is told so by `load`.
        None => match environments(&root) {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        },
    };
    let mut good: Vec<Project> = Vec::new();
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    let mut wrong = false;
    for name in names {
        let found = match Project::load(&root, name.as_deref()) {
            Ok(project) => {
                let warnings = project.warnings.clone();
                good.push(project);
                warnings
            }
            Err(report) => {
                wrong = true;
                report.diagnostics().to_vec()
            }
        };
        // What is wrong in every environment is said once.
        diagnostics.extend(
            found
                .into_iter()
                .filter(|d| !diagnostics.contains(d))
                .collect::<Vec<_>>(),
        );
    }
    if as_json {
        out(&format!("{}\n", json::text(&diagnostics)));
        return Ok(if wrong { Exit::Wrong } else { Exit::Done }.into());
    }
    if wrong {
        return Err(Failure::invalid(diagnostics));
    }
    for warning in &diagnostics {
        eprintln!("{warning}\n");
    }
    out(&summary(&good));
    Ok(Exit::Done.into())
}

/// Returns the names of the project's environments, in order.
pub(crate) fn environments(root: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("environments"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "yaml").then_some(name)
        })
        .collect();
    names.sort();
    names
}

/// Says what was checked.
fn summary(projects: &[Project]) -> String {
    let Some(first) = projects.first() else {
        return String::new();
    };
    let steps: usize = first
        .pipelines
        .iter()
        .map(|p| p.spec.all_steps().count())
        .sum();
    let mut templates: Vec<&str> = first
        .pipelines
        .iter()
        .filter_map(|p| p.template.as_deref())
        .collect();
    templates.sort_unstable();
    templates.dedup();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let environments: Vec<&str> = projects
        .iter()
        .map(|p| p.environment.name.as_str())
        .collect();
    let templates = match templates.len() {
        0 => String::new(),
        n => format!(", {}", count(n, "template")),
    };
    format!(
        "{} is valid: {} with {}{templates}, in environment{} {}\n",
        first.name,
        count(first.pipelines.len(), "pipeline"),
        count(steps, "step"),
        if environments.len() == 1 { "" } else { "s" },
        environments.join(", ")
    )
}

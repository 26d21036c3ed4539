//! `doctor`: what this machine can do for the environment, and what to do about the rest.
//!
//! It takes nothing: neither the store, which an engine may hold, nor the folder of its jobs.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use windlass::project::{ComputeBinding, Project, StorageBinding};
use windlass::run_store::{RunQuery, RunStore};
use windlass::wiring::{self, Variables};
use windlass::{
    Isolation, ObjectKey, Resources, SqliteStore, Storage, StorageErrorKind, error_chain,
    format_amount,
};

use super::{Failure, load};
use crate::args::Place;
use crate::exit::Exit;
use crate::json;
use crate::print::out;

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    project: String,
    root: String,
    environment: String,
    store: StoreFinding,
    storages: Vec<StorageFinding>,
    targets: Vec<TargetFinding>,
    good: bool,
}

#[derive(Debug, Serialize)]
struct StoreFinding {
    path: Option<String>,
    /// `new` before the first run.
    state: &'static str,
    /// The engine that is at work.
    held_by: Option<String>,
    unfinished_runs: usize,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct StorageFinding {
    name: String,
    url: String,
    reachable: bool,
    create_if_absent: bool,
    compare_and_swap: bool,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct TargetFinding {
    name: String,
    summary: String,
    total: Resources,
    isolation: Vec<IsolationFinding>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct IsolationFinding {
    property: Isolation,
    enforced: bool,
    /// Why not, and how to get it.
    why: Option<String>,
}

pub(crate) async fn doctor(
    place: &Place,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let store = store(&project).await;
    let storages = storages(&project, &variables).await;
    let targets = targets(&project, &variables).await?;
    let good = store.error.is_none()
        && storages.iter().all(|s| s.error.is_none())
        && targets.iter().all(|t| t.error.is_none());
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        project: project.name.clone(),
        root: project.root.display().to_string(),
        environment: project.environment.name.to_string(),
        store,
        storages,
        targets,
        good,
    };
    if as_json {
        out(&format!("{}\n", json::text(&findings)));
    } else {
        out(&text(&findings));
    }
    Ok(if good { Exit::Done } else { Exit::Unknown }.into())
}

async fn store(project: &Project) -> StoreFinding {
    let path = wiring::store_path(&project.environment);
    let mut finding = StoreFinding {
        path: path.as_ref().map(|p| p.display().to_string()),
        state: "new",
        held_by: None,
        unfinished_runs: 0,
        error: None,
    };
    let Some(path) = path else {
        return finding;
    };
    match look(&path).await {
        Ok((held_by, None)) => finding.held_by = held_by,
        Ok((held_by, Some(unfinished))) => {
            finding.state = "ready";
            finding.held_by = held_by;
            finding.unfinished_runs = unfinished;
        }
        Err(e) => {
            finding.state = "unusable";
            finding.error = Some(error_chain(&e));
        }
    }
    finding
}

/// Returns who holds a store, and how many runs in it have not ended if there is one.
async fn look(path: &Path) -> Result<(Option<String>, Option<usize>), windlass::StoreError> {
    let held_by = SqliteStore::holder(path)?;
    if !SqliteStore::exists(path).await? {
        return Ok((held_by, None));
    }
    let store = SqliteStore::open_read_only(path).await?;
    Ok((
        held_by,
        Some(store.runs(&RunQuery::unfinished()).await?.len()),
    ))
}

async fn storages(project: &Project, variables: &Variables) -> Vec<StorageFinding> {
    let opened = wiring::probe_storages(project, Arc::clone(variables)).await;
    let mut findings = Vec::new();
    for (name, storage) in opened {
        let url = |b: &StorageBinding| b.url.clone();
        let mut finding = StorageFinding {
            url: project
                .environment
                .storages
                .get(&name)
                .map_or_else(String::new, url),
            name: name.to_string(),
            reachable: false,
            create_if_absent: false,
            compare_and_swap: false,
            error: None,
        };
        match storage {
            Ok(storage) => {
                let can = storage.capabilities();
                finding.create_if_absent = can.create_if_absent;
                finding.compare_and_swap = can.compare_and_swap;
                finding.error = unreachable(&*storage).await;
                finding.reachable = finding.error.is_none();
            }
            Err(e) => finding.error = Some(error_chain(&e)),
        }
        findings.push(finding);
    }
    findings
}

/// Asks for an object that needn't be there; returns why there was no answer.
async fn unreachable(storage: &dyn Storage) -> Option<String> {
    let key = match ObjectKey::parse("windlass-doctor") {
        Ok(key) => key,
        Err(e) => return Some(error_chain(&e)),
    };
    match storage.head(&key).await {
        Ok(_) => None,
        Err(e) if e.kind() == StorageErrorKind::NotFound => None,
        Err(e) => Some(error_chain(&e)),
    }
}

async fn targets(project: &Project, variables: &Variables) -> Result<Vec<TargetFinding>, Failure> {
    // A target keeps records of its jobs; those of an engine at work are none of ours.
    let scratch = tempfile::tempdir()
        .map_err(|e| Failure::engine(format!("no temporary folder can be made: {e}")))?;
    let probed = wiring::probe_targets(project, Arc::clone(variables), scratch.path()).await;
    let finding = |(name, probed): (windlass::LogicalName, Result<_, _>)| match probed {
        Ok(can) => {
            let can: windlass::TargetCapabilities = can;
            let binding = project.environment.compute.get(&name);
            let why = |property| {
                let (_, why) = can.missing.iter().find(|m| m.0 == property)?;
                Some(match binding {
                    Some(ComputeBinding::Process {
                        isolated: false, ..
                    }) => "the environment asks for `isolation: none`; take that out".to_owned(),
                    _ => why.clone(),
                })
            };
            let isolation = Isolation::ALL.iter().map(|property| IsolationFinding {
                property: *property,
                enforced: can.isolation.contains(property),
                why: why(*property),
            });
            TargetFinding {
                name: name.to_string(),
                isolation: isolation.collect(),
                summary: can.summary,
                total: can.total,
                error: None,
            }
        }
        Err(e) => {
            let e: wiring::WiringError = e;
            TargetFinding {
                name: name.to_string(),
                summary: String::new(),
                total: Resources::new(),
                isolation: Vec::new(),
                error: Some(error_chain(&e)),
            }
        }
    };
    Ok(probed.into_iter().map(finding).collect())
}

fn text(found: &Findings) -> String {
    let mut text = String::new();
    let mut line = |title: &str, rest: String| text.push_str(&format!("{title:12} {rest}\n"));
    line("windlass", found.version.to_owned());
    line("project", format!("{} at {}", found.project, found.root));
    line("environment", found.environment.clone());
    let store = &found.store;
    let path = store
        .path
        .as_deref()
        .unwrap_or("of a kind that this build doesn't know");
    line(
        "store",
        match (&store.error, &store.held_by) {
            (Some(error), _) => format!("✗ {path}: {error}"),
            _ if store.state == "new" => format!("✓ {path}: not there yet, the first run makes it"),
            (None, Some(holder)) => format!("✓ {path}: {holder} is at work on it"),
            (None, None) => format!("✓ {path}: no engine is at work on it"),
        },
    );
    if store.unfinished_runs > 0 && store.held_by.is_none() {
        let (n, s) = (
            store.unfinished_runs,
            if store.unfinished_runs == 1 { "" } else { "s" },
        );
        line(
            "",
            format!("  {n} unfinished run{s}: the next `windlass run` goes on with them"),
        );
    }
    for storage in &found.storages {
        let lacks: Vec<&str> = [
            (storage.create_if_absent, "create-only puts"),
            (storage.compare_and_swap, "compare and swap"),
        ]
        .into_iter()
        .filter(|(has, _)| !has)
        .map(|(_, what)| what)
        .collect();
        let note = match &storage.error {
            Some(error) => format!("✗ {}: {error}", storage.name),
            None if lacks.is_empty() => format!("✓ {}: {}", storage.name, storage.url),
            None => format!(
                "✓ {}: {}; it lacks {}, so it can't hold published data",
                storage.name,
                storage.url,
                lacks.join(" and ")
            ),
        };
        line("storage", note);
    }
    for target in &found.targets {
        if let Some(error) = &target.error {
            line("compute", format!("✗ {}: {error}", target.name));
            continue;
        }
        let total: Vec<String> = target
            .total
            .iter()
            .map(|(what, amount)| format!("{what} {}", format_amount(what, amount)))
            .collect();
        line(
            "compute",
            format!(
                "✓ {}: {}; {}",
                target.name,
                target.summary,
                total.join(", ")
            ),
        );
        let held = target.isolation.iter().filter(|i| i.enforced);
        let held: Vec<&str> = held.map(|i| i.property.as_str()).collect();
        if !held.is_empty() {
            line("", format!("  ✓ isolates {}", held.join(", ")));
        }
        // One reason often has several of them missing.
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for missing in target.isolation.iter().filter(|i| !i.enforced) {
            let why = missing.why.as_deref().unwrap_or("the target can't");
            match reasons.iter_mut().find(|r| r.0 == why) {
                Some((_, properties)) => properties.push(missing.property.as_str()),
                None => reasons.push((why, vec![missing.property.as_str()])),
            }
        }
        for (why, properties) in reasons {
            line(
                "",
                format!("  ✗ does not isolate {}: {why}", properties.join(", ")),
            );
        }
    }
    text
}

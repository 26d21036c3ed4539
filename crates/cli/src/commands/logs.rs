//! `logs`: what a step wrote.

use std::io::Write;
use std::process::ExitCode;

use futures::TryStreamExt;
use windlass::run_store::RunStore;
use windlass::wiring::Variables;
use windlass::{Slot, StorageErrorKind, error_chain};

use super::{Failure, find_run, load, reader};
use crate::args::{LogsArgs, Place};

pub(crate) async fn logs(
    place: &Place,
    args: &LogsArgs,
    variables: Variables,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let store = reader(&project)
        .await?
        .ok_or_else(|| Failure::wrong("nothing ran yet"))?;
    let run = find_run(&store, &args.run).await?;
    let snapshot = store
        .snapshot(run.id)
        .await?
        .ok_or_else(|| Failure::engine("the run is gone"))?;
    let (name, item) = match args.step.strip_suffix(']').and_then(|s| s.split_once('[')) {
        Some((name, item)) => (
            name,
            Some(
                item.parse::<u32>()
                    .map_err(|_| Failure::wrong(format!("`{item}` is no number of an item")))?,
            ),
        ),
        None => (args.step.as_str(), None),
    };
    let names: Vec<&str> = snapshot
        .version
        .spec
        .all_steps()
        .map(|s| s.name.as_str())
        .collect();
    let step = names.iter().position(|n| *n == name).ok_or_else(|| {
        let near = windlass::nearest(name, names.iter().copied())
            .map_or(String::new(), |n| format!("\nhelp: did you mean `{n}`?"));
        Failure::wrong(format!("run {} has no step `{name}`{near}", run.id))
    })?;
    let slot = Slot {
        step: step as u32,
        item,
    };
    let attempts: Vec<_> = snapshot
        .attempts
        .iter()
        .filter(|a| a.slot == slot)
        .collect();
    let attempt = match args.attempt {
        Some(n) => attempts.iter().find(|a| a.attempt.get() == n),
        None => attempts.last(),
    };
    let attempt = attempt
        .ok_or_else(|| Failure::wrong(format!("step `{}` has no such attempt yet", args.step)))?;
    let folder = attempt.logs.as_ref().ok_or_else(|| {
        Failure::wrong(format!(
            "step `{}` keeps no logs: only `run` steps do",
            args.step
        ))
    })?;
    let storages = windlass::wiring::open_storages(&project, variables).await?;
    let storage = storages.get(&folder.storage).ok_or_else(|| {
        Failure::wrong(format!(
            "the environment has no storage `{}`",
            folder.storage
        ))
    })?;
    for name in ["stdout.log", "stderr.log"] {
        let key = folder.key.join(name).map_err(Failure::engine)?;
        let mut stream = match storage.get_stream(&key, None).await {
            Ok((_, stream)) => stream,
            Err(e) if e.kind() == StorageErrorKind::NotFound => continue,
            Err(e) => return Err(Failure::engine(error_chain(&e))),
        };
        while let Some(bytes) = stream
            .try_next()
            .await
            .map_err(|e| Failure::engine(error_chain(&e)))?
        {
            let written = if name == "stdout.log" {
                std::io::stdout().write_all(&bytes)
            } else {
                std::io::stderr().write_all(&bytes)
            };
            if written.is_err() {
                // Whoever read has seen enough.
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `doctor`: what this machine can do for the environment.

use std::process::ExitCode;

use windlass::wiring::Variables;

use super::{Failure, load};
use crate::args::Place;

pub(crate) async fn doctor(place: &Place, variables: Variables) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let wired = windlass::wiring::open(&project, variables).await?;
    println!(
        "project      {} at {}",
        project.name,
        project.root.display()
    );
    println!("environment  {}", project.environment.name);
    for (name, summary, missing) in &wired.targets {
        println!("compute      {name}: {summary}");
        for line in missing {
            println!("             - {line}");
        }
    }
    for (name, storage) in &wired.storages {
        let can = storage.capabilities();
        let lacks: Vec<&str> = [
            (can.create_if_absent, "create-only puts"),
            (can.compare_and_swap, "compare and swap"),
        ]
        .into_iter()
        .filter(|(has, _)| !has)
        .map(|(_, what)| what)
        .collect();
        let note = if lacks.is_empty() {
            "good".to_owned()
        } else {
            format!(
                "lacks {}: it can't hold published data",
                lacks.join(" and ")
            )
        };
        println!("storage      {name}: {note}");
    }
    Ok(ExitCode::SUCCESS)
}

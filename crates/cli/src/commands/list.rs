//! `check`, `list` and `schema`: what can be said without running anything.

use std::process::ExitCode;

use super::{Failure, load};
use crate::args::{Place, SchemaOf};

pub(crate) fn check(place: &Place) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let steps: usize = project
        .pipelines
        .iter()
        .map(|p| p.spec.all_steps().count())
        .sum();
    println!(
        "{}: {} pipelines with {steps} steps are good in environment {}",
        project.name,
        project.pipelines.len(),
        project.environment.name
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(place: &Place) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    if project.pipelines.is_empty() {
        println!(
            "{} has no pipelines: write one to pipelines/NAME.yaml",
            project.name
        );
    }
    let width = project
        .pipelines
        .iter()
        .map(|p| p.spec.name.as_str().len())
        .max()
        .unwrap_or(0);
    for pipeline in &project.pipelines {
        let owner = pipeline.spec.owner.as_deref().unwrap_or("nobody");
        println!(
            "{:width$}  {:2} steps  {owner}  {}",
            pipeline.spec.name,
            pipeline.spec.all_steps().count(),
            pipeline.spec.description
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn schema(file: SchemaOf) -> Result<ExitCode, Failure> {
    let schema = match file {
        SchemaOf::Project => windlass::project::schema::project(),
        SchemaOf::Pipeline => windlass::project::schema::pipeline(),
        SchemaOf::Environment => windlass::project::schema::environment(),
    };
    println!("{schema:#}");
    Ok(ExitCode::SUCCESS)
}

//! `list`, `schema` and `completion`: what can be said without running anything.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Failure, load};
use crate::args::{Args, Place, SchemaOf};
use crate::exit::Exit;
use crate::json;
use crate::print::out;

pub(crate) fn list(place: &Place, as_json: bool) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    if as_json {
        let pipelines: Vec<_> = project
            .pipelines
            .iter()
            .map(|p| {
                serde_json::json!({
                    "pipeline": p.spec.name, "description": p.spec.description, "owner": p.spec.owner,
                    "steps": p.spec.all_steps().map(|s| &s.name).collect::<Vec<_>>(),
                    "parameters": p.spec.parameters, "schedule": p.spec.schedule,
                    "file": p.file, "template": p.template,
                })
            })
            .collect();
        out(&format!("{}\n", json::text(&pipelines)));
        return Ok(Exit::Done.into());
    }
    if project.pipelines.is_empty() {
        out(&format!(
            "{} has no pipelines: write one to pipelines/NAME.yaml\n",
            project.name
        ));
    }
    let width = |text: fn(&windlass::PipelineSpec) -> &str| {
        let all = project.pipelines.iter();
        all.map(|p| text(&p.spec).len()).max().unwrap_or(0)
    };
    let owner = |p: &windlass::PipelineSpec| p.owner.clone().unwrap_or_else(|| "nobody".to_owned());
    let (names, owners) = (
        width(|p| p.name.as_str()),
        width(|p| p.owner.as_deref().unwrap_or("nobody")),
    );
    for pipeline in &project.pipelines {
        let spec = &pipeline.spec;
        let line = format!(
            "{:names$}  {:3} steps  {:owners$}  {}",
            spec.name,
            spec.all_steps().count(),
            owner(spec),
            spec.description
        );
        out(&format!("{}\n", line.trim_end()));
    }
    Ok(Exit::Done.into())
}

pub(crate) fn schema(file: SchemaOf) -> ExitCode {
    let schema = match file {
        SchemaOf::Project => windlass::project::schema::project(),
        SchemaOf::Pipeline => windlass::project::schema::pipeline(),
        SchemaOf::Environment => windlass::project::schema::environment(),
    };
    out(&format!("{schema:#}\n"));
    Exit::Done.into()
}

pub(crate) fn completion(shell: Shell, as_json: bool) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "windlass", &mut script);
    let script = String::from_utf8_lossy(&script);
    if as_json {
        let object = serde_json::json!({ "shell": shell.to_string(), "script": script });
        out(&format!("{}\n", json::text(&object)));
    } else {
        out(&script);
    }
    Exit::Done.into()
}

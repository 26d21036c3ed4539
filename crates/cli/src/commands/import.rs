//! `import`: makes a project of another system's pipeline.

use std::process::ExitCode;

use windlass::error_chain;
use windlass::project::import::wfformat::{self, Options};

use super::Failure;
use crate::args::Import;
use crate::exit::Exit;
use crate::{json, print};

/// Largest instance that is read: 256 MiB.
const LIMIT: u64 = 256 << 20;

pub(crate) fn import(import: &Import, as_json: bool) -> Result<ExitCode, Failure> {
    let Import::Wfformat {
        file,
        out,
        speed_up,
        force,
    } = import;
    let unreadable =
        |e: std::io::Error| Failure::wrong(format!("{} can't be read: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > LIMIT {
        return Err(Failure::wrong(format!(
            "{} has {size} bytes, more than {LIMIT}",
            file.display()
        )));
    }
    let text = std::fs::read(file).map_err(unreadable)?;
    let mut options = Options::default();
    options.speed_up = *speed_up;
    let wrong = |e: windlass::project::import::ImportError| {
        Failure::wrong(format!("{}: {}", file.display(), error_chain(&e)))
    };
    let project = wfformat::import(&text, &options).map_err(wrong)?;
    project
        .write(out, *force)
        .map_err(|e| Failure::wrong(error_chain(&e)))?;
    let pipeline = project.pipeline();
    if as_json {
        let done = serde_json::json!({
            "folder": out, "pipeline": pipeline.name, "steps": pipeline.steps.len(),
            "schema_version": project.schema_version(),
        });
        print::out(&format!("{}\n", json::text(&done)));
        return Ok(Exit::Done.into());
    }
    print::out(&format!(
        "wrote project {} with {} steps (WfFormat {})\nrun it: windlass run {} --project {}\n",
        out.display(),
        pipeline.steps.len(),
        project.schema_version(),
        pipeline.name,
        out.display()
    ));
    Ok(Exit::Done.into())
}

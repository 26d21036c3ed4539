//! `graph`: a pipeline as a picture.

use std::process::ExitCode;

use windlass::error_chain;

use super::{Failure, load, pipeline};
use crate::args::{GraphArgs, GraphFormat, Place};
use crate::exit::Exit;
use crate::graph::{View, dot, mermaid, svg};
use crate::json;
use crate::print::out;

pub(crate) fn graph(place: &Place, args: &GraphArgs, as_json: bool) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let spec = pipeline(&project, &args.pipeline)?;
    let view = View::of(spec).map_err(|e| Failure::wrong(error_chain(&e)))?;
    let format = match (args.format, &args.out) {
        (Some(format), _) => format,
        (None, Some(out)) => out
            .extension()
            .and_then(|e| e.to_str())
            .and_then(GraphFormat::of_extension)
            .unwrap_or(GraphFormat::Dot),
        (None, None) => GraphFormat::Dot,
    };
    let text = if as_json {
        format!("{}\n", plain(&view))
    } else {
        match format {
            GraphFormat::Dot => dot::write(&view),
            GraphFormat::Mermaid => mermaid::write(&view),
            GraphFormat::Svg => svg::write(&view),
        }
    };
    match &args.out {
        Some(file) => std::fs::write(file, text)
            .map_err(|e| Failure::wrong(format!("{} can't be written: {e}", file.display())))?,
        None => out(&text),
    }
    Ok(Exit::Done.into())
}

/// Returns the graph as data.
fn plain(view: &View) -> String {
    let steps: Vec<_> = view
        .nodes
        .iter()
        .map(|n| {
            serde_json::json!({
                "step": n.name, "kind": n.kind, "detail": n.detail, "mapped": n.mapped, "when": n.when,
                "join": if n.any { "any" } else { "all" }, "may_fail": n.may_fail, "finally": n.finally,
            })
        })
        .collect();
    let edges: Vec<_> = view
        .lines
        .iter()
        .map(|l| {
            let name = |v: usize| &view.nodes[v].name;
            serde_json::json!({ "from": name(l.from), "to": name(l.to), "on": l.on.words() })
        })
        .collect();
    json::text(&serde_json::json!({ "pipeline": view.name, "steps": steps, "edges": edges }))
}

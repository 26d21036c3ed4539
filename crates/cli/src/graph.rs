//! A pipeline as a picture: what is drawn, apart from how.
//!
//! [`View`] holds the steps and the edges of the checked graph, those that inputs make included;
//! [`dot`], [`mermaid`] and [`svg`] write it. A picture shows the pipeline, never a run.

pub(crate) mod dot;
mod layout;
pub(crate) mod mermaid;
pub(crate) mod svg;

use windlass::project::Jinja;
use windlass::{
    Action, Checks, Conditions, Implementations, InvalidPipeline, Join, MapOver, Pipeline,
    PipelineSpec, StepSpec,
};

/// Characters of an expression or a list that a picture repeats.
const CLIP: usize = 40;

/// A step as it is drawn.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The word of its action.
    pub(crate) kind: &'static str,
    /// More on the action: a target, a dataset, another pipeline.
    pub(crate) detail: Option<String>,
    /// What it is mapped over.
    pub(crate) mapped: Option<String>,
    /// True if it starts another pipeline.
    pub(crate) child: bool,
    /// Its condition.
    pub(crate) when: Option<String>,
    /// True if one edge is enough.
    pub(crate) any: bool,
    /// True if the run may succeed without it.
    pub(crate) may_fail: bool,
    /// True if it runs after every outcome.
    pub(crate) finally: bool,
}

/// An edge as it is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) on: Conditions,
}

/// A pipeline as it is drawn.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) lines: Vec<Line>,
}

impl View {
    /// Looks at a pipeline of a project.
    pub(crate) fn of(spec: &PipelineSpec) -> Result<Self, InvalidPipeline> {
        let language = Jinja::new();
        let checks = Checks::new(&language);
        let pipeline = Pipeline::new(spec.clone(), Implementations::new(), &checks)?;
        let graph = pipeline.graph();
        let nodes = (0..graph.len()).map(|i| node(pipeline.step(i), graph.is_finally(i)));
        let lines = (0..graph.len()).flat_map(|from| {
            graph.successors(from).iter().map(move |s| Line {
                from: from as usize,
                to: s.step as usize,
                on: s.on,
            })
        });
        Ok(Self {
            name: spec.name.to_string(),
            nodes: nodes.collect(),
            lines: lines.collect(),
        })
    }

    /// Returns true if there are steps that run after every outcome.
    pub(crate) fn has_finally(&self) -> bool {
        self.nodes.iter().any(|n| n.finally)
    }
}

fn node(step: &StepSpec, finally: bool) -> Node {
    let detail = match &step.action {
        Action::Run(_) => step.policy.target.as_ref().map(ToString::to_string),
        Action::Publish(publish) => Some(publish.dataset.to_string()),
        Action::Pipeline(child) => Some(child.pipeline.to_string()),
        Action::Native(name) => Some(name.to_string()),
        Action::Check(condition) => Some(bare(condition.as_str())),
        _ => None,
    };
    let mapped = step.map.as_ref().map(|map| match &map.over {
        MapOver::Literal(items) => format!("{} {}", items.len(), map.item),
        MapOver::Expression(over) => format!("each {} of {}", map.item, bare(over.as_str())),
        _ => format!("each {}", map.item),
    });
    Node {
        name: step.name.to_string(),
        kind: step.action.kind(),
        detail: detail.filter(|d| !d.is_empty()),
        mapped,
        child: matches!(step.action, Action::Pipeline(_)),
        when: step.when.as_ref().map(|when| bare(when.as_str())),
        any: step.join == Join::Any,
        may_fail: step.policy.allow_failure,
        finally,
    }
}

/// Returns an expression without its braces, cut.
fn bare(text: &str) -> String {
    let inner = text
        .trim()
        .strip_prefix("{{")
        .and_then(|t| t.strip_suffix("}}"))
        .filter(|t| !t.contains("{{"));
    let inner = inner.unwrap_or(text).trim();
    if inner.chars().count() <= CLIP {
        return inner.to_owned();
    }
    inner.chars().take(CLIP - 1).chain(['…']).collect()
}

/// Cuts text to `most` characters, in its middle: names that differ often do so at their ends.
pub(crate) fn clip(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let head: String = text.chars().take(most / 2).collect();
    let tail: String = text.chars().skip(count - (most - most / 2 - 1)).collect();
    format!("{head}…{tail}")
}

/// Returns the words for an edge; nothing for the usual one.
pub(crate) fn condition(on: Conditions) -> String {
    if on == Conditions::SUCCEEDED {
        return String::new();
    }
    if on.contains(Conditions::COMPLETED) {
        return if on.contains(Conditions::SKIPPED) {
            "ended".to_owned()
        } else {
            "completed".to_owned()
        };
    }
    on.words().join(" or ")
}

/// Returns what stands below the name of a step.
pub(crate) fn subtitle(node: &Node) -> String {
    match &node.detail {
        Some(detail) => format!("{} · {detail}", node.kind),
        None => node.kind.to_owned(),
    }
}

/// Returns what stands below that, one remark each.
pub(crate) fn remarks(node: &Node) -> Vec<String> {
    let mapped = node.mapped.iter().map(|m| format!("× {m}"));
    let when = node.when.iter().map(|w| format!("when {w}"));
    let any = node.any.then(|| "starts on any edge".to_owned());
    let may_fail = node.may_fail.then(|| "may fail".to_owned());
    mapped.chain(when).chain(any).chain(may_fail).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a pipeline with one of everything that a picture shows.
    pub(crate) fn sample() -> View {
        let spec: PipelineSpec = serde_json::from_value(serde_json::json!({
            "name": "sample",
            "parameters": { "regions": { "type": "array", "items": "string", "default": ["a"] } },
            "steps": [
                { "name": "fetch", "action": { "copy": { "from": "lake://in/" } } },
                { "name": "train", "action": { "run": { "command": ["train"], "outputs": ["model"] } }, "edges": [{ "step": "fetch" }], "policy": { "target": "small" } },
                { "name": "score", "action": { "run": { "command": ["score"], "outputs": ["out"], "inputs": { "model": { "step": { "step": "train", "output": "model" } } } } },
                  "map": { "over": { "expression": "{{ params.regions }}" }, "as": "region" } },
                { "name": "fall-back", "action": { "run": { "command": ["mean"], "outputs": ["out"] } }, "edges": [{ "step": "train", "on": ["failed"] }] },
                { "name": "audit", "action": { "pipeline": { "pipeline": "audit" } }, "edges": [{ "step": "fetch", "on": ["succeeded", "failed"] }],
                  "when": "{{ params.regions | length > 1 }}", "policy": { "allow_failure": true } },
                { "name": "publish", "join": "any", "action": { "publish": { "from": [{ "step": "score", "output": "out" }, { "step": "fall-back", "output": "out" }], "as": "scores" } } }
            ],
            "finally": [{ "name": "clean-up", "action": { "delete": "lake://tmp/" } }]
        }))
        .unwrap();
        View::of(&spec).unwrap()
    }

    #[test]
    fn edges_that_inputs_make_are_drawn() {
        let view = sample();
        let names = |l: &Line| {
            (
                view.nodes[l.from].name.as_str(),
                view.nodes[l.to].name.as_str(),
            )
        };
        assert!(view.lines.iter().any(|l| names(l) == ("train", "score")));
        assert!(
            view.lines
                .iter()
                .any(|l| names(l) == ("fall-back", "publish"))
        );
    }

    #[test]
    fn long_names_are_cut_in_their_middle() {
        assert_eq!(clip("abcdefghij", 5), "ab…ij");
        assert_eq!(clip("abcde", 5), "abcde");
        assert_eq!(clip("äöüßé", 3), "ä…é");
    }

    #[test]
    fn the_usual_edge_needs_no_words() {
        assert_eq!(condition(Conditions::SUCCEEDED), "");
        assert_eq!(condition(Conditions::COMPLETED), "completed");
        assert_eq!(condition(Conditions::from_bits(7)), "ended");
        assert_eq!(
            condition(Conditions::FAILED.or(Conditions::SKIPPED)),
            "failed or skipped"
        );
    }
}

//! Templates: a pipeline file with holes `[[ … ]]`, filled when the project is loaded.
//!
//! Holes are filled in the tree, scalar by scalar, so a value can't change the structure of the
//! file and every problem is still found at its place in the template.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value as Json};
use windlass_core::{LogicalName, resolve_params};

use crate::convert::param_spec;
use crate::decode::decode;
use crate::diagnostic::Problem;
use crate::files::ParamFile;
use crate::yaml::{Node, Value};

/// Takes `template_parameters` out of a template's tree.
pub(crate) fn parameters(root: &mut Node) -> Result<BTreeMap<String, ParamFile>, Problem> {
    let Value::Map(entries) = &mut root.value else {
        return Ok(BTreeMap::new());
    };
    let Some(at) = entries
        .iter()
        .position(|(k, _)| k.name == "template_parameters")
    else {
        return Ok(BTreeMap::new());
    };
    decode(&entries.remove(at).1)
}

/// Checks the values of a use, and fills in defaults.
pub(crate) fn values(
    declared: &BTreeMap<String, ParamFile>,
    given: &BTreeMap<String, Json>,
) -> Result<Map<String, Json>, Vec<(String, String)>> {
    let specs = declared
        .iter()
        .filter_map(|(n, p)| Some((LogicalName::new(n).ok()?, param_spec(p))))
        .collect();
    let given = given.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    resolve_params(&specs, &given).map_err(|problems| {
        problems
            .into_iter()
            .map(|p| (p.name.clone(), p.to_string()))
            .collect()
    })
}

/// Fills the holes of a tree.
pub(crate) fn fill(root: &mut Node, values: &Map<String, Json>) -> Vec<Problem> {
    let syntax = SyntaxConfig::builder()
        .variable_delimiters("[[", "]]")
        .block_delimiters("[%", "%]")
        .comment_delimiters("[#", "#]")
        .build();
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(20_000));
    let mut problems = Vec::new();
    match syntax {
        Ok(syntax) => environment.set_syntax(syntax),
        Err(e) => problems.push(Problem::file(e.to_string())),
    }
    fill_node(root, &environment, values, &mut problems);
    problems
}

fn fill_node(
    node: &mut Node,
    environment: &Environment<'_>,
    values: &Map<String, Json>,
    problems: &mut Vec<Problem>,
) {
    match &mut node.value {
        Value::List(items) => items
            .iter_mut()
            .for_each(|i| fill_node(i, environment, values, problems)),
        Value::Map(entries) => entries
            .iter_mut()
            .for_each(|(_, v)| fill_node(v, environment, values, problems)),
        Value::Scalar { text, quoted } if text.contains("[[") => {
            // A scalar that is one hole takes the type of its value; any other is text.
            let whole = text
                .trim()
                .strip_prefix("[[")
                .and_then(|t| t.strip_suffix("]]"))
                .filter(|t| !t.contains("[["));
            let typed = whole
                .map(|name| name.trim())
                .and_then(|name| values.get(name))
                .filter(|v| !v.is_string());
            if let Some(Json::Number(_) | Json::Bool(_)) = typed {
                *quoted = false;
            }
            match environment
                .template_from_str(text)
                .and_then(|t| t.render(minijinja::Value::from(minijinja::value::Serde(values))))
            {
                Ok(filled) if filled.len() <= 1 << 16 => *text = filled,
                Ok(_) => problems.push(Problem::at(
                    node.span.clone(),
                    "a template parameter makes more than 64 KiB of text",
                )),
                Err(e) => {
                    let what = e
                        .detail()
                        .map_or_else(|| e.kind().to_string(), str::to_owned);
                    problems.push(
                        Problem::at(
                            node.span.clone(),
                            format!("the template doesn't render: {what}"),
                        )
                        .help("template parameters stand in [[ … ]]"),
                    );
                }
            }
        }
        Value::Scalar { .. } => {}
    }
}

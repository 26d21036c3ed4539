//! Templates: a pipeline file with holes `[[ … ]]`, filled when the project is loaded.
//!
//! Holes are filled in the tree, scalar by scalar, so a value can't change the structure of the
//! file and every problem is still found at its place in the template. Holes `{{ … }}` are left
//! for the run.

use std::collections::BTreeMap;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value as Json};
use windlass_core::{LogicalName, ParamSpec, resolve_params};

use crate::convert::Converter;
use crate::decode::decode;
use crate::diagnostic::Problem;
use crate::files::TemplateFile;
use crate::yaml::{Node, Value};

/// Work that filling one text may take.
const FUEL: u64 = 20_000;
/// Text that one text of a template may become.
const MAX_TEXT: usize = 1 << 16;

/// Takes `template_parameters` out of a template's tree, and says what is wrong with them.
pub(crate) fn parameters(root: &mut Node) -> (BTreeMap<LogicalName, ParamSpec>, Vec<Problem>) {
    let mut alone = Node::new(root.span.clone(), Value::Map(Vec::new()));
    if let (Value::Map(entries), Value::Map(taken)) = (&mut root.value, &mut alone.value) {
        let at = entries
            .iter()
            .position(|(k, _)| k.name == "template_parameters");
        taken.extend(at.map(|at| entries.remove(at)));
    }
    let decoded = decode::<TemplateFile>(&alone);
    let mut converter = Converter::new(&alone);
    converter.problems = decoded.problems;
    let mut declared = BTreeMap::new();
    for (name, file) in decoded
        .value
        .into_iter()
        .flat_map(|f| f.template_parameters)
    {
        let at = format!("template_parameters/{name}");
        let spec = converter.parameter(&at, &file);
        if let Some(default) = &spec.default {
            converter.keep(&format!("{at}/default"), spec.check(default));
        }
        if let Some(name) = converter.logical(&at, &name) {
            declared.insert(name, spec);
        }
    }
    (declared, converter.problems)
}

/// Checks the values of a use and fills in defaults; each problem comes with its parameter.
pub(crate) fn values(
    declared: &BTreeMap<LogicalName, ParamSpec>,
    given: &BTreeMap<String, Json>,
) -> Result<Map<String, Json>, Vec<(String, String)>> {
    let given = given.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    resolve_params(declared, &given).map_err(|problems| {
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
    environment.set_fuel(Some(FUEL));
    let mut filler = Filler {
        environment,
        values,
        problems: Vec::new(),
    };
    match syntax {
        Ok(syntax) => filler.environment.set_syntax(syntax),
        Err(e) => filler.problems.push(Problem::file(e.to_string())),
    }
    filler.node(root);
    filler.problems
}

/// Fills one tree.
struct Filler<'a> {
    environment: Environment<'static>,
    values: &'a Map<String, Json>,
    problems: Vec<Problem>,
}

impl Filler<'_> {
    fn node(&mut self, node: &mut Node) {
        if self.is_unquoted_hole(node) {
            let problem = Problem::at(node.span.clone(), "YAML reads this as a list in a list");
            self.problems
                .push(problem.help("put the hole in quotes: \"[[ … ]]\""));
            return;
        }
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(|i| self.node(i)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    if key.name.contains("[[") {
                        let problem = Problem::at(key.span.clone(), "a key can't have holes");
                        self.problems
                            .push(problem.help("holes fill values, not the structure of the file"));
                    }
                    self.node(value);
                }
            }
            Value::Scalar { text, .. } if text.contains("[[") => {
                match self.filled(text, &node.span) {
                    Ok(value) => node.value = value,
                    Err(what) => {
                        let problem = Problem::at(node.span.clone(), what);
                        let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
                        self.problems.push(if known.is_empty() {
                            problem.help("declare it under `template_parameters`")
                        } else {
                            problem.help(format!("template parameters are {}", known.join(", ")))
                        });
                    }
                }
            }
            Value::Scalar { .. } => {}
        }
    }

    /// Returns true for `[[ name ]]` without quotes.
    fn is_unquoted_hole(&self, node: &Node) -> bool {
        let [inner] = node.items() else { return false };
        let [word] = inner.items() else { return false };
        word.text().is_some_and(|w| self.values.contains_key(w))
    }

    /// Returns what a text with holes becomes.
    ///
    /// A text that is one hole takes the type of its parameter: a number, true or false, or a list
    /// of such; any other is text.
    fn filled(&self, text: &str, span: &Range<usize>) -> Result<Value, String> {
        let whole = text
            .trim()
            .strip_prefix("[[")
            .and_then(|t| t.strip_suffix("]]"))
            .and_then(|name| self.values.get(name.trim()));
        if let Some(value) = whole.and_then(|value| typed(value, span)) {
            return Ok(value);
        }
        let filled = self
            .environment
            .template_from_str(text)
            .and_then(|t| t.render(minijinja::Value::from(minijinja::value::Serde(self.values))))
            .map_err(|e| {
                let what = e
                    .detail()
                    .map_or_else(String::new, |detail| format!(": {detail}"));
                format!("the template doesn't render: {}{what}", e.kind())
            })?;
        if filled.len() > MAX_TEXT {
            return Err("the template makes more than 64KiB of one text".to_owned());
        }
        Ok(Value::Scalar {
            text: filled,
            quoted: true,
        })
    }
}

/// Returns the value of a parameter as a part of the tree, unless it is text or has keys; errors
/// in it are at `span`.
fn typed(value: &Json, span: &Range<usize>) -> Option<Value> {
    match value {
        Json::Bool(_) | Json::Number(_) => Some(Value::Scalar {
            text: value.to_string(),
            quoted: false,
        }),
        Json::Array(items) => items
            .iter()
            .map(|item| {
                let text = item.as_str().map(|text| Value::Scalar {
                    text: text.to_owned(),
                    quoted: true,
                });
                let value = text.or_else(|| typed(item, span))?;
                Some(Node::new(span.clone(), value))
            })
            .collect::<Option<Vec<_>>>()
            .map(Value::List),
        Json::Null | Json::String(_) | Json::Object(_) => None,
    }
}

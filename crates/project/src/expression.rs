//! The expression language of pipelines: minijinja, strict about unknown names, bounded, pure.
//!
//! Nothing in it reads a clock, a file or the network, and every template has the same budget of
//! work, which counts bytes as well as instructions, so hostile text ends early. Names are checked
//! when a pipeline is loaded: what [`Expressions::references`] finds is compared with what there is.

mod scan;
mod trace;
mod words;

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use windlass_core::{ExpressionError, Expressions, References, Template, nearest};

use self::scan::{Hole, Member, holes};
use self::words::{FILTERS, TESTS};

/// Work that one template may do: an instruction, or 64 bytes of text made.
const FUEL: u64 = 100_000;
/// Text that one template may make.
const MAX_OUTPUT: usize = 1 << 20;
/// Text that a template may be.
const MAX_TEMPLATE: usize = 1 << 16;

/// What `run` has.
const RUN_FIELDS: &[&str] = &["id", "key", "date", "pipeline", "environment"];
/// What `steps.NAME` has.
const STEP_FIELDS: &[&str] = &["state", "result"];

/// Fills `{{ … }}` with minijinja.
///
/// An unknown name is an error, never empty text. Filters beside minijinja's own: `month`
/// (`2026-11-03` → `2026-11`), `year`, `day`, `json`, `slug`, `basename`.
///
/// ```
/// use serde_json::json;
/// use windlass_core::{Expressions, Template};
/// let language = windlass_project::Jinja::new();
/// let scope = json!({ "params": { "n": 2 }, "run": { "date": "2026-11-03" } });
/// assert_eq!(language.evaluate(&Template::new("{{ params.n * 3 }}"), &scope).unwrap(), json!(6));
/// assert_eq!(language.render(&Template::new("in/{{ run.date | month }}"), &scope).unwrap(), "in/2026-11");
/// assert!(language.render(&Template::new("{{ params.m }}"), &scope).is_err());
/// ```
#[derive(Debug)]
pub struct Jinja {
    environment: Environment<'static>,
}

impl Default for Jinja {
    fn default() -> Self {
        Self::new()
    }
}

impl Jinja {
    /// Returns the language.
    #[must_use]
    pub fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // What a template ends in is part of its text: a file may need its last line ended.
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        // Only delimiters can be wrong, and these are the default ones.
        environment.set_syntax(syntax.unwrap_or_default());
        environment.set_recursion_limit(50);
        environment.set_fuel(Some(FUEL));
        // It prints what is inside, which differs from version to version.
        environment.remove_global("debug");
        environment.add_filter("month", |date: String| part_of_date(&date, 0..7));
        environment.add_filter("year", |date: String| part_of_date(&date, 0..4));
        environment.add_filter("day", |date: String| part_of_date(&date, 8..10));
        environment.add_filter("json", |value: minijinja::Value| {
            serde_json::to_string(&value)
                .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
        });
        environment.add_filter("basename", |path: String| {
            let path = path.trim_end_matches('/');
            path.rsplit('/').next().unwrap_or("").to_owned()
        });
        environment.add_filter("slug", |text: String| slug(&text));
        Self { environment }
    }

    fn fill(&self, template: &Template, scope: &Value) -> Result<String, ExpressionError> {
        let compiled = self
            .environment
            .template_from_str(template.as_str())
            .map_err(|e| error_in(template.as_str(), &e))?;
        let mut out = Bounded(Vec::new());
        match compiled.render_captured_to(
            minijinja::Value::from(minijinja::value::Serde(scope)),
            &mut out,
        ) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WriteFailure => {
                return Err(ExpressionError::new(format!(
                    "makes more than {MAX_OUTPUT} bytes of text"
                )));
            }
            Err(e) => return Err(error_in(template.as_str(), &e)),
        }
        String::from_utf8(out.0).map_err(|_| ExpressionError::new("makes no valid text"))
    }

    /// Evaluates the expression of a hole that is the whole template.
    fn value(&self, expression: &str, scope: &Value) -> Result<Value, ExpressionError> {
        let compiled = self
            .environment
            .compile_expression(expression)
            .map_err(|e| error_in(expression, &e))?;
        let value = compiled
            .eval(minijinja::Value::from(minijinja::value::Serde(scope)))
            .map_err(|e| error_in(expression, &e))?;
        if value.is_undefined() {
            return Err(ExpressionError::new("uses a name that isn't there"));
        }
        let json = serde_json::to_value(&value)
            .map_err(|e| ExpressionError::new(format!("makes no value: {e}")))?;
        if json.is_null() && !value.is_none() {
            return Err(ExpressionError::new(
                "makes a number that is infinite or none at all",
            ));
        }
        Ok(json)
    }
}

/// Text that refuses to grow beyond its bound.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other("too much text"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the expression of a template that is one hole and nothing else.
fn single_hole(text: &str) -> Option<&str> {
    let trimmed = text.trim();
    match holes(trimmed).as_slice() {
        [hole] if !hole.is_statement && hole.span == (0..trimmed.len()) => {
            let inner = trimmed.strip_prefix("{{")?.strip_suffix("}}")?;
            let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
            Some(inner.strip_suffix('-').unwrap_or(inner).trim())
        }
        _ => None,
    }
}

fn part_of_date(date: &str, part: std::ops::Range<usize>) -> Result<String, minijinja::Error> {
    date.parse::<windlass_core::LogicalDate>()
        .map(|d| d.to_string()[part].to_owned())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

fn slug(text: &str) -> String {
    let dashed: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    dashed
        .split('-')
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// Makes an error of `text` and places it there: minijinja's place may lie behind the end.
fn error_in(text: &str, error: &minijinja::Error) -> ExpressionError {
    let mut error = error_of(error);
    let is_inside = |(start, end): &(usize, usize)| text.get(*start..*end).is_some();
    if error.span.as_ref().is_some_and(|span| !is_inside(span)) {
        error.span = Some((text.len(), text.len()));
    }
    error
}

fn error_of(error: &minijinja::Error) -> ExpressionError {
    let detail = error
        .detail()
        .map_or_else(String::new, |d| format!(": {d}"));
    let what = match error.kind() {
        ErrorKind::UndefinedError => "uses a name that isn't there".to_owned(),
        ErrorKind::OutOfFuel => "takes too much work".to_owned(),
        ErrorKind::SyntaxError => "the expression is not valid".to_owned(),
        kind => kind.to_string(),
    };
    let found = ExpressionError::new(format!("{what}{detail}"));
    match error.range() {
        Some(range) => found.at(range.start, range.end),
        None => found,
    }
}

/// Adds the template to an error of a run, which has no line of a file to show.
fn in_template(mut error: ExpressionError, template: &Template) -> ExpressionError {
    let text: String = template.as_str().chars().take(120).collect();
    error.message = format!("{} in `{text}`", error.message);
    error
}

impl Expressions for Jinja {
    fn render(&self, template: &Template, scope: &Value) -> Result<String, ExpressionError> {
        self.fill(template, scope)
            .map_err(|e| in_template(e, template))
    }

    fn evaluate(&self, template: &Template, scope: &Value) -> Result<Value, ExpressionError> {
        match single_hole(template.as_str()) {
            Some(expression) => self.value(expression, scope).map_err(|mut e| {
                // Its place is one in the expression, which starts somewhere in the template.
                let before = template.as_str().find(expression).unwrap_or(0);
                e.span = e.span.map(|(start, end)| (before + start, before + end));
                e
            }),
            None => self.fill(template, scope).map(Value::from),
        }
        .map_err(|e| in_template(e, template))
    }

    fn references(&self, template: &Template) -> Result<References, ExpressionError> {
        let text = template.as_str();
        if text.len() > MAX_TEMPLATE {
            return Err(ExpressionError::new(format!(
                "the text has {} bytes, more than {MAX_TEMPLATE}",
                text.len()
            )));
        }
        let compiled = self
            .environment
            .template_from_str(text)
            .map_err(|e| error_in(text, &e))?;
        let holes = holes(text);
        let traceable = trace::traceable(text, &holes);
        // The same expressions in other places compile, too; without a slip of ours, that is.
        let traced = self
            .environment
            .template_from_str(&traceable)
            .map_err(|_| {
                ExpressionError::new("is too unusual to find its names; write it simpler")
            })?;
        let mut undeclared = compiled.undeclared_variables(false);
        undeclared.extend(traced.undeclared_variables(false));
        let mut found = References::default();
        found.names = undeclared
            .into_iter()
            .filter(|n| !self.environment.globals().any(|(g, _)| g == n))
            .collect();
        for hole in &holes {
            check_words(hole)?;
            let names: BTreeSet<&str> = found.names.iter().map(String::as_str).collect();
            let free = |i: usize| {
                let word = hole.word(i).filter(|w| names.contains(w))?;
                let is_member = i > 0 && (hole.sign(i - 1, '.') || hole.sign(i - 1, '|'));
                let is_keyword = hole.sign(i + 1, '=') && !hole.sign(i + 2, '=');
                (!is_member && !is_keyword).then_some(word)
            };
            let (mut params, mut steps) = (Vec::new(), Vec::new());
            for i in 0..hole.tokens.len() {
                match (free(i), hole.member(i)) {
                    (Some("params"), Member::Named(name, _)) => params.push(name.to_owned()),
                    (Some("params"), Member::Computed | Member::None) => found.all_params = true,
                    (Some("run"), Member::Named(name, place)) => {
                        check_field("`run` has no", name, RUN_FIELDS, place)?;
                    }
                    (Some("steps"), Member::Named(name, _)) => {
                        let last = if hole.sign(i + 1, '.') { i + 2 } else { i + 3 };
                        if let Member::Named(field, place) = hole.member(last) {
                            check_field("a step has no", field, STEP_FIELDS, place)?;
                        }
                        steps.push(name.to_owned());
                    }
                    (Some("steps"), Member::Computed | Member::None) => {
                        let place = hole.tokens[i].1.clone();
                        return Err(ExpressionError::new(
                            "`steps` needs the name of a step behind it: write steps.NAME, or steps[\"NAME\"]",
                        )
                        .at(place.start, place.end));
                    }
                    _ => {}
                }
            }
            found.params.extend(params);
            found.steps.extend(steps);
        }
        Ok(found)
    }
}

fn check_field(
    what: &str,
    name: &str,
    known: &[&str],
    place: std::ops::Range<usize>,
) -> Result<(), ExpressionError> {
    if known.contains(&name) {
        return Ok(());
    }
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it has {}", known.join(", ")),
    };
    Err(ExpressionError::new(format!("{what} `{name}`; {help}")).at(place.start, place.end))
}

/// Checks the filters and tests of a hole; those within a branch that isn't taken too.
fn check_words(hole: &Hole<'_>) -> Result<(), ExpressionError> {
    let unknown = |what: &str, i: usize, known: &[&str]| {
        let Some(word) = hole.word(i).filter(|w| !known.contains(w)) else {
            return Ok(());
        };
        let help = nearest(word, known.iter().copied())
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let place = &hole.tokens[i].1;
        Err(
            ExpressionError::new(format!("there is no {what} `{word}`{help}"))
                .at(place.start, place.end),
        )
    };
    for i in 0..hole.tokens.len() {
        if hole.sign(i, '|') || (hole.is_statement && i == 0 && hole.word(0) == Some("filter")) {
            unknown("filter", i + 1, FILTERS)?;
        } else if hole.word(i) == Some("is") && i > 0 && !hole.sign(i - 1, '.') {
            let not = usize::from(hole.word(i + 1) == Some("not"));
            unknown("test", i + 1 + not, TESTS)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

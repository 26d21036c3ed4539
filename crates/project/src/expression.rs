//! The expression language of pipelines: minijinja, strict about unknown names, bounded, pure.

use std::collections::BTreeSet;

use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use windlass_core::{ExpressionError, Expressions, References, Template};

/// Work that one template may do, in minijinja's instructions.
const FUEL: u64 = 100_000;
/// Text that one template may make.
const MAX_OUTPUT: usize = 1 << 20;

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
        environment.set_recursion_limit(50);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("month", |date: String| part_of_date(&date, 7));
        environment.add_filter("year", |date: String| part_of_date(&date, 4));
        environment.add_filter("day", |date: String| {
            part_of_date(&date, 10).map(|d| d[8..].to_owned())
        });
        environment.add_filter("json", |value: minijinja::Value| {
            serde_json::to_string(&value)
                .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
        });
        environment.add_filter("basename", |path: String| {
            path.trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or("")
                .to_owned()
        });
        environment.add_filter("slug", |text: String| slug(&text));
        // Padding and ranges can make much of little; fuel doesn't see what one call makes.
        environment.remove_global("range");
        environment.remove_filter("indent");
        environment.remove_filter("batch");
        environment.remove_filter("slice");
        environment.remove_filter("format");
        Self { environment }
    }

    fn fill(&self, template: &Template, scope: &Value) -> Result<String, ExpressionError> {
        let compiled = self
            .environment
            .template_from_str(template.as_str())
            .map_err(|e| shown(&e, template))?;
        let mut out = Bounded(Vec::new());
        match compiled.render_captured_to(
            minijinja::Value::from(minijinja::value::Serde(scope)),
            &mut out,
        ) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WriteFailure => {
                return Err(ExpressionError::new(format!(
                    "makes more than {MAX_OUTPUT} bytes"
                )));
            }
            Err(e) => return Err(shown(&e, template)),
        }
        String::from_utf8(out.0).map_err(|_| ExpressionError::new("makes no valid text"))
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
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%"))
        .then(|| inner.trim_matches('-').trim())
}

fn part_of_date(date: &str, length: usize) -> Result<String, minijinja::Error> {
    date.parse::<windlass_core::LogicalDate>()
        .map(|d| d.to_string()[..length].to_owned())
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

fn shown(error: &minijinja::Error, template: &Template) -> ExpressionError {
    let detail = error
        .detail()
        .map_or_else(String::new, |d| format!(": {d}"));
    let what = match error.kind() {
        ErrorKind::UndefinedError => "uses a name that isn't there".to_owned(),
        ErrorKind::OutOfFuel => "takes too much work".to_owned(),
        kind => kind.to_string(),
    };
    let message = ExpressionError::new(format!(
        "{what}{detail} in `{}`",
        template.as_str().chars().take(120).collect::<String>()
    ));
    match error.range() {
        Some(range) => message.at(range.start, range.end),
        None => message,
    }
}

impl Expressions for Jinja {
    fn render(&self, template: &Template, scope: &Value) -> Result<String, ExpressionError> {
        self.fill(template, scope)
    }

    fn evaluate(&self, template: &Template, scope: &Value) -> Result<Value, ExpressionError> {
        let Some(expression) = single_hole(template.as_str()) else {
            return self.fill(template, scope).map(Value::from);
        };
        let compiled = self
            .environment
            .compile_expression(expression)
            .map_err(|e| shown(&e, template))?;
        let value = compiled
            .eval(minijinja::Value::from(minijinja::value::Serde(scope)))
            .map_err(|e| shown(&e, template))?;
        if value.is_undefined() {
            return Err(ExpressionError::new(format!(
                "uses a name that isn't there in `{}`",
                template.as_str()
            )));
        }
        serde_json::to_value(&value)
            .map_err(|e| ExpressionError::new(format!("makes no value: {e}")))
    }

    fn references(&self, template: &Template) -> Result<References, ExpressionError> {
        let compiled = self
            .environment
            .template_from_str(template.as_str())
            .map_err(|e| shown(&e, template))?;
        let mut found = References::default();
        found.names = compiled
            .undeclared_variables(false)
            .into_iter()
            .filter(|n| !self.environment.globals().any(|(g, _)| g == n))
            .collect();
        for path in compiled.undeclared_variables(true) {
            let mut parts = path.split('.');
            match (parts.next(), parts.next()) {
                (Some("params"), Some(name)) => drop(found.params.insert(name.to_owned())),
                (Some("steps"), Some(name)) => drop(found.steps.insert(name.to_owned())),
                _ => {}
            }
        }
        found.steps.extend(quoted_after(template.as_str(), "steps"));
        found
            .params
            .extend(quoted_after(template.as_str(), "params"));
        self.check_filters(template)?;
        Ok(found)
    }
}

impl Jinja {
    /// A filter that doesn't exist is found when it is called, so call each one by itself.
    fn check_filters(&self, template: &Template) -> Result<(), ExpressionError> {
        for filter in filters(template.as_str()) {
            let alone = Template::new(format!("{{{{ 0 | {filter} }}}}"));
            match self.fill(&alone, &Value::Null) {
                Err(e) if e.message.starts_with("unknown filter") => {
                    let text = template.as_str().chars().take(120).collect::<String>();
                    return Err(ExpressionError::new(format!(
                        "there is no filter `{filter}` in `{text}`"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns the names that follow a `|` outside of quotes.
fn filters(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, '|') => {
                let name: String = text[at + 1..]
                    .trim_start()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                found.extend((!name.is_empty()).then_some(name));
            }
            _ => {}
        }
    }
    found
}

/// Returns the names in `NAME["…"]` and `NAME['…']`, which minijinja doesn't list.
fn quoted_after(text: &str, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(name) {
        let rest = &text[at + name.len()..];
        let Some(rest) = rest.trim_start().strip_prefix('[') else {
            continue;
        };
        let rest = rest.trim_start();
        let Some(quote) = rest.chars().next().filter(|c| "\"'".contains(*c)) else {
            continue;
        };
        if let Some(end) = rest[1..].find(quote) {
            found.insert(rest[1..=end].to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_found_in_both_forms() {
        let found = Jinja::new()
            .references(&Template::new(
                "{{ steps.train.result.auc + steps['re-use'].result + params.x + item }}",
            ))
            .unwrap();
        assert_eq!(
            found.steps,
            ["re-use".to_owned(), "train".to_owned()].into()
        );
        assert_eq!(found.params, ["x".to_owned()].into());
        assert!(found.names.contains("item"));
    }

    #[test]
    fn work_and_text_are_bounded() {
        let j = Jinja::new();
        let scope = json!({ "a": "x".repeat(1_000_000) });
        assert!(j.render(&Template::new("{{ a }}{{ a }}"), &scope).is_err());
        let list = json!({ "l": (0..1_000).collect::<Vec<_>>() });
        assert!(j.render(&Template::new("{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}"), &list).is_err());
    }

    #[test]
    fn a_filter_that_does_not_exist_is_an_error_before_anything_runs() {
        let e = Jinja::new()
            .references(&Template::new("{{ 'a' | upcase }}"))
            .unwrap_err();
        assert!(e.message.contains("upcase"), "{e}");
    }

    #[test]
    fn one_hole_keeps_its_type() {
        let scope = json!({ "params": { "list": [1, 2], "yes": true } });
        let j = Jinja::new();
        assert_eq!(
            j.evaluate(&Template::new("{{ params.list }}"), &scope)
                .unwrap(),
            json!([1, 2])
        );
        assert_eq!(
            j.evaluate(&Template::new("{{ params.yes }}"), &scope)
                .unwrap(),
            json!(true)
        );
        assert_eq!(
            j.evaluate(&Template::new("n={{ params.list[0] }}"), &scope)
                .unwrap(),
            json!("n=1")
        );
    }
}

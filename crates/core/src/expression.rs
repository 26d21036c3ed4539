//! The seam to the expression language: [`Expressions`] fills the holes of a [`Template`].
//!
//! Expressions are pure: no I/O, no clock, no randomness, bounded in time and size. The scope is a
//! JSON object: `params`, `run` (`id`, `key`, `date`, `pipeline`, `environment`), `steps.NAME`
//! (`state`, `result`), and within a mapped step the item under its name and `item_index`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::spec::Template;

/// A template that can't be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpressionError {
    /// What is wrong, and what to do.
    pub message: String,
    /// Where in the text, as bytes from its start, where that is known.
    pub span: Option<(usize, usize)>,
}

impl ExpressionError {
    /// Returns an error without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: None,
        }
    }

    /// Adds the place.
    #[must_use]
    pub const fn at(mut self, start: usize, end: usize) -> Self {
        self.span = Some((start, end));
        self
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExpressionError {}

/// The names that a template uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct References {
    /// Names of the scope itself, such as `params`, `run`, `steps`, or an item.
    pub names: BTreeSet<String>,
    /// Parameters, from `params.NAME`.
    pub params: BTreeSet<String>,
    /// True if it uses `params` as a whole, or a parameter that it computes the name of.
    pub all_params: bool,
    /// Steps, from `steps.NAME` and `steps["NAME"]`.
    pub steps: BTreeSet<String>,
}

/// Fills templates.
pub trait Expressions: Send + Sync + fmt::Debug {
    /// Returns the text of the template with its holes filled.
    ///
    /// # Errors
    /// Bad syntax, an unknown name, or more work or text than is allowed.
    fn render(&self, template: &Template, scope: &Value) -> Result<String, ExpressionError>;

    /// Returns the value of a template that is one hole; the text of any other as a string.
    ///
    /// # Errors
    /// As [`Self::render`].
    fn evaluate(&self, template: &Template, scope: &Value) -> Result<Value, ExpressionError>;

    /// Returns the names that the template uses.
    ///
    /// # Errors
    /// Bad syntax, or a filter that doesn't exist.
    fn references(&self, template: &Template) -> Result<References, ExpressionError>;
}

/// Accepts text without holes only; what an engine without an expression language uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiteralsOnly;

impl LiteralsOnly {
    fn literal(template: &Template) -> Result<&str, ExpressionError> {
        if template.is_literal() {
            Ok(template.as_str())
        } else {
            Err(ExpressionError::new(
                "this engine has no expression language: wire one, or use text without holes",
            ))
        }
    }
}

impl Expressions for LiteralsOnly {
    fn render(&self, template: &Template, _: &Value) -> Result<String, ExpressionError> {
        Self::literal(template).map(str::to_owned)
    }

    fn evaluate(&self, template: &Template, _: &Value) -> Result<Value, ExpressionError> {
        Self::literal(template).map(Value::from)
    }

    fn references(&self, template: &Template) -> Result<References, ExpressionError> {
        Self::literal(template).map(|_| References::default())
    }
}

/// Returns whether a condition's value counts as true: false, null, 0, "", [], {} and the text `false` don't.
#[must_use]
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !matches!(s.trim(), "" | "false" | "False"),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

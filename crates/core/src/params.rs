//! Parameters: whether given values fit what a pipeline declares.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::ids::LogicalName;
use crate::nearest::nearest;
use crate::spec::{ParamSpec, ParamType};

impl ParamType {
    /// Returns the word that a pipeline file has for the type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

impl ParamSpec {
    /// Checks a value.
    ///
    /// # Errors
    /// One sentence that says what was expected and what was found.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        if !self.kind.admits(value) {
            return Err(format!(
                "expected {}, found {}",
                self.kind.as_str(),
                shown(value)
            ));
        }
        let items: &[Value] = match value {
            Value::Array(items) if self.kind == ParamType::Array => items,
            one => std::slice::from_ref(one),
        };
        items.iter().try_for_each(|item| self.check_item(item))
    }

    fn check_item(&self, item: &Value) -> Result<(), String> {
        if let (ParamType::Array, Some(kind)) = (self.kind, self.items)
            && !kind.admits(item)
        {
            return Err(format!(
                "expected an array of {}, found {} in it",
                kind.as_str(),
                shown(item)
            ));
        }
        if !self.allowed.is_empty() && !self.allowed.contains(item) {
            let allowed: Vec<_> = self.allowed.iter().map(shown).collect();
            return Err(format!(
                "{} is not one of {}",
                shown(item),
                allowed.join(", ")
            ));
        }
        let Some(number) = item.as_f64() else {
            return Ok(());
        };
        match (self.minimum, self.maximum) {
            (Some(least), _) if number < least => {
                Err(format!("{number} is less than the minimum {least}"))
            }
            (_, Some(most)) if number > most => {
                Err(format!("{number} is more than the maximum {most}"))
            }
            _ => Ok(()),
        }
    }

    /// Reads a value from the command line: text as it is, anything else as JSON.
    ///
    /// # Errors
    /// One sentence, if the text is no value of the type.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = if self.kind == ParamType::String {
            Value::from(text)
        } else {
            serde_json::from_str(text)
                .map_err(|_| format!("expected {}, found {text:?}", self.kind.as_str()))?
        };
        self.check(&value).map(|()| value)
    }
}

fn shown(value: &Value) -> String {
    // JSON escapes the control characters below a space, but neither delete nor those above.
    let text = value.to_string().replace(char::is_control, "\u{fffd}");
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}

/// A parameter that doesn't fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: {message}")]
#[non_exhaustive]
pub struct ParamProblem {
    /// Its name.
    pub name: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Checks given values, fills in defaults, and returns the whole object.
///
/// # Errors
/// Every parameter that is unknown, missing or wrong.
///
/// ```
/// use std::collections::BTreeMap;
/// use windlass_core::{LogicalName, ParamSpec, resolve_params};
/// let specs = BTreeMap::from([(LogicalName::new("region").unwrap(), ParamSpec::default())]);
/// assert!(resolve_params(&specs, &serde_json::Map::new()).is_err(), "it has no default");
/// ```
pub fn resolve_params(
    specs: &BTreeMap<LogicalName, ParamSpec>,
    given: &Map<String, Value>,
) -> Result<Map<String, Value>, Vec<ParamProblem>> {
    let mut problems = Vec::new();
    let mut resolved = Map::new();
    for (name, value) in given {
        let problem = match specs.get(name.as_str()) {
            Some(spec) => spec.check(value).err(),
            None => Some(match nearest(name, specs.keys().map(LogicalName::as_str)) {
                Some(known) => format!("is not declared; did you mean `{known}`?"),
                None => "is not declared by the pipeline".to_owned(),
            }),
        };
        match problem {
            Some(message) => problems.push(ParamProblem {
                name: name.clone(),
                message,
            }),
            None => drop(resolved.insert(name.clone(), value.clone())),
        }
    }
    for (name, spec) in specs {
        match &spec.default {
            _ if given.contains_key(name.as_str()) => {}
            Some(default) => drop(resolved.insert(name.to_string(), default.clone())),
            None => problems.push(ParamProblem {
                name: name.to_string(),
                message: format!("is needed and has no default ({})", spec.kind.as_str()),
            }),
        }
    }
    if problems.is_empty() {
        Ok(resolved)
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_without_its_control_characters() {
        let spec = ParamSpec {
            kind: ParamType::Integer,
            ..Default::default()
        };
        let said = spec.check(&Value::from("2\u{7f}\u{9b}\u{1b}")).unwrap_err();
        assert!(!said.contains(char::is_control), "{said:?}");
        let said = spec.parse("2\u{7f}\u{9b}\u{1b}").unwrap_err();
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}

//! The expression language, with what the engine relies on when it looks for names.

use serde_json::{Map, Value, json};
use windlass_core::{Expressions, Template};
use windlass_project::Jinja;

/// A scope that has what the seeds name.
fn scope() -> Value {
    json!({
        "params": { "region": "emea", "n": 3, "ratio": 0.25, "yes": true, "list": ["a", "b", "c"], "map": { "k": [1, 2] } },
        "run": { "id": "0193", "key": "p@dev@2026-11-03", "date": "2026-11-03", "pipeline": "p", "environment": "dev" },
        "steps": {
            "train": { "state": "succeeded", "result": { "auc": 0.8, "rows": [1, 2, 3] } },
            "re-use": { "state": "failed", "result": null },
        },
        "item": "emea", "item_index": 1,
    })
}

/// A template, evaluated in a scope of its own (JSON behind a zero byte), or in one that has a bit
/// of everything.
pub fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (text, own) = text.split_once('\0').unwrap_or((text, ""));
    let scope = match serde_json::from_str(own) {
        Ok(Value::Object(own)) => Value::Object(own),
        _ => scope(),
    };
    let (language, template) = (Jinja::new(), Template::new(text));
    let value = language.evaluate(&template, &scope);
    assert_eq!(value, language.evaluate(&template, &scope), "not pure");
    match &value {
        Ok(value) => assert!(value.to_string().len() <= 16 << 20, "too much"),
        Err(e) => placed(text, e),
    }
    match language.render(&template, &scope) {
        Ok(text) => assert!(text.len() <= 1 << 20, "too much text"),
        Err(e) => placed(text, &e),
    }
    match language.references(&template) {
        Err(e) => placed(text, &e),
        Ok(found) => {
            // The engine loads the results that are named, and no other.
            let mut less = Map::new();
            for name in &found.names {
                let Some(value) = scope.get(name) else {
                    continue;
                };
                let value = match value.as_object() {
                    Some(steps) if name == "steps" => {
                        let named = steps.iter().filter(|(n, _)| found.steps.contains(*n));
                        named.map(|(n, v)| (n.clone(), v.clone())).collect()
                    }
                    _ => value.clone(),
                };
                less.insert(name.clone(), value);
            }
            let same = language.evaluate(&template, &Value::Object(less));
            // Where a template fails, another name may be the first one that is missing.
            assert_eq!(
                value.ok(),
                same.ok(),
                "{text:?} uses a name that isn't among {found:?}"
            );
        }
    }
}

fn placed(text: &str, error: &windlass_core::ExpressionError) {
    assert!(!error.message.is_empty());
    if let Some((start, end)) = error.span {
        assert!(text.get(start..end).is_some(), "{start}..{end} of {text:?}");
    }
}

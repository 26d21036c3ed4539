//! Private parsers for fuzzing; not part of the API.

use crate::schedule;
use crate::yaml::{self, Node, Value};

/// Checks the fields of cron.
///
/// # Errors
/// What is wrong, and what to do.
pub fn cron(text: &str) -> Result<(), (String, String)> {
    schedule::check_cron(text)
}

/// Returns a YAML file printed again in flow style, which means the same; `None` if it has mistakes.
#[must_use]
pub fn reprint(text: &str) -> Option<String> {
    let (root, problems) = yaml::parse(text);
    let root = root.filter(|_| problems.is_empty())?;
    let mut out = String::new();
    print(&root, &mut out);
    Some(out)
}

fn print(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar { text, quoted } if !quoted && is_plain(text) => out.push_str(text),
        Value::Scalar { text, quoted } if !quoted && text.is_empty() => out.push_str("null"),
        Value::Scalar { text, .. } => quote(text, out),
        Value::List(items) => {
            out.push('[');
            for item in items {
                print(item, out);
                out.push_str(", ");
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (key, value) in entries {
                // A key without the mark may have 1,024 characters at most.
                out.push_str("? ");
                quote(&key.name, out);
                out.push_str(": ");
                print(value, out);
                out.push_str(", ");
            }
            out.push('}');
        }
    }
}

/// Returns true for scalars that would mean something else in quotes.
fn is_plain(text: &str) -> bool {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && text.parse::<f64>().is_ok();
    let words = ["~", "null", "true", "false"];
    is_number || words.contains(&text.to_ascii_lowercase().as_str())
}

/// Prints text in double quotes, with everything escaped that YAML doesn't print.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
}

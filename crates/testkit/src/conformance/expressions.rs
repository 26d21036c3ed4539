//! What every language of [`Expressions`] must do.
//!
//! Languages differ in what a hole may hold; what they share is the scope, dots between names, and
//! that whatever can't be filled is an error. A language without holes passes too: to it, every
//! hole is an error, and the promises about holes are skipped.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_core::{Expressions, Template};

pub use super::report::Report;
use super::report::{Found, Miss, broken, only_if, same, that};

impl From<windlass_core::ExpressionError> for Miss {
    fn from(e: windlass_core::ExpressionError) -> Self {
        Self::Broken(e.message)
    }
}

fn scope() -> Value {
    json!({
        "params": { "region": "emea", "n": 3, "rate": 0.5, "on": true, "list": [1, "two"] },
        "run": { "date": "2026-11-03" },
        "steps": { "train": { "state": "succeeded", "result": { "auc": 0.93 } } },
    })
}

/// Returns true if the language has holes at all.
fn fills(language: &dyn Expressions) -> bool {
    let hole = Template::new("{{ params.region }}");
    language.render(&hole, &scope()).is_ok()
}

fn text_without_holes_stays(language: &dyn Expressions) -> Found {
    for text in [
        "",
        "plain",
        "a } b { c",
        "line\nline\n",
        "ключ 鍵 \u{1f980}",
        "50% $HOME `x`",
    ] {
        let template = Template::new(text);
        same(
            "its text",
            &language.render(&template, &scope())?.as_str(),
            &text,
        )?;
        same(
            "its value",
            &language.evaluate(&template, &scope())?,
            &json!(text),
        )?;
        let references = language.references(&template)?;
        same("its references", &references, &Default::default())?;
    }
    Ok(())
}

fn a_name_of_the_scope_is_filled_in(language: &dyn Expressions) -> Found {
    only_if(fills(language))?;
    let template = Template::new("in/{{ params.region }}/{{ run.date }}.csv");
    let text = language.render(&template, &scope())?;
    same("the text", &text.as_str(), &"in/emea/2026-11-03.csv")
}

fn a_lone_hole_keeps_its_type(language: &dyn Expressions) -> Found {
    only_if(fills(language))?;
    for (name, value) in [
        ("params.n", json!(3)),
        ("params.rate", json!(0.5)),
        ("params.on", json!(true)),
        ("params.list", json!([1, "two"])),
        ("steps.train.result", json!({ "auc": 0.93 })),
    ] {
        let template = Template::new(format!("{{{{ {name} }}}}"));
        same(name, &language.evaluate(&template, &scope())?, &value)?;
    }
    let more = Template::new("n={{ params.n }}");
    same(
        "a hole in text",
        &language.evaluate(&more, &scope())?,
        &json!("n=3"),
    )
}

fn an_unknown_name_is_an_error(language: &dyn Expressions) -> Found {
    for text in [
        "{{ nothing }}",
        "{{ params.nothing }}",
        "x {{ steps.none.result }}",
    ] {
        let template = Template::new(text);
        let (rendered, value) = (
            language.render(&template, &scope()),
            language.evaluate(&template, &scope()),
        );
        that(rendered.is_err() && value.is_err(), || {
            format!("`{text}` gave {rendered:?} and {value:?}")
        })?;
    }
    Ok(())
}

fn broken_text_is_an_error_everywhere(language: &dyn Expressions) -> Found {
    for text in ["{{", "{{ params.", "{{ }}", "a {{ ) }}", "{% nonsense"] {
        let template = Template::new(text);
        let all = [
            language.render(&template, &scope()).err(),
            language.evaluate(&template, &scope()).err(),
            language.references(&template).err(),
        ];
        for error in all {
            match error {
                None => return broken(format!("`{text}` was taken")),
                Some(e) => that(!e.message.is_empty(), || format!("`{text}`: no message"))?,
            }
        }
    }
    Ok(())
}

fn references_name_what_a_template_needs(language: &dyn Expressions) -> Found {
    only_if(fills(language))?;
    let text = "{{ params.region }} {{ params.n }} {{ steps.train.result.auc }} {{ run.date }}";
    let found = language.references(&Template::new(text))?;
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    same("params", &found.params, &set(&["n", "region"]))?;
    same("steps", &found.steps, &set(&["train"]))?;
    let all = found.names.is_superset(&set(&["run"]));
    that(all, || format!("`run` is not among {:?}", found.names))
}

fn the_same_gives_the_same(language: &dyn Expressions) -> Found {
    for text in ["plain", "{{ params.region }}", "{{ nothing }}"] {
        let template = Template::new(text);
        let first = language.evaluate(&template, &scope());
        for _ in 0..3 {
            same(text, &language.evaluate(&template, &scope()), &first)?;
        }
    }
    Ok(())
}

/// Tries every promise.
pub fn check(language: &dyn Expressions) -> Report {
    let mut report = Report::default();
    macro_rules! promises {
        ($($promise:ident,)*) => {$(
            report.note(stringify!($promise), $promise(language));
        )*};
    }
    promises! {
        text_without_holes_stays,
        a_name_of_the_scope_is_filled_in,
        a_lone_hole_keeps_its_type,
        an_unknown_name_is_an_error,
        broken_text_is_an_error_everywhere,
        references_name_what_a_template_needs,
        the_same_gives_the_same,
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub fn hold(language: &dyn Expressions) -> Report {
    check(language).or_panic(&format_args!("{language:?}"))
}

//! What the language takes, refuses and finds.

use serde_json::json;

use super::*;

fn refused(text: &str) -> String {
    let j = Jinja::new();
    j.references(&Template::new(text)).unwrap_err().message
}

#[test]
fn names_are_found_in_both_forms() {
    let found = Jinja::new()
        .references(&Template::new(
            "steps['no'] {{ steps.train.result.auc + steps['re-use'].result + params.x + item }} {{ 'steps.not' }}",
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
fn names_that_a_statement_makes_are_not_asked_for() {
    let found = Jinja::new()
        .references(&Template::new(
            "{% for steps in params.list %}{{ steps }}{{ loop.index }}{% endfor %}{{ dict(run=1) }}",
        ))
        .unwrap();
    assert_eq!(found.names, ["params".to_owned()].into());
    assert!(found.steps.is_empty());
}

#[test]
fn the_place_of_an_error_lies_in_the_template() {
    let j = Jinja::new();
    let place = |text: &str| {
        let template = Template::new(text);
        let error = j.evaluate(&template, &json!({ "a": 1 })).unwrap_err();
        let (start, end) = error.span.unwrap();
        text.get(start..end).unwrap().to_owned()
    };
    assert_eq!(place("{{ {'steps }}"), "");
    assert_eq!(place("  {{- a.b.c -}}"), ".b.c");
    assert_eq!(place("n={{ a.b.c }}"), ".b.c");
}

#[test]
fn names_are_found_wherever_they_stand() {
    let find = |text: &str| Jinja::new().references(&Template::new(text)).unwrap();
    for text in [
        "{{ steps.a.result[0:2] }}",
        "{{ x[:steps.a.result] }}",
        "{% set params = params.x %}{{ steps.a.result }}",
        "{% set steps = steps.a %}{{ params.x }}",
        "{% with steps = steps.a %}{% endwith %}",
        "{% filter default(steps.a.result) %}{% endfilter %}",
        "{% set y | default(steps.a.result) %}{% endset %}",
        "{% autoescape steps.a.result %}{% endautoescape %}",
    ] {
        assert_eq!(find(text).steps, ["a".to_owned()].into(), "{text}");
    }
    assert!(find("{%- raw %}{{ steps.a }}{% endraw %}").steps.is_empty());
    assert!(
        find("{% with a = 1, b = a %}{{ b }}{% endwith %}")
            .names
            .is_empty()
    );
}

/// Each makes gigabytes, or takes hours, unless something stops it.
#[test]
fn work_and_text_are_bounded() {
    let j = Jinja::new();
    let scope = json!({ "a": "x".repeat(600_000), "l": (0..1_000).collect::<Vec<_>>() });
    let double = "{% set s = s ~ s %}".repeat(40);
    let grow = "| replace('x', 'xxxxxxxx') ".repeat(30);
    let nested = "{% for a in l %}".repeat(8) + &"{% endfor %}".repeat(8);
    let bind = format!(
        "{{% for a in ['xx'] %}}{}{}{{% endfor %}}",
        "{% for a in [a ~ a] %}".repeat(40),
        "{% endfor %}".repeat(40)
    );
    let calls = format!(
        "{{% macro m(x) %}}{{{{ x ~ x }}}}{{% endmacro %}}{{{{ {}'xx'{} }}}}",
        "m(".repeat(40),
        ")".repeat(40)
    );
    for text in [
        "{{ a }}{{ a }}",
        &format!("{{% set s = 'xx' %}}{double}{{{{ s | length }}}}"),
        &format!("{{{{ ('x' {grow}) | length }}}}"),
        &nested,
        &bind,
        &calls,
        "{{ ('x' * 99999999) | length }}",
        "{{ ([1] * 99999999) | list | length }}",
        "{{ range(100000000) | list | length }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ 'x' | indent(999999999, true) }}",
        "{{ (l | join(a)) | length }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ l | map('string') | map('replace', '1', a) | list | length }}",
    ] {
        let shown: String = text.chars().take(60).collect();
        assert!(j.render(&Template::new(text), &scope).is_err(), "{shown}");
    }
}

#[test]
fn a_filter_that_does_not_exist_is_found_before_anything_runs() {
    assert_eq!(
        refused("{{ params.x | uper }}"),
        "there is no filter `uper`; did you mean `upper`?"
    );
    assert!(refused("{% if false %}{{ 1 | nope }}{% endif %}").contains("nope"));
    assert!(refused("{{ params.x is not evn }}").contains("did you mean `even`?"));
}

#[test]
fn fields_that_do_not_exist_are_found() {
    assert!(refused("{{ run.dat }}").contains("did you mean `date`?"));
    assert!(refused("{{ steps.a.results }}").contains("did you mean `result`?"));
    assert!(refused("{{ steps[params.x].result }}").contains("needs the name"));
    assert!(refused("{{ steps | length }}").contains("needs the name"));
    assert!(refused("{{ params.x + }}").starts_with("the expression is not valid"));
}

#[test]
fn the_lists_of_filters_and_tests_are_those_of_the_language() {
    let mut j = Jinja::new();
    let known = |text: String| {
        let environment = Jinja::new().environment;
        match environment.render_str(&text, ()) {
            Ok(_) => true,
            Err(e) => !matches!(e.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest),
        }
    };
    for filter in FILTERS {
        assert!(known(format!("{{{{ 1 | {filter} }}}}")), "{filter}");
        j.environment.remove_filter(filter);
    }
    for test in TESTS {
        assert!(known(format!("{{{{ 1 is {test} }}}}")), "{test}");
        j.environment.remove_test(test);
    }
    let left = format!("{:?}", j.environment);
    for builtin in ["replace", "tojson", "urlencode"] {
        assert!(!left.contains(&format!("\"{builtin}\"")), "{left}");
    }
}

#[test]
fn one_hole_keeps_its_type() {
    let scope = json!({ "params": { "list": [1, 2], "yes": true } });
    let j = Jinja::new();
    let value = |text: &str| j.evaluate(&Template::new(text), &scope);
    assert_eq!(value("{{ params.list }}").unwrap(), json!([1, 2]));
    assert_eq!(value(" {{- params.yes -}} ").unwrap(), json!(true));
    assert_eq!(value("n={{ params.list[0] }}").unwrap(), json!("n=1"));
    assert_eq!(
        value("{{ {'a': {'b': 1}} }}").unwrap(),
        json!({"a": {"b": 1}})
    );
    assert_eq!(value("{{ none }}").unwrap(), Value::Null);
    assert_eq!(value("{{ 1 }}{{ 2 }}").unwrap(), json!("12"));
    assert!(value("{{ 1e308 * 10 }}").is_err());
}

#[test]
fn dates_paths_and_titles_are_cut_as_documented() {
    let scope = json!({ "run": { "date": "2026-11-03" } });
    let render = |text: &str| Jinja::new().render(&Template::new(text), &scope).unwrap();
    assert_eq!(
        render("{{ run.date | year }} {{ run.date | month }} {{ run.date | day }}"),
        "2026 2026-11 03"
    );
    assert_eq!(
        render("{{ 'Größe & more' | slug }} {{ 'a/b/c.csv' | basename }}"),
        "gr-e-more c.csv"
    );
    assert_eq!(render("{{ {'a': [1, 'x']} | json }}"), r#"{"a":[1,"x"]}"#);
    let wrong = Jinja::new().render(&Template::new("{{ 'soon' | month }}"), &scope);
    assert!(wrong.unwrap_err().message.contains("soon"));
}

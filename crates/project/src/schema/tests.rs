//! Whether the schemas and the loader are of one mind.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;

use super::*;
use crate::decode::decode;
use crate::yaml;

fn schemas() -> [(&'static str, Value); 3] {
    [
        ("project", project()),
        ("pipeline", pipeline()),
        ("environment", environment()),
    ]
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::new(schema).unwrap()
}

/// Returns the schema of a file by its place in a project.
fn schema_of(path: &Path) -> Option<Value> {
    let folder = path.parent()?.file_name()?.to_str()?;
    match (folder, path.file_name()?.to_str()?) {
        (_, "windlass.yaml") => Some(project()),
        ("pipelines", _) => Some(pipeline()),
        ("environments", _) => Some(environment()),
        _ => None,
    }
}

/// Returns what a file means to an editor; `None` if it is no YAML of ours.
fn value_of(text: &str) -> Option<Value> {
    let (root, problems) = yaml::parse(text);
    let root = root.filter(|_| problems.is_empty())?;
    decode::<Value>(&root).value
}

fn yaml_files(below: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![below.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    found.sort();
    found
}

fn errors(path: &Path) -> Option<Vec<String>> {
    let value = value_of(&std::fs::read_to_string(path).ok()?)?;
    let validator = validator(&schema_of(path)?);
    let all = validator.iter_errors(&value);
    Some(all.map(|e| format!("{}: {e}", e.instance_path())).collect())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn each_schema_is_one_of_draft_2020_12() {
    for (name, schema) in schemas() {
        assert_eq!(
            schema["$schema"], "https://json-schema.org/draft/2020-12/schema",
            "{name}"
        );
        jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn every_property_is_described() {
    fn walk(at: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let at = format!("{at}/{key}");
                    let properties = value.as_object().filter(|_| key == "properties");
                    for (name, property) in properties.into_iter().flatten() {
                        let text = property.get("description").and_then(Value::as_str);
                        if text.is_none_or(|t| t.len() < 5) {
                            found.push(format!("{at}/{name}"));
                        }
                    }
                    walk(&at, value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|i| walk(at, i, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (name, schema) in schemas() {
        walk(name, &schema, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_good_file_is_valid() {
    let mut number = 0;
    for folder in ["examples", "crates/project/tests/base"] {
        for file in yaml_files(&root().join(folder)) {
            if let Some(errors) = errors(&file) {
                assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
                number += 1;
            }
        }
    }
    assert!(number >= 8, "{number} files");
}

/// An import writes what a person would, so an editor must not complain about that either.
#[test]
fn what_an_import_writes_is_valid() {
    let instance = br#"{ "name": "pair", "schemaVersion": "1.5", "workflow": { "specification": {
        "tasks": [{"name": "plot", "id": "plot#2", "parents": ["fit#1"], "inputFiles": ["fit.csv"]},
            {"name": "fit", "id": "fit#1", "outputFiles": ["fit.csv"]}],
        "files": [{"id": "fit.csv", "sizeInBytes": 7000000}] } } }"#;
    let folder = tempfile::tempdir().unwrap();
    let options = crate::import::wfformat::Options {
        slots: Some(2),
        ..Default::default()
    };
    let project = crate::import::wfformat::import(instance, &options).unwrap();
    project.write(folder.path(), true).unwrap();
    let files = yaml_files(folder.path());
    assert_eq!(files.len(), 3);
    for file in files {
        assert_eq!(errors(&file), Some(Vec::new()), "{}", file.display());
    }
}

/// What is wrong with the shape of one file is seen by an editor; what needs the other files, the
/// graph or the expression language is not.
#[test]
fn broken_files_are_rejected_where_a_schema_can_tell() {
    let broken = root().join("crates/project/tests/broken");
    let mut seen = Vec::new();
    for file in yaml_files(&broken) {
        let name = file.strip_prefix(&broken).unwrap().display().to_string();
        match errors(&file) {
            Some(errors) if errors.is_empty() => seen.push(format!("accepted  {name}")),
            Some(_) => seen.push(format!("rejected  {name}")),
            None => {}
        }
    }
    seen.sort();
    insta::assert_snapshot!(seen.join("\n"));
}

#[test]
fn keys_that_nobody_knows_are_rejected_everywhere() {
    for (schema, text) in [
        (project(), "name: demo\nnam: x"),
        (
            pipeline(),
            "name: p\nsteps: [{ name: a, check: x }]\nretries: 3",
        ),
        (
            pipeline(),
            "name: p\nsteps: [{ name: a, check: x, timeot: 5s }]",
        ),
        (
            pipeline(),
            "name: p\nsteps: [{ name: a, run: { command: [x], shell: true } }]",
        ),
        (
            pipeline(),
            "name: p\nsteps: [{ name: a, check: x, retry: { attempts: 3 } }]",
        ),
        (
            pipeline(),
            "name: p\nsteps: [{ name: a, check: x, map: { over: [1], as: i, parallel: 3 } }]",
        ),
        (pipeline(), "name: p\ntemplate: t\nsteps: []"),
        (pipeline(), "name: p\ntemplate: t\nwit: {}"),
        (
            pipeline(),
            "name: p\nschedule: { cron: '* * * * *', zone: UTC }\nsteps: [{ name: a, check: x }]",
        ),
        (
            environment(),
            "store: { sqlite: a }\nrun_storage: r\nprotectd: true",
        ),
        (
            environment(),
            "store: { sqlite: a }\nrun_storage: r\nstorage: { r: { fil: x } }",
        ),
        (
            environment(),
            "store: { sqlite: a, postgres: b }\nrun_storage: r",
        ),
        (
            environment(),
            "store: { sqlite: a }\nrun_storage: r\ncompute: { c: { process: { cpus: 2 } } }",
        ),
        (
            environment(),
            "store: { sqlite: a }\nrun_storage: r\nnotifiers: { l: { log: { level: 3 } } }",
        ),
    ] {
        let value = value_of(text).unwrap();
        assert!(!validator(&schema).is_valid(&value), "{text}");
    }
}

#[test]
fn keys_that_must_be_there_are_asked_for() {
    for (schema, text) in [
        (project(), "schema: 1"),
        (pipeline(), "steps: [{ name: a, check: x }]"),
        (pipeline(), "name: p"),
        (pipeline(), "name: p\nsteps: []"),
        (pipeline(), "name: p\nsteps: [{ check: x }]"),
        (pipeline(), "template: t"),
        (environment(), "run_storage: r"),
        (environment(), "store: { sqlite: a }"),
    ] {
        let value = value_of(text).unwrap();
        assert!(!validator(&schema).is_valid(&value), "{text}");
    }
}

/// Amounts are the one place where a pattern repeats what a parser says.
#[test]
fn amounts_mean_the_same_to_both() {
    use windlass_core::units::{parse_bytes, parse_duration};
    let validator = validator(&pipeline());
    let valid = |key: &str, amount: &str| {
        let text = format!("name: p\nsteps: [{{ name: a, check: x, {key} }}]");
        validator.is_valid(&value_of(&text.replace("AMOUNT", amount)).unwrap())
    };
    for text in [
        "10s",
        "2h30m",
        "1.5d",
        "250ms",
        "2h 30m",
        "90 s",
        "10",
        "10 parsecs",
        "-5s",
        "s",
        "1.s",
        ".5s",
        "1e3s",
        "1..2s",
        "10S",
    ] {
        let wanted = parse_duration(text).is_ok();
        assert_eq!(valid("timeout: \"AMOUNT\"", text), wanted, "{text}");
    }
    for text in [
        "4GiB", "4gib", "1.5TB", "4K", "4Ki", "4KB", "4 MiB", "100B", "100", "4G", "lots", "-1GiB",
        "1EiB", "4GiB4", "1.GiB", ".5GiB", "iB",
    ] {
        let wanted = parse_bytes(text).is_ok();
        let key = "resources: { memory: \"AMOUNT\" }";
        assert_eq!(valid(key, text), wanted, "{text}");
    }
}

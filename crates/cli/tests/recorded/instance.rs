//! What an instance says, read apart from the importer, so that one can't hide the other's mistakes.
//!
//! It reads what real files have and no more: an importer is checked with it, not replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// From the task before to the task behind, by their places in the file.
pub(crate) type Edges = BTreeSet<(usize, usize)>;

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) inputs: BTreeSet<String>,
    pub(crate) outputs: BTreeSet<String>,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) version: String,
    pub(crate) tasks: Vec<Task>,
    /// Recorded bytes of each file.
    pub(crate) sizes: BTreeMap<String, u64>,
    /// Edges that `parents` and `children` declare.
    pub(crate) declared: Edges,
}

impl Instance {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let root: Value = if path.extension().is_some_and(|e| e == "gz") {
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
            decoder.read_to_end(&mut plain).unwrap();
            serde_json::from_slice(&plain).unwrap()
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        let workflow = &root["workflow"];
        let (tasks, sizes) = match workflow.get("specification") {
            Some(specification) => split(specification),
            None => inline(list(workflow, "tasks").or_else(|| list(workflow, "jobs"))),
        };
        let places: BTreeMap<&str, usize> = tasks
            .iter()
            .enumerate()
            .flat_map(|(i, t)| t.1.iter().map(move |name| (*name, i)))
            .collect();
        let mut declared = Edges::new();
        for (i, (raw, ..)) in tasks.iter().enumerate() {
            let others = |key| texts(raw, key).into_iter().map(|n| places[n]);
            declared.extend(others("parents").map(|parent| (parent, i)));
            declared.extend(others("children").map(|child| (i, child)));
        }
        Self {
            version: root["schemaVersion"].as_str().unwrap().to_owned(),
            tasks: tasks.into_iter().map(|(.., task)| task).collect(),
            sizes,
            declared,
        }
    }

    /// Returns the edges from who writes a file to who reads it.
    pub(crate) fn by_files(&self) -> Edges {
        let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, task) in self.tasks.iter().enumerate() {
            for file in &task.outputs {
                let other = writers.insert(file, i);
                assert_eq!(other, None, "two tasks write {file}: which one is read?");
            }
        }
        let mut edges = Edges::new();
        for (i, task) in self.tasks.iter().enumerate() {
            let from = task.inputs.iter().filter_map(|f| writers.get(&**f));
            edges.extend(from.filter(|w| **w != i).map(|w| (*w, i)));
        }
        edges
    }
}

/// A task as the file has it, the names that others call it by, and what was understood of it.
type Raw<'a> = (&'a Value, Vec<&'a str>, Task);

/// Versions 1.5 and 1.6.
fn split(specification: &Value) -> (Vec<Raw<'_>>, BTreeMap<String, u64>) {
    let files = list(specification, "files").into_iter().flatten();
    let sizes = files.map(|f| {
        let id = f["id"].as_str().unwrap().to_owned();
        (id, f["sizeInBytes"].as_f64().unwrap() as u64)
    });
    let tasks = list(specification, "tasks").into_iter().flatten();
    let tasks = tasks.map(|raw| {
        let id = raw["id"].as_str().unwrap();
        let files = |key| texts(raw, key).into_iter().map(str::to_owned).collect();
        let task = Task {
            id: id.to_owned(),
            inputs: files("inputFiles"),
            outputs: files("outputFiles"),
        };
        (raw, vec![id], task)
    });
    (tasks.collect(), sizes.collect())
}

/// Versions 1.0 to 1.4. From 1.2 on a task has an id beside its name. The tool that migrates
/// instances joins both to the id that the task has from 1.5 on, unless the name says it already.
fn inline(tasks: Option<&Vec<Value>>) -> (Vec<Raw<'_>>, BTreeMap<String, u64>) {
    let mut sizes = BTreeMap::new();
    let tasks = tasks.into_iter().flatten().map(|raw| {
        let name = raw["name"].as_str().unwrap();
        let id = raw["id"].as_str();
        let mut task = Task {
            id: match id {
                Some(id) if !name.contains(id) => format!("{name}_{id}"),
                _ => name.to_owned(),
            },
            inputs: BTreeSet::new(),
            outputs: BTreeSet::new(),
        };
        for file in list(raw, "files").into_iter().flatten() {
            let path = file["path"].as_str().unwrap_or_default();
            let name = format!("{path}{}", file["name"].as_str().unwrap());
            let size = file.get("sizeInBytes").or_else(|| file.get("size"));
            sizes.insert(name.clone(), size.unwrap().as_f64().unwrap() as u64);
            match file["link"].as_str().unwrap() {
                "input" => task.inputs.insert(name),
                _ => task.outputs.insert(name),
            };
        }
        (raw, std::iter::once(name).chain(id).collect(), task)
    });
    (tasks.collect(), sizes)
}

fn list<'a>(value: &'a Value, key: &str) -> Option<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array)
}

fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let items = list(value, key).into_iter().flatten();
    items.map(|item| item.as_str().unwrap()).collect()
}

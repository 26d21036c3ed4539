//! `graph`: pictures of pipelines.

use super::kit::{Done, example, windlass};

fn graph(args: &[&str]) -> Done {
    let mut all = vec!["graph", "churn"];
    all.extend(args);
    windlass(&all)
        .current_dir(example("churn"))
        .output()
        .unwrap()
        .into()
}

#[test]
fn the_example_as_dot_is_what_another_parser_reads() {
    let done = graph(&[]).expect(0);
    insta::assert_snapshot!("churn_dot", done.out);
    let parsed = layout::gv::DotParser::new(&done.out).process();
    assert!(parsed.is_ok(), "{parsed:?}");
}

#[test]
fn the_example_as_a_flowchart() {
    insta::assert_snapshot!(
        "churn_mermaid",
        graph(&["--format", "mermaid"]).expect(0).out
    );
}

#[test]
fn the_name_of_the_file_says_how_to_draw() {
    let folder = tempfile::tempdir().unwrap();
    for (name, start) in [
        ("a.svg", "<svg"),
        ("a.mmd", "flowchart"),
        ("a.dot", "digraph"),
        ("a.txt", "digraph"),
    ] {
        let file = folder.path().join(name);
        let done = graph(&["--out", file.to_str().unwrap()]).expect(0);
        assert_eq!(done.out, "");
        assert!(
            std::fs::read_to_string(&file).unwrap().starts_with(start),
            "{name}"
        );
    }
    let nowhere = folder.path().join("none/a.svg");
    let done = graph(&["--out", nowhere.to_str().unwrap()]).expect(2);
    assert!(
        done.err.contains("none/a.svg can't be written"),
        "{}",
        done.err
    );
}

#[test]
fn a_graph_as_data_names_steps_and_conditions() {
    let graph = graph(&["--json"]).expect(0).json();
    assert_eq!(graph["pipeline"], "churn");
    assert_eq!(graph["steps"].as_array().unwrap().len(), 11);
    let edges = graph["edges"].as_array().unwrap();
    let failed = serde_json::json!({ "from": "train", "to": "baseline", "on": ["failed"] });
    assert!(edges.contains(&failed), "{edges:?}");
}

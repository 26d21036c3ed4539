//! Projects that load.

use std::path::Path;

use windlass_project::Project;

use crate::support::Folder;

mod support;

#[test]
fn the_example_loads_in_both_environments() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/churn");
    for environment in [None, Some("prod")] {
        let project = Project::load(&root, environment).unwrap_or_else(|report| panic!("{report}"));
        let names: Vec<_> = project
            .pipelines
            .iter()
            .map(|p| p.spec.name.to_string())
            .collect();
        assert_eq!(names, ["churn", "weather"]);
        assert!(project.warnings.is_empty(), "{:?}", project.warnings);
    }
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_change_nothing() {
    let unix = "name: p\nowner: team-a\nsteps:\n  - name: a\n    check: |\n      {{ true\n      and true }}\n";
    let windows = format!("\u{feff}{}", unix.replace('\n', "\r\n"));
    let loaded = |text: &str| {
        let folder = Folder::base();
        folder.write("pipelines/p.yaml", text);
        let project = folder.load().unwrap_or_else(|report| panic!("{report}"));
        project.pipelines[0].spec.clone()
    };
    assert_eq!(loaded(unix), loaded(&windows));
}

/// A file may have 200,000 values; a list that is longer comes from a parameter or a result.
#[test]
fn a_map_over_a_hundred_thousand_and_one_literals_loads() {
    let folder = Folder::base();
    let items = "1,".repeat(100_001);
    folder.write(
        "pipelines/p.yaml",
        format!("name: p\nowner: team-a\nsteps: [{{ name: a, map: {{ over: [{items}], as: i }}, check: x }}]"),
    );
    assert!(folder.load().is_ok());
}

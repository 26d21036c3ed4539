//! Projects that load.

use std::path::Path;

use windlass_project::Project;

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

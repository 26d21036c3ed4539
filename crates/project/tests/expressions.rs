//! The language of pipeline files against the suite of its seam.

use windlass_project::Jinja;
use windlass_testkit::conformance::expressions;

#[test]
fn the_language_of_pipelines_keeps_the_contract() {
    let report = expressions::hold(&Jinja::new());
    assert_eq!((report.held.len(), report.skipped.len()), (7, 0));
}

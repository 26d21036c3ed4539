//! Recorded runs of other systems.

use windlass_project::Project;
use windlass_project::import::wfformat;

use crate::spec::reads_back;

/// Instances that make larger files are not written: a disk tells nothing new about them.
const MOST_TASKS: usize = 200;

/// An instance in WfFormat: what is imported can be written, and loads as what was imported.
pub fn wfformat(bytes: &[u8]) {
    let project = match wfformat::import(bytes, &wfformat::Options::default()) {
        Ok(project) => project,
        Err(e) => {
            let text = e.to_string();
            assert!(!text.is_empty() && text.len() < 100_000, "{text}");
            return;
        }
    };
    let pipeline = project.pipeline();
    assert_eq!(pipeline.steps.len(), project.runtimes().len());
    reads_back(pipeline);
    if pipeline.steps.len() > MOST_TASKS || bytes.len() > 200_000 {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    match project.write(folder.path(), false) {
        Ok(()) => {}
        Err(e) if e.kind() == windlass_project::import::ImportErrorKind::TooLarge => return,
        Err(e) => panic!("it can't be written: {e}"),
    }
    let loaded = Project::load(folder.path(), None)
        .unwrap_or_else(|report| panic!("what was imported doesn't load: {report}"));
    assert_eq!(&loaded.pipelines[0].spec, pipeline);
}

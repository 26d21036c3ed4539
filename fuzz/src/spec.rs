//! The canonical JSON of a pipeline, which a store keeps and a digest names.

use windlass_core::{Checks, Implementations, Pipeline, PipelineSpec, validate};

/// JSON of a pipeline: read, written and read again it is the same, and so is its digest.
pub fn spec(bytes: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<PipelineSpec>(bytes) {
        reads_back(&spec);
        if let Err(problems) = validate(&spec, &Checks::default()) {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.to_string().len() < 10_000, "{problem}");
            }
        }
    }
}

/// Asserts that a pipeline is the same one after it was stored.
pub(crate) fn reads_back(spec: &PipelineSpec) {
    let json = serde_json::to_string(spec).expect("a pipeline can be written");
    let back: PipelineSpec = serde_json::from_str(&json)
        .unwrap_or_else(|e| panic!("what was written can't be read: {e}\n{json}"));
    let again = serde_json::to_string(&back).expect("a pipeline can be written");
    assert_eq!(json, again, "its canonical JSON changes");
    assert_eq!(*spec, back, "it changes on its way through JSON");
    let digest = |spec: PipelineSpec| {
        let pipeline = Pipeline::new(spec, Implementations::default(), &Checks::default());
        pipeline.ok().map(|p| p.digest())
    };
    assert_eq!(digest(spec.clone()), digest(back));
}

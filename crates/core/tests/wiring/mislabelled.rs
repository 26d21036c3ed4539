//! The reference is given a type that the code doesn't return.

use windlass_core::{Pipeline, StepRef};

fn main() {
    let mut p = Pipeline::builder("wrong");
    let _number: StepRef<u64> = p.add("number", |_| async { Ok("one".to_owned()) });
}

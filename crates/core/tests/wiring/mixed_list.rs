//! A list of steps that hand on different types.

use windlass_core::Pipeline;

fn main() {
    let mut p = Pipeline::builder("wrong");
    let number = p.add("number", |_| async { Ok(1_u64) });
    let text = p.add("text", |_| async { Ok("one".to_owned()) });
    p.add_with("all", vec![number, text], |_, all: Vec<u64>| async move {
        Ok(all.len())
    });
}

//! The step before hands on a list, the code takes text.

use windlass_core::Pipeline;

fn main() {
    let mut p = Pipeline::builder("wrong");
    let numbers = p.add("numbers", |_| async { Ok(vec![1_u64, 2]) });
    p.add_with("shout", numbers, |_, text: String| async move {
        Ok(text.to_uppercase())
    });
}

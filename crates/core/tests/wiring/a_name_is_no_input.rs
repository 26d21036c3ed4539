//! A step is wired by its reference, not by its name.

use windlass_core::Pipeline;

fn main() {
    let mut p = Pipeline::builder("wrong");
    p.add("number", |_| async { Ok(1_u64) });
    p.add_with("next", "number", |_, n: u64| async move { Ok(n + 1) });
}

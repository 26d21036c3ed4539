//! The code takes two values, only one is wired.

use windlass_core::Pipeline;

fn main() {
    let mut p = Pipeline::builder("wrong");
    let number = p.add("number", |_| async { Ok(1_u64) });
    p.add_with("sum", number, |_, (a, b): (u64, u64)| async move { Ok(a + b) });
}

//! The tuple has the right types in the wrong order.

use windlass_core::Pipeline;

fn main() {
    let mut p = Pipeline::builder("wrong");
    let number = p.add("number", |_| async { Ok(1_u64) });
    let text = p.add("text", |_| async { Ok("one".to_owned()) });
    p.add_with(
        "repeat",
        (number, text),
        |_, (t, n): (String, u64)| async move { Ok(t.repeat(n as usize)) },
    );
}

//! A step hands on something that can't be written as JSON.

use windlass_core::Pipeline;

struct Socket;

fn main() {
    let mut p = Pipeline::builder("wrong");
    p.add("open", |_| async { Ok(Socket) });
}

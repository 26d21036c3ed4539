//! Wiring steps by what they hand on: the right way works, a wrong one doesn't compile.
//!
//! Each file below `wiring/` is one mistake with the compiler's words for it. The words change with
//! the compiler: after an update, look at the difference and run again with `TRYBUILD=overwrite`.

use serde::{Deserialize, Serialize};
use windlass_core::{Pipeline, StepRef};

#[test]
fn wrong_wiring_does_not_compile() {
    // Only mistakes, no good programs: so nothing is linked, and this stays a matter of seconds.
    trybuild::TestCases::new().compile_fail("tests/wiring/*.rs");
}

#[test]
fn one_input_tuples_and_lists_make_edges() {
    let mut p = Pipeline::builder("shapes");
    let number = p.add("number", |_| async { Ok(1_u64) });
    let text = p.add("text", |_| async { Ok("one".to_owned()) });
    let list = p.add("list", |_| async { Ok(vec![1.5_f64]) });

    let one: StepRef<u64> = p.add_with("one", number.clone(), |_, n: u64| async move { Ok(n) });
    p.add_with(
        "two",
        (number.clone(), text.clone()),
        |_, (n, t): (u64, String)| async move { Ok(t.repeat(n as usize)) },
    );
    p.add_with(
        "many",
        vec![number.clone(), one.clone()],
        |_, ns: Vec<u64>| async move { Ok(ns.iter().sum::<u64>()) },
    );
    p.add_with(
        "nested",
        (vec![number.clone(), one.clone()], list.clone()),
        |_, (ns, fs): (Vec<u64>, Vec<f64>)| async move { Ok(ns.len() + fs.len()) },
    );
    p.add_with(
        "six",
        (
            number.clone(),
            text,
            list,
            one.clone(),
            number.clone(),
            one.clone(),
        ),
        |_, (a, b, c, d, e, f): (u64, String, Vec<f64>, u64, u64, u64)| async move {
            Ok(a + d + e + f + b.len() as u64 + c.len() as u64)
        },
    );

    let pipeline = p.build().unwrap();
    let graph = pipeline.graph();
    let before =
        |step: u32| -> Vec<u32> { graph.predecessors(step).iter().map(|p| p.step).collect() };
    assert_eq!(before(3), [0]);
    assert_eq!(before(4), [0, 1]);
    assert_eq!(before(5), [0, 3]);
    assert_eq!(before(6), [0, 3, 2]);
}

#[derive(Serialize, Deserialize)]
struct Model {
    auc: f64,
}

#[test]
fn steps_hand_on_any_type_that_is_json() {
    let mut p = Pipeline::builder("own-types");
    let model = p.add("train", |_| async { Ok(Model { auc: 0.9 }) });
    let good = p.add_with("judge", model, |_, model: Model| async move {
        Ok(model.auc > 0.8)
    });
    p.add_with("report", good, |_, good: bool| async move {
        assert!(good);
        Ok(())
    });
    assert_eq!(p.build().unwrap().graph().edge_count(), 2);
}

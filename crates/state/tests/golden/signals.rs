//! What files hold in addition since their second schema: signals, and runs that rerun another.

use windlass_core::run_store::{Change, RerunOf, Transition};
use windlass_core::{RunKey, RunState, Signal, SignalId, SignalRecord, StartSignal};

use super::content::{Rows, at, json, logical, run_id, version};

pub(crate) fn rerun() -> Rows {
    let mut rows = Rows::new(5, RunState::Queued);
    rows.run.rerun = Some(RerunOf::new(run_id(2), vec!["score".parse().unwrap()]));
    rows
}

pub(crate) fn signals() -> Vec<SignalRecord> {
    let start = StartSignal::new(
        RunKey::new("churn@dev@next").unwrap(),
        "churn".to_owned(),
        version().digest,
        logical("dev"),
        "2026-11-04".parse().unwrap(),
        json(r#"{"region":"apac"}"#),
    );
    let reason = "wrong data: \"emea\"\n".to_owned();
    let run = run_id(3);
    let signals = [
        Signal::Cancel { run, reason },
        Signal::Pause { run },
        Signal::Resume { run: run_id(4) },
        Signal::Start(Box::new(start)),
    ];
    let numbered = (1..).zip(signals);
    numbered
        .map(|(n, signal)| SignalRecord::new(SignalId::new(n), signal, at(n as i64)))
        .collect()
}

pub(crate) fn transitions() -> Vec<Transition> {
    let left = signals().into_iter().map(Box::new).map(Change::AddSignal);
    vec![rerun().write(), Transition::new(left.collect())]
}

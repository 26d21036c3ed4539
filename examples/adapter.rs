//! Adapters as somebody else would write them: a compute target and a notifier, each against the
//! suite that the kit has for it.
//!
//! `cargo run --example adapter --features process` runs both suites and prints every promise that was kept.

#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::{error::Error, path::Path, sync::Arc};

use windlass::{ComputeTarget, Notifier, Redactor, host::Ledger};
use windlass_testkit::conformance::{compute, notifier};

#[path = "adapter/json_lines.rs"]
mod json_lines;
#[path = "adapter/plain_processes.rs"]
mod plain_processes;

use json_lines::JsonLines;
use plain_processes::PlainProcesses;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let open = |state: &Path| {
        let ledger = Ledger::open(state).expect("a new folder can be used");
        Arc::new(PlainProcesses::new(ledger)) as Arc<dyn ComputeTarget>
    };
    let state = folder.path().join("state");
    let target = open(&state);
    let setup = compute::HostFolders::new(folder.path().join("jobs"))
        .reopened_by(move || std::future::ready(open(&state)));
    let report = compute::hold(&target, &setup).await;
    for promise in &report.held {
        println!("kept     {}", promise.replace('_', " "));
    }
    for promise in &report.skipped {
        println!("not made {}", promise.replace('_', " "));
    }
    println!("PlainProcesses keeps {} promises", report.held.len());

    let alerts = folder.path().join("alerts.jsonl");
    notifier::any(|setup| {
        let redactor = Redactor::patterns().and(setup.secrets.clone());
        Arc::new(JsonLines::new(&alerts, redactor)) as Arc<dyn Notifier>
    })
    .await;
    let told = std::fs::read_to_string(&alerts)?;
    println!(
        "JsonLines keeps the contract: {} lines",
        told.lines().count()
    );
    Ok(())
}

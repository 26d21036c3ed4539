//! A host service: a typed Rust step between two processes, on state that survives a crash.
//! `cargo run --example embed --features sqlite,process,project`, twice: the day is done by then.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use windlass::{
    AlertReactor, Engine, EventKind, InvalidPipeline, LocalStorage, LogNotifier, Pipeline,
    ProcessTarget, Routes, RunRequest, RunSpec, SqliteStore, StepRef, project::Jinja,
};

/// A process hands on what customers spent, Rust averages it, a process writes the sentence.
fn churn(engine: &Engine) -> Result<(Pipeline, StepRef<String>), InvalidPipeline> {
    let shell = |script| RunSpec::new(["sh", "-c", script]);
    let mut p = Pipeline::builder("churn");
    let spent = p.add_run("fetch", shell("echo '[21.5, 8, 64.5]' > $WINDLASS_RESULT"));
    let mean = p.add_with("mean", spent, |_, spent: Vec<f64>| async move {
        Ok(spent.iter().sum::<f64>() / spent.len() as f64)
    });
    let sentence = shell(r#"echo "\"customers spent $MEAN each\"" > $WINDLASS_RESULT"#)
        .variable("MEAN", "{{ steps.mean.result | round(2) }}");
    let report = p.add_run_with("report", &mean, sentence);
    Ok((p.build_with(&engine.checks())?, report)) // cycles and impossible requests fail here
}

async fn serve(home: &Path) -> Result<(), Box<dyn Error>> {
    let engine = Engine::builder(SqliteStore::open(home.join("runs.db")).await?)
        .with_run_storage("lake", LocalStorage::open(home.join("lake"))?)
        .with_default_compute("sandbox", ProcessTarget::open(home.join("jobs")).await?)
        .with_notifier("log", LogNotifier::new())
        .with_reactor(Box::new(AlertReactor::new(Routes::new(["log".parse()?]))))
        .with_expressions(Arc::new(Jinja::new()))
        .build()
        .await?; // goes on with the runs that a crash left behind
    let (churn, report) = churn(&engine)?;
    engine.deploy(churn.clone()).await?;
    let request = RunRequest::new("churn", "2026-11-03".parse()?);
    let run = engine.start(request).await?; // the same key is the same run
    let mut events = run.events();
    while let Some(event) = events.next().await {
        match event.kind {
            EventKind::AttemptLaunched { slot, .. } => println!("{} runs", churn.label(slot)),
            EventKind::StepEnded { slot, state, .. } => println!("{} {state}", churn.label(slot)),
            _ => {}
        }
    }
    let state = run.outcome().await?.state;
    println!("the run {state}: {}", run.result(&report).await?);
    Ok(engine.drain(Duration::from_secs(10)).await?)
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    windlass::init_if_child(); // this program also builds the sandboxes of its jobs
    tracing_subscriber::fmt::init(); // where the alerts go
    let home = std::env::temp_dir().join("windlass-embed");
    std::fs::create_dir_all(&home)?;
    tokio::runtime::Runtime::new()?.block_on(serve(&home))
}

//! The `windlass` binary: runs pipelines of a project, and tells how they are.
//!
//! The only place that prints or ends the process; [`exit::Exit`] has the exit codes.
//! Results go to standard output, everything for people beside them to standard error.

#![expect(clippy::print_stdout, reason = "printing is what a command is for")]

mod args;
mod commands;
mod detach;
mod drive;
mod exit;
mod graph;
mod json;
mod print;
mod progress;
mod stored;
mod summary;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::args::{Args, Command};
use crate::commands::Failure;

fn main() -> ExitCode {
    // A job's helper is this very program; it must not do anything else first.
    windlass::init_if_child();
    let args = Args::parse();
    let as_json = args.json;
    let variables: windlass::wiring::Variables = Arc::new(variable);
    let for_end = Arc::clone(&variables);
    print::start_log(args.verbose, &*variables);
    let end = |result: Result<ExitCode, Failure>| {
        result.unwrap_or_else(|failure| {
            if as_json {
                print::out(&format!("{}\n", failure.json()));
            } else {
                let colour = print::Colour::of_stderr(&*for_end).0;
                eprintln!("{}", failure.text(colour));
            }
            failure.code()
        })
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            return end(Err(Failure::engine(format!(
                "the runtime can't start: {e}"
            ))));
        }
    };
    end(runtime.block_on(dispatch(args, variables)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment of the process"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn dispatch(args: Args, variables: windlass::wiring::Variables) -> Result<ExitCode, Failure> {
    let place = args.place();
    let json = args.json;
    match args.command {
        Command::Init(init) => commands::init::init(&init, json),
        Command::Validate => commands::validate::validate(&place, json),
        Command::List => commands::list::list(&place, json),
        Command::Graph(graph) => commands::graph::graph(&place, &graph, json),
        Command::Run(run) => commands::run::run(&place, &run, variables, json).await,
        Command::Cancel(cancel) => {
            commands::control::cancel(&place, &cancel, variables, json).await
        }
        Command::Pause(pause) => commands::control::pause(&place, &pause, json).await,
        Command::Resume(resume) => {
            commands::control::resume(&place, &resume, variables, json).await
        }
        Command::Resolve(resolve) => {
            commands::control::resolve(&place, &resolve, variables, json).await
        }
        Command::Signal(signal) => commands::give::signal(&place, &signal, variables, json).await,
        Command::Approve(approve) => {
            commands::give::decide(&place, &approve, true, variables, json).await
        }
        Command::Reject(reject) => {
            commands::give::decide(&place, &reject, false, variables, json).await
        }
        Command::Fork(fork) => commands::rerun::fork(&place, &fork, variables, json).await,
        Command::Rerun(rerun) => commands::rerun::rerun(&place, &rerun, variables, json).await,
        Command::Explain(explain) => commands::explain::explain(&place, &explain, json).await,
        Command::Status(status) => commands::status::status(&place, &status, json).await,
        Command::Logs(logs) => commands::logs::logs(&place, &logs, variables, json).await,
        Command::Doctor => commands::doctor::doctor(&place, variables, json).await,
        Command::Store(store) => commands::store::store(&place, &store, variables, json).await,
        Command::Import(import) => commands::import::import(&import, json),
        Command::Schema { file } => Ok(commands::list::schema(file)),
        Command::Completion { shell } => Ok(commands::list::completion(shell, json)),
    }
}

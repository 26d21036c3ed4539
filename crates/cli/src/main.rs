//! The `windlass` binary: runs pipelines of a project, and tells how they are.
//!
//! The only place that prints or ends the process; [`exit::Exit`] has the exit codes.
//! Results go to standard output, everything for people beside them to standard error.

#![expect(clippy::print_stdout, reason = "printing is what a command is for")]

mod args;
mod commands;
mod exit;
mod json;
mod print;
mod progress;
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
    let variables: windlass::wiring::Variables = Arc::new(variable);
    print::start_log(args.verbose, &*variables);
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
    match args.command {
        Command::Run(run) => commands::run::run(&place, run, variables).await,
        Command::Check => commands::check::check(&place),
        Command::List => commands::check::list(&place),
        Command::Status(status) => commands::status::status(&place, &status).await,
        Command::Logs(logs) => commands::logs::logs(&place, &logs, variables).await,
        Command::Doctor => commands::doctor::doctor(&place, variables).await,
        Command::Import(import) => commands::import::import(&import),
        Command::Schema { file } => commands::check::schema(file),
    }
}

fn end(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        failure.code()
    })
}

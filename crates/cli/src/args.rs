//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Runs machine-learning and data pipelines: durable, isolated, told apart by date.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_long_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// Folder of the project; default: the nearest one from here upwards
    #[arg(long, short = 'C', global = true, value_name = "DIR")]
    project: Option<PathBuf>,
    /// Environment; default: the project's
    #[arg(long, short = 'e', global = true, value_name = "NAME")]
    env: Option<String>,
    /// Say more in the log; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline for a date, or go on with the run that the date has
    Run(RunArgs),
    /// Check every file of the project
    Check,
    /// List the pipelines of the project
    List,
    /// Show the runs, or one run with its steps
    Status(StatusArgs),
    /// Print what a step wrote to standard output and error
    Logs(LogsArgs),
    /// Show what this machine can isolate, and what it can't
    Doctor,
    /// Make a project of another system's pipeline
    #[command(subcommand)]
    Import(Import),
    /// Print the JSON Schema of a kind of file, for editors
    Schema {
        /// Which file
        file: SchemaOf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Name of the pipeline
    pub(crate) pipeline: String,
    /// The day that the run stands for, YYYY-MM-DD; default: today (UTC)
    #[arg(long, value_name = "DATE")]
    pub(crate) date: Option<windlass::LogicalDate>,
    /// A parameter
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Start another run although the date has one
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the events of the run as JSON lines instead of progress
    #[arg(long)]
    pub(crate) json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Live on a terminal, lines elsewhere
    Auto,
    /// A line for each thing that happens
    Lines,
    /// Nothing but the summary
    None,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Id of a run, or the last digits of it; default: the latest runs
    pub(crate) run: Option<String>,
    /// Only runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pub(crate) pipeline: Option<windlass::PipelineName>,
    /// Show at most so many runs
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Id of a run, or the last digits of it
    pub(crate) run: String,
    /// Name of a step, with `[ITEM]` behind it for an item of a mapped step
    pub(crate) step: String,
    /// Number of the attempt; default: the last
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// A recorded run in WfFormat (WfCommons, schemas 1.0 to 1.6): each task sleeps as long as it
    /// took, and reads and writes its files, both scaled down
    Wfformat {
        /// The instance, a JSON file; one that gzip packed will do
        file: PathBuf,
        /// Folder of the new project
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Recorded seconds that pass in one of ours
        #[arg(long, default_value_t = 100.0, value_name = "N")]
        speed_up: f64,
        /// Write into a folder that has something in it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchemaOf {
    /// windlass.yaml
    Project,
    /// pipelines/*.yaml
    Pipeline,
    /// environments/*.yaml
    Environment,
}

/// Which project and which of its environments.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) project: Option<PathBuf>,
    pub(crate) environment: Option<String>,
}

impl Args {
    pub(crate) fn place(&self) -> Place {
        Place {
            project: self.project.clone(),
            environment: self.env.clone(),
        }
    }
}

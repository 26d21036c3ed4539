//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Runs machine-learning and data pipelines: durable, isolated, told apart by date.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", crate::exit::HELP)
)]
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
    /// Print JSON instead of text; an error too is an object on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  windlass init shop                     make a project that runs at once
  windlass run churn --date 2026-11-03   run a pipeline for a day, or go on with its run
  windlass status churn                  its last run, step by step
  windlass logs churn train --follow     what a step prints, as it comes
  windlass graph churn --out churn.svg   a picture of it";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a small project that runs at once, with comments in every file
    #[command(after_help = "\
Examples:
  windlass init shop
  windlass init . --name my-shop
  windlass init . --force    add the files to a folder that has some; none is replaced")]
    Init(InitArgs),
    /// Check every file of the project, in all environments or in one
    #[command(
        alias = "check",
        after_help = "\
Examples:
  windlass validate
  windlass validate --env prod
  windlass validate --json    a list of what is wrong, each with file, line and column"
    )]
    Validate,
    /// List the pipelines of the project
    #[command(after_help = "\
Examples:
  windlass list
  windlass list --json")]
    List,
    /// Draw a pipeline: steps, edges with their conditions, joins
    #[command(after_help = "\
Examples:
  windlass graph churn --out churn.svg
  windlass graph churn --format mermaid    for a README or a wiki
  windlass graph churn | dot -Tpdf > churn.pdf")]
    Graph(GraphArgs),
    /// Run a pipeline for a date, or go on with the run that the date has
    #[command(after_help = "\
Examples:
  windlass run churn
  windlass run churn --date 2026-11-03 --env prod
  windlass run churn --param ridge=0.5 --force
  windlass run churn --detach    it goes on in the background
  windlass run churn --json    an event a line, the outcome last")]
    Run(RunArgs),
    /// Cancel a run: what runs is stopped, `finally` steps run; a second time skips those
    #[command(after_help = "\
Examples:
  windlass cancel churn --reason 'wrong data'
  windlass cancel 4f2a9c01 --no-wait
  windlass cancel churn --dry-run    what would stop, and what would run to tidy up")]
    Cancel(CancelArgs),
    /// Pause a run: what runs is left to end, nothing new starts
    #[command(after_help = "\
Examples:
  windlass pause churn
  windlass pause churn --dry-run     what would run on, and what would be held back")]
    Pause(PauseArgs),
    /// Go on with a run after a pause
    #[command(after_help = "\
Examples:
  windlass resume churn
  windlass resume churn --dry-run    what would go on at once")]
    Resume(ResumeArgs),
    /// Say how a step ended whose end nobody can tell
    #[command(after_help = "\
Examples:
  windlass resolve churn train --as succeeded
  windlass resolve 4f2a9c01 'score[2]' --as retry")]
    Resolve(ResolveArgs),
    /// Give a run a signal that steps of it wait for, or will
    #[command(after_help = "\
Examples:
  windlass signal churn data-checked
  windlass signal churn threshold --value 0.35 --by ana")]
    Signal(SignalArgs),
    /// Approve a step that asks for it: the run goes on
    #[command(after_help = "\
Examples:
  windlass approve churn release --by ana
  windlass approve 4f2a9c01 release --reason 'looked at the report'")]
    Approve(ApproveArgs),
    /// Reject a step that asks for approval: it fails
    #[command(after_help = "\
Examples:
  windlass reject churn release --reason 'its recall fell'")]
    Reject(ApproveArgs),
    /// Run again what has no result, in a run that takes over the rest from an ended one
    #[command(after_help = "\
Examples:
  windlass rerun churn                   from what failed
  windlass rerun churn --from train      from a step, and all behind it
  windlass rerun churn --dry-run         what would run, and what would be reused")]
    Rerun(RerunArgs),
    /// Start a run that reuses the results of an ended one, with other values of some parameters
    #[command(after_help = "\
Examples:
  windlass fork churn --param horizon=60              what reads the parameter runs, and all behind it
  windlass fork churn --at score --param horizon=60   that, and a step by name
  windlass fork churn --param horizon=60 --dry-run    what would run, and what would be reused")]
    Fork(ForkArgs),
    /// Say why a run or a step is as it is: what it waits for, why it failed or was skipped
    #[command(after_help = "\
Examples:
  windlass explain churn
  windlass explain churn 'score[2]'")]
    Explain(ExplainArgs),
    /// Show the runs, or one run with its steps
    #[command(after_help = "\
Examples:
  windlass status             the latest runs
  windlass status churn       the last run of a pipeline, step by step
  windlass status 4f2a9c01    a run by the last digits of its id
  windlass status --pipeline churn --limit 5 --json")]
    Status(StatusArgs),
    /// Print what the steps of a run wrote to standard output and error
    #[command(after_help = "\
Examples:
  windlass logs churn                    all steps of the last run, each line with its step
  windlass logs churn train --follow     as it comes, over all attempts, until the step ends
  windlass logs 4f2a9c01 'score[2]' --attempt 1 --stream stderr")]
    Logs(LogsArgs),
    /// Show what this machine can do for the environment, and what is missing
    #[command(after_help = "\
Examples:
  windlass doctor
  windlass doctor --env prod --json")]
    Doctor,
    /// Look after the file that keeps the runs: check it, copy it, compact it, export it
    #[command(after_help = "\
Examples:
  windlass store check
  windlass store backup /backups/runs-2026-11-03.db
  windlass store export | jq 'select(.record == \"run\") | .state'
  windlass store check --file /backups/runs-2026-11-03.db")]
    Store(StoreArgs),
    /// Make a project of another system's pipeline
    #[command(subcommand)]
    Import(Import),
    /// Print the JSON Schema of a kind of file, for editors
    #[command(after_help = "\
Examples:
  windlass schema pipeline > pipeline.schema.json")]
    Schema {
        /// Which file
        file: SchemaOf,
    },
    /// Print a script that completes commands in a shell
    #[command(after_help = "\
Examples:
  windlass completion bash > ~/.local/share/bash-completion/completions/windlass
  windlass completion zsh > ~/.zfunc/_windlass
  windlass completion fish > ~/.config/fish/completions/windlass.fish")]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Folder of the new project; default: this one
    pub(crate) dir: Option<PathBuf>,
    /// Name of the project; default: that of the folder
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Write into a folder that has something in it; no file is replaced
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GraphArgs {
    /// Name of the pipeline
    pub(crate) pipeline: String,
    /// How to draw it; default: what the name of the file says, else dot
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<GraphFormat>,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// The language of Graphviz
    Dot,
    /// A flowchart for Markdown
    Mermaid,
    /// A picture that needs nothing else
    Svg,
}

impl GraphFormat {
    /// Returns the format of files whose name ends so.
    pub(crate) fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "dot" | "gv" => Some(Self::Dot),
            "mmd" | "mermaid" => Some(Self::Mermaid),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }
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
    /// Key of the run, instead of its pipeline, environment and date
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Start another run although the date has one
    #[arg(long)]
    pub(crate) force: bool,
    /// Serve no kept result; what is computed is kept
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Return as soon as the run has begun; it goes on in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// This is the process in the background
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) detached: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

/// Which run is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct RunName {
    /// A pipeline for its last run, a key, an id, or the last digits of one
    pub(crate) run: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// Why, for the record of the run
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only say what would be stopped, what would never start, and which `finally` steps would run
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) dry_run: bool,
    /// Return at once instead of when nothing of the run is left
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How to show progress, where no other process has the run
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// Only say what would run on, what would wait on, and what would be held back
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// Only say what would go on at once
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to show progress, where no other process has the run
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResolveArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// A step, with [N] behind it for an item of a mapped step
    pub(crate) step: String,
    /// How its last attempt ended; `retry` makes another one, free of charge
    #[arg(long = "as", value_enum, value_name = "END")]
    pub(crate) end: ResolvedAs,
    /// How to show progress, where no other process has the run
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SignalArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// Name of the signal
    pub(crate) name: String,
    /// What the steps get as their result, as JSON
    #[arg(long, value_name = "JSON", default_value = "true")]
    pub(crate) value: String,
    /// Who gives it; default: the user of this process
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// How to show progress, where no other process has the run
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// The step that asks for approval
    pub(crate) step: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Who decides; default: the user of this process
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// How to show progress, where no other process has the run
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

/// What can be said of an attempt whose end nobody can tell.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ResolvedAs {
    Succeeded,
    Failed,
    Retry,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RerunArgs {
    /// A pipeline for its last run, a key, an id, or the last digits of one
    pub(crate) run: String,
    /// Run this step again, and all behind it, though it has its result; may be given more than once
    #[arg(long, value_name = "STEP")]
    pub(crate) from: Vec<String>,
    /// Only say what would run and what would be reused
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForkArgs {
    /// A pipeline for its last run, a key, an id, or the last digits of one
    pub(crate) run: String,
    /// Run this step again, and all behind it, whether it reads a changed parameter or not; may be given more than once
    #[arg(long, value_name = "STEP")]
    pub(crate) at: Vec<String>,
    /// Another value of a parameter; may be given more than once
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Only say what would run and what would be reused
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// A pipeline for its last run, a key, an id, or the last digits of one
    pub(crate) run: String,
    /// Name of a step, with `[ITEM]` behind it for an item of a mapped step; default: all that isn't well
    pub(crate) step: Option<String>,
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
    /// A pipeline for its last run, a key, an id, or the last digits of one; default: the latest runs
    pub(crate) run: Option<String>,
    /// Only runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pub(crate) pipeline: Option<windlass::PipelineName>,
    /// Show at most so many runs
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// A pipeline for its last run, a key, an id, or the last digits of one
    pub(crate) run: String,
    /// Name of a step, with `[ITEM]` behind it for an item of a mapped step; default: all steps
    pub(crate) step: Option<String>,
    /// Go on printing until the step, or the run, has its end
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Number of the attempt; default: the last one of a step, all of a run
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// Only one of the two
    #[arg(long, value_enum, value_name = "STREAM")]
    pub(crate) stream: Option<LogName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogName {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The file; default: that of the environment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Check the file and what must hold between its rows; ends with 1 if something is wrong
    #[command(after_help = "\
Examples:
  windlass store check
  windlass store check --file /backups/runs-2026-11-03.db --json")]
    Check,
    /// Copy the store as of one instant, also while an engine writes
    #[command(after_help = "\
Examples:
  windlass store backup /backups/runs-2026-11-03.db")]
    Backup {
        /// The copy, a file that isn't there
        to: PathBuf,
    },
    /// Give back the room of removed runs; beside an engine only if that takes two seconds at most
    #[command(after_help = "\
Examples:
  windlass store compact --env prod")]
    Compact,
    /// Delete what removed runs left in the storage of runs, unless a kept result, another run or a
    /// published version names it; also while an engine is at work
    #[command(after_help = "\
Examples:
  windlass store sweep --dry-run
  windlass store sweep --env prod --min-age 7d")]
    Sweep {
        /// Delete nothing, and say what would be
        #[arg(long)]
        dry_run: bool,
        /// Leave alone what belongs to runs removed later than that before now
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = windlass::units::parse_duration)]
        min_age: Duration,
    },
    /// Print every record as a line of JSON, as of one instant
    #[command(after_help = "\
Examples:
  windlass store export > runs.jsonl
  windlass store export runs.jsonl
  windlass store export runs/    a file for each kind of record")]
    Export {
        /// A file that isn't there, or a folder with a `/` behind it; default: standard output
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// A recorded run in WfFormat (WfCommons, schemas 1.0 to 1.6): each task sleeps as long as it
    /// took, and reads and writes its files, both scaled down
    #[command(after_help = "\
Examples:
  windlass import wfformat montage.json --out montage --speed-up 1000
  windlass run --project montage montage")]
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

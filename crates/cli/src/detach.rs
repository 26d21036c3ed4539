//! `run --detach`: the same command once more, in a process that outlives the terminal.
//!
//! The child leaves the session, says on its standard output which run it has, and from then on
//! writes to a log file beside the store. The parent waits for that one line only.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};
use windlass::project::Project;
use windlass::run_store::RunRecord;
use windlass::{Clock, LogicalDate, SystemClock};

use crate::commands::Failure;
use crate::{json, print};

/// The flag that the child is known by.
const CHILD: &str = "--detached";

/// What the child says first.
#[derive(Debug, Serialize, Deserialize)]
struct Began {
    run: String,
    key: String,
    #[serde(default)]
    log: String,
}

/// Starts the child, and waits until it has its run.
pub(crate) fn start(
    project: &Project,
    pipeline: &str,
    date: LogicalDate,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let failed = |what: &str, e: std::io::Error| Failure::engine(format!("can't {what}: {e}"));
    let store = windlass::wiring::store_path(&project.environment)
        .ok_or_else(|| Failure::engine("the environment keeps no store of its own"))?;
    let folder = store.with_extension("detached");
    std::fs::create_dir_all(&folder).map_err(|e| failed("make the folder of logs", e))?;
    let at = SystemClock::new().now().as_micros();
    let log = folder.join(format!("{pipeline}-{date}-{at}.log"));
    let file = File::create(&log).map_err(|e| failed("write the log", e))?;
    let program = std::env::current_exe().map_err(|e| failed("find this program", e))?;
    let arguments = std::env::args_os().skip(1).map(|argument| {
        if argument == "--detach" {
            CHILD.into()
        } else {
            argument
        }
    });
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(|e| failed("start a process", e))?;
    let mut line = String::new();
    let said = child.stdout.take();
    let mut said = said.map(BufReader::new);
    if let Some(said) = &mut said {
        said.read_line(&mut line)
            .map_err(|e| failed("hear from the process", e))?;
    }
    let Ok(mut began) = serde_json::from_str::<Began>(&line) else {
        // It ended without a run of its own, and says why as it would in the foreground.
        if let Some(said) = &mut said {
            said.read_to_string(&mut line)
                .map_err(|e| failed("hear from the process", e))?;
        }
        let status = child
            .wait()
            .map_err(|e| failed("wait for the process", e))?;
        print::out(&line);
        eprint!("{}", std::fs::read_to_string(&log).unwrap_or_default());
        let code = status.code().and_then(|c| u8::try_from(c).ok());
        return Ok(ExitCode::from(code.unwrap_or(4)));
    };
    began.log = log.display().to_string();
    if as_json {
        print::out(&format!("{}\n", json::text(&began)));
    } else {
        print::out(&format!(
            "run {} goes on in the background\n  windlass status {}\n  its log: {}\n",
            began.run, began.run, began.log
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves the session of the terminal, so that its end doesn't end this process.
pub(crate) fn leave_the_terminal() -> Result<(), Failure> {
    rustix::process::setsid()
        .map(drop)
        .map_err(|e| Failure::engine(format!("can't leave the terminal: {e}")))
}

/// Tells the parent which run it is, and turns to the log.
pub(crate) fn tell(run: &RunRecord) {
    let began = Began {
        run: run.id.to_string(),
        key: run.key.to_string(),
        log: String::new(),
    };
    print::out(&format!("{}\n", json::text(&began)));
    // The parent closes its end now. Where this fails, what would be printed is lost.
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).ok();
}

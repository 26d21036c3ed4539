//! For targets that start jobs on this host: what every one of them needs and none should repeat.
//!
//! [`Ledger`] keeps the books: one key one job, also over restarts, phases, hints, logs. [`command`]
//! makes the process of a spec: its folders, its variables, and nothing of the host's environment.
//! `examples/adapter` shows a whole target on these two.
//!
//! It deliberately has no walls and no limits: those are what a target adds.

mod ledger;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use windlass_core::{JobSpec, Location, LogStream};

pub use ledger::{Entry, Ledger};

/// Search path of a job that brings none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn path(place: &Location) -> io::Result<&Path> {
    match place {
        Location::Path(path) => Ok(path),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("only a path of this host can be used here, not {other:?}"),
        )),
    }
}

/// Makes the process of a spec, ready to be spawned, with `folder` for its inputs and its `$TMPDIR`.
///
/// It runs in a process group of its own, without standard input, and writes to its two log files.
/// Its inputs are links: nothing keeps it from writing through them.
///
/// # Errors
/// A folder that can't be made, an empty command, or a place that is no path of this host.
pub fn command(spec: &JobSpec, folder: &Path) -> io::Result<Command> {
    let (inputs, temporary) = (folder.join("inputs"), folder.join("tmp"));
    let logs = path(&spec.logs)?;
    for folder in [&inputs, &temporary, logs] {
        fs::create_dir_all(folder)?;
    }
    for (name, place) in &spec.inputs {
        let at = inputs.join(name.as_str());
        if let Location::Parts(parts) = place {
            fs::create_dir(&at)?;
            for (part, path) in parts {
                symlink(path, at.join(part))?;
            }
        } else {
            symlink(path(place)?, at)?;
        }
    }
    let (program, arguments) = spec.command.split_first().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the command of the job is empty",
        )
    })?;
    let code = spec.code.as_ref().map_or(Ok(&*temporary), path)?;
    let log = |stream: LogStream| File::create(logs.join(stream.file_name()));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs([("HOME", &*temporary), ("TMPDIR", &*temporary)])
        .env("WINDLASS_INPUTS", inputs)
        .env("WINDLASS_OUTPUTS", path(&spec.outputs)?)
        .env("WINDLASS_RESULT", path(&spec.result)?)
        .envs(&spec.variables)
        .envs(
            spec.secrets
                .iter()
                .map(|(k, s)| (k, OsString::from(s.expose()))),
        )
        .current_dir(code)
        .stdin(Stdio::null())
        .stdout(log(LogStream::Stdout)?)
        .stderr(log(LogStream::Stderr)?)
        .process_group(0);
    Ok(command)
}

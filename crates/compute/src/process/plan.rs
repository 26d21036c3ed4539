//! From a [`JobSpec`] to what is started: paths as the job sees them, its environment, its limits.
//!
//! Pure but for looking at paths; nothing is created or started here.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use windlass_core::{ComputeError, JobSpec, Location};

use super::bench::Seat;
use super::cgroup::TreeLimits;
use super::filter::{self, Sockets};
use super::software::{DEVICES, Software};
use super::sys::Image;
use super::wire::{Access, Bind, Launch, ProcessLimits, Walls};
use windlass_core::{CPU, DISK, MEMORY};

/// Name under which a job may ask for a number of processes.
pub(super) const PROCESSES: &str = "processes";
/// Open files of a job at most; a lower limit of the host stays.
const OPEN_FILES: u64 = 65_536;

const INSIDE_INPUTS: &str = "/windlass/inputs";
const INSIDE_OUTPUTS: &str = "/windlass/outputs";
const INSIDE_RESULT: &str = "/windlass/result";
const INSIDE_CODE: &str = "/windlass/code";
/// File of the result within its folder.
pub(super) const RESULT_FILE: &str = "result.json";

/// What a job is given beyond its own wishes.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) tmp_bytes: u64,
    pub(super) max_processes: u64,
    /// Filters of a job without and with network, made once.
    pub(super) filters: [Vec<Vec<u64>>; 2],
}

/// Makes the filters of a kind of walls.
pub(super) fn filters(walls: Walls) -> Result<[Vec<Vec<u64>>; 2], ComputeError> {
    let quiet = match walls {
        // Inside a network namespace the internet ends at the loopback.
        Walls::Namespaces => Sockets::Internet,
        Walls::Landlock => Sockets::Local,
    };
    let make = |sockets| {
        filter::programs(sockets).map_err(|e| {
            ComputeError::internal("the system call filter can't be made").with_source(e)
        })
    };
    Ok([make(quiet)?, make(Sockets::Internet)?])
}

/// The folders of one job on the host, all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    pub(super) code: Option<PathBuf>,
    pub(super) inputs: Vec<(String, PathBuf)>,
    pub(super) outputs: PathBuf,
    pub(super) logs: PathBuf,
    /// Where the host wants the result.
    pub(super) result: PathBuf,
    /// The target's own folder for this job; gone when it has ended.
    pub(super) scratch: PathBuf,
}

fn refused(message: String) -> ComputeError {
    ComputeError::refused(message)
}

fn path(what: &str, location: &Location) -> Result<PathBuf, ComputeError> {
    let path = match location {
        Location::Path(path) => path,
        Location::Uri(uri) => {
            return Err(refused(format!(
                "{what} lies at a uri, and the process sandbox takes paths of this host: copy it \
                 first uri=`{uri}`"
            )));
        }
        _ => {
            return Err(refused(format!(
                "{what} lies at a kind of place that is not known"
            )));
        }
    };
    if !path.is_absolute() || path.to_str().is_none() {
        return Err(refused(format!(
            "{what} must be an absolute path in UTF-8 path=`{}`",
            path.display()
        )));
    }
    Ok(path.clone())
}

/// Returns the entries that an input is made of: itself, or `NAME/PART` for each of its parts.
fn parts(name: &str, place: &Location) -> Vec<(String, Location)> {
    match place {
        Location::Parts(parts) => parts
            .iter()
            .map(|(part, path)| (format!("{name}/{part}"), Location::Path(path.clone())))
            .collect(),
        one => vec![(name.to_owned(), one.clone())],
    }
}

impl Paths {
    /// Reads the paths of a spec.
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Refused`] for one that this target can't use.
    pub(super) fn of(spec: &JobSpec, scratch: PathBuf) -> Result<Self, ComputeError> {
        let mut inputs = Vec::new();
        for (name, place) in &spec.inputs {
            let what = format!("input `{name}`");
            for (name, place) in parts(name.as_str(), place) {
                let path = path(&what, &place)?;
                if !path.exists() {
                    return Err(refused(format!(
                        "{what} is not there path=`{}`",
                        path.display()
                    )));
                }
                inputs.push((name, path));
            }
        }
        let code = spec
            .code
            .as_ref()
            .map(|c| path("the code", c))
            .transpose()?;
        if let Some(code) = code.as_ref().filter(|c| !c.is_dir()) {
            return Err(refused(format!(
                "the code is no folder path=`{}`",
                code.display()
            )));
        }
        Ok(Self {
            code,
            inputs,
            outputs: path("the outputs", &spec.outputs)?,
            logs: path("the logs", &spec.logs)?,
            result: path("the result", &spec.result)?,
            scratch,
        })
    }

    /// Where the job writes its result: in a folder of its own, so that it may also rename into place.
    pub(super) fn scratch_result(&self) -> PathBuf {
        self.scratch.join(RESULT_FILE)
    }

    pub(super) fn scratch_tmp(&self) -> PathBuf {
        self.scratch.join("tmp")
    }

    /// Folder of links to the inputs, for jobs without a root of their own.
    pub(super) fn scratch_inputs(&self) -> PathBuf {
        self.scratch.join("inputs")
    }
}

/// Returns the limits of a job's tree.
pub(super) fn tree_limits(spec: &JobSpec, settings: &Settings) -> TreeLimits {
    let asked = |name| Some(spec.resources.get(name)).filter(|n| *n > 0);
    TreeLimits {
        memory_bytes: asked(MEMORY),
        processes: asked(PROCESSES).or(Some(settings.max_processes)),
        cpu_millis: asked(CPU),
    }
}

fn process_limits(spec: &JobSpec, processes: Option<u64>) -> ProcessLimits {
    ProcessLimits {
        open_files: Some(OPEN_FILES),
        file_bytes: Some(spec.resources.get(DISK)).filter(|n| *n > 0),
        processes,
    }
}

/// The names under which a job finds its things.
struct Seen<'a> {
    inputs: &'a str,
    outputs: &'a str,
    result: String,
    tmp: &'a str,
}

/// The job's whole environment: nothing of the host's is in it.
fn environment(spec: &JobSpec, software: &Software, seen: &Seen<'_>) -> Vec<(String, String)> {
    let ours = [
        ("PATH", software.search_path()),
        ("HOME", seen.tmp.to_owned()),
        ("TMPDIR", seen.tmp.to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("WINDLASS_INPUTS", seen.inputs.to_owned()),
        ("WINDLASS_OUTPUTS", seen.outputs.to_owned()),
        ("WINDLASS_RESULT", seen.result.clone()),
    ];
    let mut all: std::collections::BTreeMap<String, String> =
        ours.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    all.extend(spec.variables.clone());
    all.extend(
        spec.secrets
            .iter()
            .map(|(k, v)| (k.clone(), v.expose().to_owned())),
    );
    all.into_iter().collect()
}

/// Checks what every way of starting needs.
///
/// # Errors
/// [`windlass_core::ComputeErrorKind::Refused`].
pub(super) fn check_words(spec: &JobSpec) -> Result<(), ComputeError> {
    if spec.command.first().is_none_or(String::is_empty) {
        return Err(refused("the command is empty: name a program".to_owned()));
    }
    if spec.command.iter().any(|word| word.contains('\0')) {
        return Err(refused("the command holds a zero byte".to_owned()));
    }
    let secrets = spec.secrets.iter().map(|(k, v)| (k, v.expose()));
    for (name, value) in spec
        .variables
        .iter()
        .map(|(k, v)| (k, v.as_str()))
        .chain(secrets)
    {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(refused(format!(
                "an environment variable has a name or a value that no program can read \
                 name=`{name}`"
            )));
        }
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Plans a job in namespaces, with a root of its own.
pub(super) fn in_namespaces(
    spec: &JobSpec,
    paths: &Paths,
    software: &Software,
    settings: &Settings,
    counted: bool,
) -> Launch {
    let seen = Seen {
        inputs: INSIDE_INPUTS,
        outputs: INSIDE_OUTPUTS,
        result: format!("{INSIDE_RESULT}/{RESULT_FILE}"),
        tmp: "/tmp",
    };
    let mut launch = own_root(software, settings, spec.network);
    let bind = |source: &Path, target: String, access| Bind {
        source: text(source),
        target,
        access,
        owned: true,
    };
    if let Some(code) = &paths.code {
        launch
            .binds
            .push(bind(code, INSIDE_CODE.to_owned(), Access::Read));
        INSIDE_CODE.clone_into(&mut launch.cwd);
    }
    for (name, source) in &paths.inputs {
        let target = format!("{INSIDE_INPUTS}/{name}");
        launch.binds.push(bind(source, target, Access::Read));
    }
    launch.binds.push(bind(
        &paths.outputs,
        INSIDE_OUTPUTS.to_owned(),
        Access::Write,
    ));
    launch.binds.push(bind(
        &paths.scratch,
        INSIDE_RESULT.to_owned(),
        Access::Write,
    ));
    launch
        .writable
        .extend([INSIDE_OUTPUTS.to_owned(), INSIDE_RESULT.to_owned()]);
    launch.command.clone_from(&spec.command);
    launch.probe = false;
    launch.variables = environment(spec, software, &seen);
    let processes = tree_limits(spec, settings).processes.filter(|_| !counted);
    launch.limits = process_limits(spec, processes);
    launch
}

/// Returns a root with software and nothing of a job's; as it is, it only probes.
pub(super) fn own_root(software: &Software, settings: &Settings, network: bool) -> Launch {
    let id = super::helper::INSIDE_UID;
    let mut files = vec![
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/:/bin/false\njob:x:{id}:{id}:job:/tmp:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/bin/false\n"
            ),
        ),
        (
            "/etc/group",
            format!("root:x:0:\njob:x:{id}:\nnogroup:x:65534:\n"),
        ),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
        ),
        ("/etc/hostname", "windlass-job\n".to_owned()),
    ];
    if !network {
        files.push((
            "/etc/hosts",
            "127.0.0.1 localhost windlass-job\n::1 localhost\n".to_owned(),
        ));
    }
    let mut binds = software.binds(network);
    binds.extend(DEVICES.iter().map(|path| Bind {
        source: (*path).to_owned(),
        target: (*path).to_owned(),
        access: Access::Device,
        owned: false,
    }));
    Launch {
        walls: Walls::Namespaces,
        command: Vec::new(),
        variables: Vec::new(),
        cwd: "/tmp".to_owned(),
        binds,
        folders: vec![INSIDE_INPUTS.to_owned()],
        links: software.links(),
        files: files.into_iter().map(|(p, t)| (p.to_owned(), t)).collect(),
        network,
        tmp_bytes: settings.tmp_bytes,
        limits: ProcessLimits::default(),
        readable: vec!["/".to_owned()],
        writable: ["/tmp", "/dev", "/proc"].map(str::to_owned).to_vec(),
        give: Vec::new(),
        filters: settings.filters[usize::from(network)].clone(),
        probe: true,
    }
}

/// Plans a job behind Landlock and seccomp, among the host's own paths.
pub(super) fn behind_landlock(
    spec: &JobSpec,
    paths: &Paths,
    software: &Software,
    settings: &Settings,
    counted: bool,
) -> Launch {
    let (tmp, inputs) = (text(&paths.scratch_tmp()), text(&paths.scratch_inputs()));
    let seen = Seen {
        inputs: &inputs,
        outputs: &text(&paths.outputs),
        result: text(&paths.scratch_result()),
        tmp: &tmp,
    };
    let writable = vec![text(&paths.outputs), text(&paths.scratch), tmp.clone()];
    let mut readable = software.readable(spec.network);
    readable.extend(paths.code.iter().map(|p| text(p)));
    readable.extend(paths.inputs.iter().map(|(_, p)| text(p)));
    if !paths.inputs.is_empty() {
        readable.push(inputs.clone());
    }
    // A user id of its own makes the count of processes the job's own too; any other does not.
    let own_user = rustix::process::geteuid().is_root();
    let processes = tree_limits(spec, settings)
        .processes
        .filter(|_| !counted && own_user);
    Launch {
        walls: Walls::Landlock,
        command: spec.command.clone(),
        variables: environment(spec, software, &seen),
        cwd: paths.code.as_deref().map_or_else(|| tmp.clone(), text),
        binds: Vec::new(),
        folders: Vec::new(),
        links: Vec::new(),
        files: Vec::new(),
        network: spec.network,
        tmp_bytes: settings.tmp_bytes,
        limits: process_limits(spec, processes),
        readable,
        give: writable.clone(),
        writable: writable
            .into_iter()
            .chain(DEVICES.iter().map(|p| (*p).to_owned()))
            .collect(),
        filters: settings.filters[usize::from(spec.network)].clone(),
        probe: false,
    }
}

/// A program to start with nothing around it.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) cwd: PathBuf,
    /// Its outputs lie at its bench, and are taken from there if there are any.
    pub(super) takes_outputs: bool,
    pub(super) seat: Seat,
}

impl Bare {
    /// Returns it as the system takes it.
    pub(super) fn image(&self) -> io::Result<Image> {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let program = text(self.program.as_os_str().as_bytes())?;
        // The program is called by what it was found as, like by the standard library.
        let arguments = std::iter::once(Ok(program.clone()))
            .chain(self.arguments.iter().map(|a| text(a.as_bytes())));
        let variables = self.variables.iter();
        Ok(Image {
            arguments: arguments.collect::<Result<_, _>>()?,
            variables: variables
                .map(|(name, value)| text(format!("{name}={value}").as_bytes()))
                .collect::<Result<_, _>>()?,
            folder: text(self.cwd.as_os_str().as_bytes())?,
            program,
        })
    }
}

/// Plans a job without any wall; outputs that nobody made a folder for lie at its bench.
pub(super) fn bare(spec: &JobSpec, paths: &Paths, software: &Software, seat: Seat) -> Bare {
    let (tmp, inputs) = (text(&paths.scratch_tmp()), text(&paths.scratch_inputs()));
    let takes_outputs = !paths.outputs.exists();
    let spare = seat.outputs();
    let outputs = if takes_outputs {
        &spare
    } else {
        &paths.outputs
    };
    let seen = Seen {
        inputs: &inputs,
        outputs: &text(outputs),
        result: text(&paths.scratch_result()),
        tmp: &tmp,
    };
    let variables = environment(spec, software, &seen);
    let cwd = paths.code.clone().unwrap_or_else(|| paths.scratch_tmp());
    let search = variables
        .iter()
        .find_map(|(k, v)| (k == "PATH").then_some(v.as_str()))
        .unwrap_or_default();
    let name = spec.command.first().map_or("", String::as_str);
    // Looked up here, as the call that starts it takes a path.
    let program = if name.contains('/') {
        cwd.join(name)
    } else {
        search
            .split(':')
            .map(|folder| Path::new(folder).join(name))
            .find(|p| p.is_file())
            .unwrap_or_else(|| PathBuf::from(format!("/{name}")))
    };
    Bare {
        program,
        arguments: spec.command.iter().skip(1).cloned().collect(),
        variables,
        cwd,
        takes_outputs,
        seat,
    }
}

//! A place to run jobs in, and what a job was seen to do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use tempfile::TempDir;
use windlass_compute::{ProcessTarget, ProcessTargetBuilder, SandboxLevel};
use windlass_core::{
    AttemptNo, ComputeTarget, JobEnd, JobHandle, JobSpec, Location, LogStream, Observation, Phase,
    RunId, SubmitKey, Timestamp, Usage,
};

/// A target with a folder for its jobs.
pub(crate) struct Place {
    pub(crate) target: ProcessTarget,
    folder: TempDir,
    next: AtomicU32,
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) end: JobEnd,
    pub(crate) out: String,
    #[expect(dead_code, reason = "shown when an assertion fails")]
    pub(crate) err: String,
    pub(crate) observation: Observation,
    pub(crate) outputs: PathBuf,
}

impl Seen {
    pub(crate) fn usage(&self) -> &Usage {
        self.observation.usage.as_ref().expect("usage is known")
    }

    /// Asserts code 0 and returns what was printed.
    #[track_caller]
    pub(crate) fn printed(&self) -> &str {
        assert_eq!(self.end, JobEnd::Exit(0), "{self:#?}");
        self.out.trim_end()
    }
}

/// Returns a builder whose helper is the program of this package.
pub(crate) fn builder(state: &Path) -> ProcessTargetBuilder {
    ProcessTarget::builder(state).helper(env!("CARGO_BIN_EXE_windlass-sandbox"))
}

/// Returns a folder whose parents any user may enter, as jobs at level C need it.
pub(crate) fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

impl Place {
    /// The strongest level of the machine.
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(
        change: impl FnOnce(ProcessTargetBuilder) -> ProcessTargetBuilder,
    ) -> Self {
        let folder = folder();
        let target = change(builder(&folder.path().join("state")))
            .build()
            .await
            .unwrap();
        Self {
            target,
            folder,
            next: AtomicU32::new(1),
        }
    }

    /// That level, or `None` with a printed reason where the machine has it not.
    pub(crate) async fn at(level: SandboxLevel) -> Option<Self> {
        let folder = folder();
        let built = builder(&folder.path().join("state"))
            .level(level)
            .build()
            .await;
        match built {
            Ok(target) => Some(Self {
                target,
                folder,
                next: AtomicU32::new(1),
            }),
            Err(error) => {
                assert_eq!(error.kind(), windlass_core::ComputeErrorKind::Refused);
                let why = error.to_string();
                assert!(
                    why.contains("reason=") || why.contains("landlock="),
                    "{why}"
                );
                println!("not here: {why}");
                None
            }
        }
    }

    /// Every level with walls that the machine has.
    pub(crate) async fn walled() -> Vec<Self> {
        let mut places = Vec::new();
        for level in [
            SandboxLevel::Full,
            SandboxLevel::Namespaces,
            SandboxLevel::Landlock,
        ] {
            places.extend(Self::at(level).await);
        }
        places
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A spec with folders of its own.
    pub(crate) fn spec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> JobSpec {
        let base = self.path(&format!("job-{}", self.number()));
        std::fs::create_dir_all(base.join("outputs")).unwrap();
        let place = |name: &str| Location::Path(base.join(name));
        JobSpec::new(
            command.into_iter().map(Into::into).collect(),
            place("outputs"),
            place("logs"),
            place("result.json"),
        )
    }

    pub(crate) fn shell(&self, script: &str) -> JobSpec {
        self.spec(["/bin/sh", "-c", script])
    }

    pub(crate) fn python(&self, script: &str) -> JobSpec {
        self.spec(["python3", "-c", script])
    }

    pub(crate) fn key(&self) -> SubmitKey {
        // Of this process: names of control groups are the machine's.
        key(&format!("test-{}", std::process::id()), self.number())
    }

    /// Submits, waits for the end and reads the logs.
    pub(crate) async fn run(&self, spec: &JobSpec) -> Seen {
        let handle = self
            .target
            .submit(&self.key(), spec)
            .await
            .unwrap()
            .into_handle();
        self.end_of(&handle, spec).await
    }

    pub(crate) async fn end_of(&self, handle: &JobHandle, spec: &JobSpec) -> Seen {
        let observation = done(&self.target, handle).await;
        let Phase::Done(end) = observation.phase.clone() else {
            unreachable!("done() returns nothing else")
        };
        Seen {
            end,
            out: self.log(handle, LogStream::Stdout).await,
            err: self.log(handle, LogStream::Stderr).await,
            observation,
            outputs: path_of(&spec.outputs),
        }
    }

    pub(crate) async fn log(&self, handle: &JobHandle, stream: LogStream) -> String {
        let bytes = whole_log(&self.target, handle, stream).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs a shell script that must end with code 0, and returns what it printed.
    pub(crate) async fn says(&self, script: &str) -> String {
        self.run(&self.shell(script)).await.printed().to_owned()
    }
}

pub(crate) fn key(owner: &str, number: u32) -> SubmitKey {
    let run = RunId::from_parts(Timestamp::from_micros(1_700_000_000_000_000), 7);
    SubmitKey::new(owner, run, format!("step-{number}"), AttemptNo::new(1))
}

pub(crate) fn path_of(location: &Location) -> PathBuf {
    match location {
        Location::Path(path) => path.clone(),
        _ => panic!("tests use paths"),
    }
}

pub(crate) async fn whole_log(
    target: &ProcessTarget,
    handle: &JobHandle,
    stream: LogStream,
) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = target.logs(handle, stream, all.len() as u64).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

/// Waits until `wanted` holds of the job's observation, woken by the target's own hints.
pub(crate) async fn until(
    target: &ProcessTarget,
    handle: &JobHandle,
    wanted: impl Fn(&Observation) -> bool,
) -> Observation {
    let mut hints = target.watch();
    loop {
        let seen = target.observe(std::slice::from_ref(handle)).await.unwrap();
        if wanted(&seen[0]) {
            return seen[0].clone();
        }
        hints.next().await.expect("the target lives");
    }
}

pub(crate) async fn done(target: &ProcessTarget, handle: &JobHandle) -> Observation {
    until(target, handle, |seen| matches!(seen.phase, Phase::Done(_))).await
}

pub(crate) async fn running(target: &ProcessTarget, handle: &JobHandle) -> Observation {
    until(target, handle, |seen| {
        matches!(seen.phase, Phase::Running | Phase::Done(_))
    })
    .await
}

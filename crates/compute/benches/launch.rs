//! What it costs to start `/usr/bin/true`: bare, by bubblewrap, and at each level of the sandbox.
//!
//! The ways are measured in turns, so that other work on the machine hits all alike. Prints the
//! 5th, 50th and 95th percentile in milliseconds, from the call to the known end. `launch ROUNDS
//! MIB` touches that much memory in the host first: nothing may depend on it.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures and prints"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use windlass_compute::{ProcessTarget, SandboxLevel};
use windlass_core::{
    AttemptNo, ComputeTarget, JobEnd, JobSpec, Location, Phase, RunId, SubmitKey, Timestamp,
};

const PROGRAM: &str = "/usr/bin/true";

fn bare() {
    assert!(
        Command::new(PROGRAM)
            .env_clear()
            .status()
            .unwrap()
            .success()
    );
}

fn bubblewrap() {
    let done = Command::new("/usr/bin/bwrap")
        .args(["--unshare-all", "--die-with-parent", "--clearenv"])
        .args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"])
        .args([
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--symlink",
            "usr/bin",
            "/bin",
        ])
        .args([
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", PROGRAM,
        ])
        .status()
        .unwrap();
    assert!(done.success());
}

async fn sandboxed(target: &ProcessTarget, folder: &std::path::Path, number: u128) -> Duration {
    use futures::StreamExt;
    let place = |name: &str| Location::Path(folder.join(name));
    let spec = JobSpec::new(
        vec![PROGRAM.to_owned()],
        place("outputs"),
        place("logs"),
        place("result"),
    );
    let run = RunId::from_parts(Timestamp::from_micros(0), number);
    let key = SubmitKey::new("bench", run, "step", AttemptNo::new(1));
    let mut hints = target.watch();
    let began = Instant::now();
    let handle = target.submit(&key, &spec).await.unwrap().into_handle();
    loop {
        let seen = hints.next().await.unwrap();
        if let Phase::Done(end) = seen.phase {
            assert_eq!(end, JobEnd::Exit(0), "{:?}", seen.degraded);
            break;
        }
    }
    let took = began.elapsed();
    target.release(&handle).await.unwrap();
    took
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(100);
    let mut memory = vec![0_u8; numbers.get(1).copied().unwrap_or(0) << 20];
    memory.iter_mut().step_by(4_096).for_each(|b| *b = 1);

    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut targets = Vec::new();
    for level in [
        SandboxLevel::Nothing,
        SandboxLevel::Landlock,
        SandboxLevel::Namespaces,
        SandboxLevel::Full,
    ] {
        let built = runtime.block_on(
            ProcessTarget::builder(folder.path().join(level.letter().to_string()))
                .helper(env!("CARGO_BIN_EXE_windlass-sandbox"))
                .level(level)
                .build(),
        );
        match built {
            Ok(target) => targets.push(target),
            Err(e) => println!("{e}"),
        }
    }
    let has_bubblewrap = std::path::Path::new("/usr/bin/bwrap").exists();
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let mut note = |name: &str, took: Duration| {
        times.entry(name.to_owned()).or_default().push(took);
    };
    for round in 0..rounds {
        let began = Instant::now();
        bare();
        note("1 bare", began.elapsed());
        if has_bubblewrap {
            let began = Instant::now();
            bubblewrap();
            note("2 bubblewrap", began.elapsed());
        }
        for target in &targets {
            let took = runtime.block_on(sandboxed(target, folder.path(), round as u128));
            note(&target.capabilities().summary, took);
        }
    }
    for (name, mut all) in times {
        all.sort_unstable();
        let at = |percent: usize| all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        println!("{name:<45} {:7.2} {:7.2} {:7.2}", at(5), at(50), at(95));
    }
    std::hint::black_box(memory);
}

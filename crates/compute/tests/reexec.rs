//! A host that is its own helper: it needs a `main` of its own, which is why this is no `#[test]`.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails by panicking and speaks to the test runner"
)]

use futures::StreamExt;
use windlass_compute::{ProcessTarget, SandboxLevel, init_if_child};
use windlass_core::{
    AttemptNo, ComputeTarget, JobEnd, JobSpec, Location, Phase, RunId, SubmitKey, Timestamp,
};

const NAME: &str = "a_host_is_its_own_helper";

fn main() {
    init_if_child();
    let asked = |word: &str| std::env::args().any(|a| a == word);
    if asked("--list") {
        if !asked("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(a_host_is_its_own_helper());
    println!("test {NAME} ... ok");
}

async fn a_host_is_its_own_helper() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing lies beside this program that could be taken instead.
    let target = ProcessTarget::builder(folder.path().join("state"))
        .build()
        .await
        .unwrap();
    assert!(target.level() >= SandboxLevel::Landlock);
    let place = |name: &str| Location::Path(folder.path().join(name));
    let script = "echo $$ > $WINDLASS_OUTPUTS/pid; exit 6";
    let spec = JobSpec::new(
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        place("outputs"),
        place("logs"),
        place("result"),
    );
    let run = RunId::from_parts(Timestamp::from_micros(0), 1);
    let key = SubmitKey::new("reexec", run, "step", AttemptNo::new(1));
    let mut hints = target.watch();
    target.submit(&key, &spec).await.unwrap();
    let end = loop {
        if let Phase::Done(end) = hints.next().await.unwrap().phase {
            break end;
        }
    };
    assert_eq!(end, JobEnd::Exit(6));
    let pid = std::fs::read_to_string(folder.path().join("outputs/pid")).unwrap();
    assert!(pid.trim().parse::<u32>().unwrap() > 1);
}

//! Limits on the whole tree, and what a job is told to have used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_core::{ComputeErrorKind, ComputeTarget, Isolation, JobEnd, JobSpec, Resources};

use crate::kit::{Place, running};

/// Takes memory until it is stopped.
const HOG: &str = "
held = []
while True:
    held.append(bytearray(1 << 20))
";

/// Returns true if the limit holds here; else asserts that it is named as missing, with the way to
/// get it, and that who requires it is refused.
async fn holds(place: &Place, property: Isolation) -> bool {
    let capabilities = place.target.capabilities();
    if capabilities.isolation.contains(&property) {
        return true;
    }
    let (_, why) = capabilities
        .missing
        .iter()
        .find(|(which, _)| *which == property)
        .unwrap_or_else(|| panic!("{property} is neither held nor missing"));
    assert!(!why.is_empty());
    let mut spec = place.shell("touch $WINDLASS_OUTPUTS/started");
    spec.require = vec![property];
    let error = place.target.submit(&place.key(), &spec).await.unwrap_err();
    assert_eq!(error.kind(), ComputeErrorKind::Refused);
    assert!(error.to_string().contains(why), "{error}");
    println!("not here: {property}: {why}");
    false
}

fn with_memory(mut spec: JobSpec, bytes: u64) -> JobSpec {
    spec.resources = Resources::new().memory_bytes(bytes);
    spec
}

#[tokio::test]
async fn out_of_memory_is_told_by_the_limit_and_not_by_a_code() {
    let place = Place::new().await;
    if !holds(&place, Isolation::Memory).await {
        return;
    }
    assert!(place.target.capabilities().exact_oom);
    let seen = place.run(&with_memory(place.python(HOG), 64 << 20)).await;
    assert_eq!(seen.end, JobEnd::OutOfMemory, "{seen:#?}");
    assert!(seen.usage().oom_kills >= 1 && seen.usage().peak_is_tree);
    let peak = seen.usage().peak_memory_bytes;
    assert!((32 << 20..=64 << 20).contains(&peak), "{peak}");

    let seen = place
        .run(&with_memory(place.shell("exit 137"), 64 << 20))
        .await;
    assert_eq!((&seen.end, seen.usage().oom_kills), (&JobEnd::Exit(137), 0));
    let seen = place
        .run(&with_memory(place.shell("kill -9 $$"), 64 << 20))
        .await;
    assert_eq!(seen.end, JobEnd::Signal(9));
}

#[tokio::test]
async fn a_worker_that_ran_out_of_memory_is_flagged_though_the_job_went_on() {
    let place = Place::new().await;
    if !holds(&place, Isolation::Memory).await {
        return;
    }
    let script = format!("python3 -c '{HOG}'; exit 0");
    let seen = place
        .run(&with_memory(place.shell(&script), 64 << 20))
        .await;
    assert_eq!(seen.end, JobEnd::Exit(0), "{seen:#?}");
    assert!(seen.usage().oom_kills >= 1);
    let told = seen
        .observation
        .degraded
        .iter()
        .any(|s| s.contains("memory limit killed"));
    assert!(told, "{:?}", seen.observation.degraded);
    // A shell hands the kill on as a code: still the limit's doing.
    let script = format!("python3 -c '{HOG}'; exit $?");
    let seen = place
        .run(&with_memory(place.shell(&script), 64 << 20))
        .await;
    assert_eq!(seen.end, JobEnd::OutOfMemory, "{seen:#?}");
}

#[tokio::test]
async fn memory_of_all_processes_counts_together() {
    let place = Place::new().await;
    if !holds(&place, Isolation::Memory).await {
        return;
    }
    let script = "
import os, time
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        held = bytearray(24 << 20)
        time.sleep(60)
    children.append(pid)
print(sum(os.waitstatus_to_exitcode(os.wait()[1]) == -9 for _ in children[:1]))
raise SystemExit(3)
";
    let seen = place
        .run(&with_memory(place.python(script), 96 << 20))
        .await;
    assert_eq!(seen.end, JobEnd::OutOfMemory, "{seen:#?}");
}

#[tokio::test]
async fn the_number_of_processes_is_limited() {
    let script = "
import os, time
made = 0
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError:
    pass
print(made)
";
    for place in Place::walled().await {
        if !holds(&place, Isolation::ProcessCount).await {
            continue;
        }
        let mut spec = place.python(script);
        spec.resources = Resources::new().named("processes", 20);
        let seen = place.run(&spec).await;
        let made: u32 = seen.printed().parse().unwrap();
        assert!(
            (10..=20).contains(&made),
            "{made} at {:?}",
            place.target.level()
        );
    }
}

#[tokio::test]
async fn cpu_is_shared_out_as_asked() {
    let place = Place::new().await;
    if !holds(&place, Isolation::Cpu).await {
        return;
    }
    let script = "
import time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    pass
";
    let mut spec = place.python(script);
    spec.resources = Resources::new().cpu_millis(250);
    let seen = place.run(&spec).await;
    let used = seen.usage().user_micros + seen.usage().system_micros;
    let wall = seen.usage().wall_micros;
    assert!(
        wall >= 1_500_000 && used < wall * 4 / 10,
        "{used} of {wall}"
    );
}

#[tokio::test]
async fn usage_covers_children_too() {
    for place in Place::walled().await {
        let script = "python3 -c '
import time
held = bytearray(40 << 20)
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
' & wait";
        let seen = place.run(&place.shell(script)).await;
        let usage = seen.usage();
        assert_eq!(seen.end, JobEnd::Exit(0));
        assert!(
            usage.user_micros + usage.system_micros >= 300_000,
            "{usage:?}"
        );
        assert!(usage.wall_micros >= 300_000, "{usage:?}");
        assert!(usage.peak_memory_bytes >= 40 << 20, "{usage:?}");
    }
}

#[tokio::test]
async fn no_control_group_stays_behind() {
    let place = Place::new().await;
    if !holds(&place, Isolation::Memory).await {
        return;
    }
    let spec = place.shell("while :; do sleep 0.01; done");
    let key = place.key();
    let handle = place
        .target
        .submit(&key, &spec)
        .await
        .unwrap()
        .into_handle();
    running(&place.target, &handle).await;
    let groups = groups_named(&handle.native_id);
    assert!(!groups.is_empty());
    place.target.cancel(&handle, Duration::ZERO).await.unwrap();
    place.end_of(&handle, &spec).await;
    // They are removed after the end is told; only the helper's last moments are waited for.
    while groups.iter().any(|g| g.exists()) {
        tokio::task::yield_now().await;
    }
    drop(place);
    while groups.iter().any(|g| g.parent().is_some_and(Path::exists)) {
        tokio::task::yield_now().await;
    }
}

/// Returns the control groups of the machine whose name holds `part`.
pub(crate) fn groups_named(part: &str) -> Vec<PathBuf> {
    fn find(folder: &Path, part: &str, depth: u32, found: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if entry.file_name().to_string_lossy().contains(part) {
                found.push(entry.path());
            }
            if depth > 0 {
                find(&entry.path(), part, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    find(Path::new("/sys/fs/cgroup"), part, 6, &mut found);
    found
}

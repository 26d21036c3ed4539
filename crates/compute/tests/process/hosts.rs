//! Hosts that die and come again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use windlass_compute::SandboxLevel;
use windlass_core::{ComputeTarget, Found, JobEnd, JobHandle, LogStream, Phase, Submitted};

use crate::kit::{Place, builder, done, folder, key, running, whole_log};
use crate::limits::groups_named;

const STATE: &str = "WINDLASS_TEST_STATE";
const LEVEL: &str = "WINDLASS_TEST_LEVEL";
const SCRIPT: &str = "WINDLASS_TEST_SCRIPT";

/// Not a test of its own: the host that other tests start and kill.
#[test]
#[ignore = "started by other tests as a process of its own"]
#[expect(
    clippy::disallowed_methods,
    reason = "its orders come in the environment"
)]
fn host_process() {
    let state = std::env::var(STATE).unwrap();
    let level = match std::env::var(LEVEL).unwrap().as_str() {
        "A" => SandboxLevel::Full,
        "B" => SandboxLevel::Namespaces,
        "C" => SandboxLevel::Landlock,
        _ => SandboxLevel::Nothing,
    };
    let script = std::env::var(SCRIPT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let target = builder(Path::new(&state))
            .level(level)
            .build()
            .await
            .unwrap();
        let base = Path::new(&state).with_file_name("job");
        let place = |name: &str| windlass_core::Location::Path(base.join(name));
        let spec = windlass_core::JobSpec::new(
            ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
            place("outputs"),
            place("logs"),
            place("result"),
        );
        let handle = target
            .submit(&key("host", 1), &spec)
            .await
            .unwrap()
            .into_handle();
        running(&target, &handle).await;
        writeln!(std::io::stdout(), "\nup").unwrap();
        std::future::pending::<()>().await;
    });
}

fn start_host(state: &Path, level: SandboxLevel, script: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hosts::host_process", "--ignored", "--nocapture"])
        .env(STATE, state)
        .env(LEVEL, level.letter().to_string())
        .env(SCRIPT, script)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let up = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "up");
    assert!(up, "the host did not start its job");
    child
}

fn count(mark: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| {
            std::fs::read_to_string(e.path().join("cmdline")).is_ok_and(|c| c.contains(mark))
        })
        .count()
}

#[tokio::test]
async fn when_the_host_is_killed_its_jobs_die_and_the_next_host_knows() {
    for level in [
        SandboxLevel::Full,
        SandboxLevel::Namespaces,
        SandboxLevel::Landlock,
    ] {
        if Place::at(level).await.is_none() {
            continue;
        }
        let folder = folder();
        let state = folder.path().join("state");
        let mark = format!("33{}.{}", std::process::id(), level.letter() as u32);
        let script = format!(
            "echo working; (setsid sh -c 'while :; do sleep {mark}; done' &); \
             while :; do sleep {mark}; done"
        );
        let mut host = start_host(&state, level, &script);
        let host_group = format!(".{}.", host.id());
        let sleeps = format!("sleep\0{mark}");
        while count(&sleeps) < 2 {
            tokio::task::yield_now().await;
        }
        // While that host lives, only it can tell.
        let other = builder(&state).level(level).build().await.unwrap();
        let key = key("host", 1);
        let handle = JobHandle::new(key.clone(), key.native_name());
        assert_eq!(other.find(&key).await.unwrap(), Found::Unknown);
        let seen = other.observe(std::slice::from_ref(&handle)).await.unwrap();
        assert_eq!(seen[0].phase, Phase::Running);

        host.kill().unwrap();
        #[expect(clippy::disallowed_methods, reason = "measures real processes")]
        let killed = std::time::Instant::now();
        while count(&mark) > 0 {
            tokio::task::yield_now().await;
        }
        let took = killed.elapsed();
        println!("level {}: gone {took:?} after the host", level.letter());
        assert!(took < Duration::from_secs(1), "{took:?}");
        host.wait().unwrap();

        assert_eq!(other.find(&key).await.unwrap(), Found::Gone);
        drop(other);
        let next = builder(&state).level(level).build().await.unwrap();
        let left = groups_named(&host_group);
        assert!(left.is_empty(), "left-over groups are swept: {left:?}");
        assert_eq!(next.find(&key).await.unwrap(), Found::Gone);
        assert_eq!(done(&next, &handle).await.phase, Phase::Done(JobEnd::Lost));
        let log = whole_log(&next, &handle, LogStream::Stdout).await;
        assert_eq!(log, b"working\n");
        let listed = next.list_owned("host").await.unwrap();
        assert_eq!(listed, std::slice::from_ref(&handle));
        // The same key never starts a second job, until it is released.
        let place = Place::new().await;
        let again = next.submit(&key, &place.shell("exit 0")).await.unwrap();
        assert!(matches!(again, Submitted::Attached(_)), "{again:?}");
        assert_eq!(done(&next, &handle).await.phase, Phase::Done(JobEnd::Lost));
        next.release(&handle).await.unwrap();
        assert_eq!(next.find(&key).await.unwrap(), Found::Never);
    }
}

#[tokio::test]
async fn a_job_without_walls_is_ended_by_the_next_host() {
    let folder = folder();
    let state = folder.path().join("state");
    let mark = format!("34{}", std::process::id());
    let script = format!("while :; do sleep {mark}; done");
    let mut host = start_host(&state, SandboxLevel::Nothing, &script);
    host.kill().unwrap();
    host.wait().unwrap();
    let next = builder(&state)
        .level(SandboxLevel::Nothing)
        .build()
        .await
        .unwrap();
    while count(&mark) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(next.find(&key("host", 1)).await.unwrap(), Found::Gone);
}

#[tokio::test]
async fn an_end_outlives_its_host() {
    let folder = folder();
    let state = folder.path().join("state");
    let place = Place::new().await;
    let mut spec = place.shell("echo said; exit 3");
    spec.resources = windlass_core::Resources::new().memory_gib(1);
    let key = key("restart", 1);
    let first = builder(&state).build().await.unwrap();
    let handle = first.submit(&key, &spec).await.unwrap().into_handle();
    let before = done(&first, &handle).await;
    drop(first);

    let second = builder(&state).build().await.unwrap();
    assert_eq!(second.find(&key).await.unwrap(), Found::One(handle.clone()));
    let after = done(&second, &handle).await;
    assert_eq!(after, before);
    assert_eq!(after.phase, Phase::Done(JobEnd::Exit(3)));
    assert!(after.usage.is_some() && after.started_at.is_some());
    assert_eq!(
        whole_log(&second, &handle, LogStream::Stdout).await,
        b"said\n"
    );
    let again = second.submit(&key, &spec).await.unwrap();
    assert!(matches!(again, Submitted::Attached(_)));
}

#[tokio::test]
async fn after_another_boot_every_job_of_the_earlier_one_is_gone() {
    let folder = folder();
    let state = folder.path().join("state");
    let place = Place::new().await;
    let spec = place.shell("exit 0");
    let ended = key("boots", 1);
    let first = builder(&state).build().await.unwrap();
    let handle = first.submit(&ended, &spec).await.unwrap().into_handle();
    done(&first, &handle).await;
    // This is the first boot that the folder sees, so nothing can have been forgotten.
    assert_eq!(first.find(&key("boots", 2)).await.unwrap(), Found::Never);
    drop(first);

    // What the machine finds when it starts again: another name of the boot.
    let journal = state.join("jobs/journal");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.contains(boot.trim()));
    std::fs::write(&journal, text.replace(boot.trim(), "earlier")).unwrap();
    // The first host of a boot may die before it has asked for all that it must.
    for _ in 0..2 {
        let next = builder(&state).build().await.unwrap();
        // The line of the one may not have reached the disk, nor the outputs of the other.
        for key in [key("boots", 2), ended.clone()] {
            assert_eq!(next.find(&key).await.unwrap(), Found::Gone);
        }
        assert_eq!(done(&next, &handle).await.phase, Phase::Done(JobEnd::Lost));
        assert!(next.list_owned("boots").await.unwrap().is_empty());
    }
    let next = builder(&state).build().await.unwrap();
    let again = next.submit(&ended, &spec).await.unwrap();
    assert!(again.is_new(), "{again:?}");
    assert_eq!(
        done(&next, &handle).await.phase,
        Phase::Done(JobEnd::Exit(0))
    );
}

#[test]
fn a_runtime_that_goes_takes_its_jobs_along() {
    for level in [SandboxLevel::Full, SandboxLevel::Nothing] {
        let folder = folder();
        let state = folder.path().join("state");
        let mark = format!("35{}.{}", std::process::id(), level.letter() as u32);
        let key = key("runtime", 1);
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let first = runtime();
        let built = first.block_on(async {
            let place = Place::at(level).await?;
            let target = builder(&state).level(level).build().await.unwrap();
            let spec = place.shell(&format!("while :; do sleep {mark}; done"));
            let handle = target.submit(&key, &spec).await.unwrap().into_handle();
            running(&target, &handle).await;
            while count(&mark) < 2 {
                tokio::task::yield_now().await;
            }
            Some(())
        });
        drop(first);
        if built.is_none() {
            continue;
        }
        while count(&mark) > 0 {
            std::thread::yield_now();
        }
        runtime().block_on(async {
            let next = builder(&state).level(level).build().await.unwrap();
            assert_eq!(next.find(&key).await.unwrap(), Found::Gone);
        });
    }
}

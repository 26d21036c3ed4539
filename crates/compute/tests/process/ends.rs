//! How jobs end, and that it is told as it was.

use std::time::Duration;

use windlass_compute::SandboxLevel;
use windlass_core::{ComputeTarget, JobEnd};

use crate::kit::{Place, running};

#[tokio::test]
async fn a_job_ends_with_its_own_code_or_signal() {
    for place in Place::walled().await {
        for (script, end) in [
            ("exit 0", JobEnd::Exit(0)),
            ("exit 7", JobEnd::Exit(7)),
            ("exit 137", JobEnd::Exit(137)),
            ("kill -TERM $$", JobEnd::Signal(15)),
            ("kill -KILL $$", JobEnd::Signal(9)),
            ("kill -ABRT $$", JobEnd::Signal(6)),
        ] {
            let seen = place.run(&place.shell(script)).await;
            assert_eq!(
                seen.end,
                end,
                "{script} at {:?}: {seen:#?}",
                place.target.level()
            );
        }
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_start() {
    for place in Place::walled().await {
        let seen = place.run(&place.spec(["no-such-program"])).await;
        let JobEnd::StartFailed(why) = &seen.end else {
            panic!("{seen:#?}")
        };
        assert!(why.contains("no-such-program"), "{why}");
    }
}

#[tokio::test]
async fn wall_time_ends_a_job_that_ignores_the_request() {
    for place in Place::walled().await {
        let mut spec = place.shell("trap '' TERM; while :; do sleep 0.01; done");
        spec.walltime = Some(Duration::from_millis(300));
        spec.grace = Duration::from_millis(200);
        let seen = place.run(&spec).await;
        assert_eq!(seen.end, JobEnd::TimeLimit, "{seen:#?}");
        let wall = Duration::from_micros(seen.usage().wall_micros);
        assert!(wall >= Duration::from_millis(500), "{wall:?}");
        assert!(wall < Duration::from_secs(5), "{wall:?}");
    }
}

#[tokio::test]
async fn a_job_may_use_its_grace_to_end_well() {
    let place = Place::new().await;
    let spec = place.shell("trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    let handle = place
        .target
        .submit(&place.key(), &spec)
        .await
        .unwrap()
        .into_handle();
    running(&place.target, &handle).await;
    while place
        .log(&handle, windlass_core::LogStream::Stdout)
        .await
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    place
        .target
        .cancel(&handle, Duration::from_secs(30))
        .await
        .unwrap();
    let seen = place.end_of(&handle, &spec).await;
    assert_eq!(seen.end, JobEnd::Cancelled);
    assert!(seen.out.contains("saved"), "{seen:#?}");
}

#[tokio::test]
async fn cancel_kills_what_ran_away_before_the_end_is_told() {
    for place in Place::walled().await {
        let level = place.target.level();
        let mark = format!("31{}.{}", std::process::id(), level.letter() as u32);
        // Away from its session, its parent and its group, and deaf to TERM.
        let script = format!(
            "(setsid sh -c 'trap \"\" TERM; while :; do sleep {mark}; done' &) & \
             trap '' TERM; echo up; while :; do sleep {mark}; done"
        );
        let spec = place.shell(&script);
        let handle = place
            .target
            .submit(&place.key(), &spec)
            .await
            .unwrap()
            .into_handle();
        while sleepers(&mark) < 2 {
            tokio::task::yield_now().await;
        }
        place
            .target
            .cancel(&handle, Duration::from_millis(50))
            .await
            .unwrap();
        let seen = place.end_of(&handle, &spec).await;
        assert_eq!(seen.end, JobEnd::Cancelled, "{level:?} {seen:#?}");
        assert_eq!(sleepers(&mark), 0, "{level:?}");
        // A job that has ended stays as it ended.
        place.target.cancel(&handle, Duration::ZERO).await.unwrap();
        assert_eq!(place.end_of(&handle, &spec).await.end, JobEnd::Cancelled);
    }
}

#[tokio::test]
async fn what_a_job_leaves_behind_is_killed_with_it() {
    for place in Place::walled().await {
        let level = place.target.level();
        let mark = format!("32{}.{}", std::process::id(), level.letter() as u32);
        let script = format!(
            "(setsid sleep {mark} &) & sleep {mark} & \
             while [ $(ps -eo args 2>/dev/null | grep -c '[s]leep {mark}') -eq 1 ]; do :; done; exit 5"
        );
        let seen = place.run(&place.shell(&script)).await;
        assert_eq!(seen.end, JobEnd::Exit(5), "{level:?} {seen:#?}");
        assert_eq!(sleepers(&mark), 0, "{level:?}");
    }
}

#[tokio::test]
async fn orphans_are_reaped_while_the_job_runs() {
    let place = Place::new().await;
    if place.target.level() < SandboxLevel::Namespaces {
        println!("not here: no process namespace");
        return;
    }
    let script = r#"
import os, glob
for _ in range(300):
    pid = os.fork()
    if pid == 0:
        os.fork() or os._exit(0)   # the grandchild is an orphan at once
        os._exit(0)
    os.waitpid(pid, 0)
def zombies():
    n = 0
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            n += open(path).read().rsplit(')', 1)[1].split()[0] == 'Z'
        except OSError:
            pass
    return n
while zombies():
    pass
print('reaped')
"#;
    assert_eq!(place.run(&place.python(script)).await.printed(), "reaped");
}

#[tokio::test]
async fn signals_are_as_for_a_program_started_by_hand() {
    let script = "
import signal
print(sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
ignored = int(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], 16)
# 32 and 33 are the C library's own, and nobody can set them through it.
print([n for n in range(1, 65) if ignored >> (n - 1) & 1 and n not in (32, 33)])
";
    let place = Place::new().await;
    if place.target.level() < SandboxLevel::Namespaces {
        println!("not here: no /proc for the job");
        return;
    }
    // Python itself ignores SIGPIPE and SIGXFSZ.
    let seen = place.run(&place.python(script)).await;
    assert_eq!(seen.printed(), "[]\n[13, 25]");
}

/// Counts processes of the machine that sleep for exactly that time.
fn sleepers(mark: &str) -> usize {
    let wanted = format!("sleep\0{mark}\0");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|c| c == wanted.as_bytes())
        })
        .count()
}

//! The promises of the trait: one key one job, finding, listing, releasing, refusing.

use std::time::Duration;

use futures::StreamExt;
use windlass_core::{
    ComputeErrorKind, ComputeTarget, Found, JobEnd, JobHandle, Location, LogicalName, Phase,
    Resources, SoftwareSpec, Staging, Submitted,
};

use crate::kit::{Place, builder, done, key, running};

#[tokio::test]
async fn submitting_twice_gives_one_job() {
    let place = Place::new().await;
    let spec =
        place.shell("echo run >> $WINDLASS_OUTPUTS/runs; cat /dev/urandom | head -c 10 >/dev/null");
    let key = place.key();
    assert_eq!(place.target.find(&key).await.unwrap(), Found::Never);
    let all = futures::future::join_all((0..8).map(|_| place.target.submit(&key, &spec))).await;
    let created = all
        .iter()
        .filter(|s| s.as_ref().is_ok_and(Submitted::is_new))
        .count();
    assert_eq!(created, 1, "{all:?}");
    let handle = JobHandle::new(key.clone(), key.native_name());
    assert_eq!(
        place.target.find(&key).await.unwrap(),
        Found::One(handle.clone())
    );
    let seen = place.end_of(&handle, &spec).await;
    assert_eq!(seen.end, JobEnd::Exit(0), "{seen:#?}");
    let again = place.target.submit(&key, &spec).await.unwrap();
    assert!(matches!(again, Submitted::Attached(_)));
    let runs = std::fs::read_to_string(seen.outputs.join("runs")).unwrap();
    assert_eq!(runs, "run\n");

    assert_eq!(
        place.target.find(&key).await.unwrap(),
        Found::One(handle.clone())
    );
    place.target.release(&handle).await.unwrap();
    place.target.release(&handle).await.unwrap();
    assert_eq!(place.target.find(&key).await.unwrap(), Found::Never);
    assert_eq!(
        done(&place.target, &handle).await.phase,
        Phase::Done(JobEnd::Lost)
    );
}

#[tokio::test]
async fn a_dropped_submit_leaves_a_whole_job() {
    let place = Place::new().await;
    let spec = place.shell("exit 4");
    let key = place.key();
    {
        let submit = place.target.submit(&key, &spec);
        let mut submit = std::pin::pin!(submit);
        // Polled once, then dropped.
        assert!(futures::poll!(&mut submit).is_pending());
    }
    let handle = JobHandle::new(key.clone(), key.native_name());
    assert_eq!(
        place.target.find(&key).await.unwrap(),
        Found::One(handle.clone())
    );
    assert_eq!(place.end_of(&handle, &spec).await.end, JobEnd::Exit(4));
}

#[tokio::test]
async fn a_running_job_is_not_released_and_can_be_cancelled_before_it_starts() {
    let place = Place::new().await;
    let spec = place.shell("while :; do sleep 0.01; done");
    let key = place.key();
    let handle = JobHandle::new(key.clone(), key.native_name());
    let target = place.target.clone();
    let (submitted, ()) = tokio::join!(place.target.submit(&key, &spec), async {
        while target.find(&key).await.unwrap() == Found::Never {
            tokio::task::yield_now().await;
        }
        target.cancel(&handle, Duration::ZERO).await.unwrap();
    });
    submitted.unwrap();
    assert_eq!(place.end_of(&handle, &spec).await.end, JobEnd::Cancelled);

    let key = place.key();
    let handle = place
        .target
        .submit(&key, &spec)
        .await
        .unwrap()
        .into_handle();
    running(&place.target, &handle).await;
    place.target.release(&handle).await.unwrap();
    assert_eq!(
        place.target.find(&key).await.unwrap(),
        Found::One(handle.clone())
    );
    place.target.cancel(&handle, Duration::ZERO).await.unwrap();
    assert_eq!(place.end_of(&handle, &spec).await.end, JobEnd::Cancelled);
}

#[tokio::test]
async fn jobs_are_listed_by_owner() {
    let place = Place::new().await;
    let mut handles = Vec::new();
    for (owner, number) in [("a", 1), ("a", 2), ("b", 3)] {
        let spec = place.shell("exit 0");
        let submitted = place
            .target
            .submit(&key(owner, number), &spec)
            .await
            .unwrap();
        handles.push(submitted.into_handle());
    }
    let names = async |owner| {
        let mut all = place.target.list_owned(owner).await.unwrap();
        all.sort_by(|a, b| a.key.step.cmp(&b.key.step));
        all
    };
    assert_eq!(names("a").await, handles[..2]);
    assert_eq!(names("b").await, handles[2..]);
    assert!(names("c").await.is_empty());
    for handle in &handles {
        done(&place.target, handle).await;
    }
    let seen = place.target.observe(&handles).await.unwrap();
    let keys: Vec<_> = seen.into_iter().map(|o| o.key).collect();
    assert_eq!(
        keys,
        handles.iter().map(|h| h.key.clone()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn watching_tells_start_and_end_and_stops_with_the_target() {
    let place = Place::new().await;
    let mut hints = place.target.watch();
    let spec = place.shell("exit 3");
    let handle = place
        .target
        .submit(&place.key(), &spec)
        .await
        .unwrap()
        .into_handle();
    let mut phases = Vec::new();
    while !matches!(phases.last(), Some(Phase::Done(_))) {
        let seen = hints.next().await.unwrap();
        assert_eq!(seen.key, handle.key);
        phases.push(seen.phase);
    }
    assert_eq!(phases, [Phase::Running, Phase::Done(JobEnd::Exit(3))]);
    let seen = place.target.observe(&[handle]).await.unwrap();
    assert!(seen[0].started_at.is_some());
    drop(place);
    assert!(hints.next().await.is_none());
}

#[tokio::test]
async fn what_can_not_run_here_is_refused_before_anything_starts() {
    let place = Place::with(|b| b.capacity(Resources::new().cpu_cores(2).memory_gib(1))).await;
    assert_eq!(place.target.capabilities().staging, Staging::HostPaths);
    assert!(!place.target.capabilities().survives_host);
    let ok = || place.shell("touch $WINDLASS_OUTPUTS/started");
    let mut too_big = ok();
    too_big.resources = Resources::new().memory_gib(2);
    let mut uri = ok();
    uri.outputs = Location::Uri("lake://x".to_owned());
    let mut relative = ok();
    relative.code = Some(Location::Path("models/churn".into()));
    let mut gone = ok();
    let name = LogicalName::new("data").unwrap();
    gone.inputs
        .insert(name, Location::Path(place.path("nothing-here")));
    let mut lock = ok();
    lock.software = SoftwareSpec::Python("requirements.lock".to_owned());
    let mut name = ok();
    name.variables.insert("A=B".to_owned(), String::new());
    let mut nothing = ok();
    nothing.command.clear();
    for (spec, says) in [
        (&too_big, "asked=`2GiB` total=`1GiB`"),
        (&uri, "uri=`lake://x`"),
        (&relative, "absolute"),
        (&gone, "input `data` is not there"),
        (&lock, "requirements.lock"),
        (&name, "A=B"),
        (&nothing, "command is empty"),
    ] {
        let key = place.key();
        let error = place.target.submit(&key, spec).await.unwrap_err();
        assert_eq!(error.kind(), ComputeErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(place.target.find(&key).await.unwrap(), Found::Never);
    }
    assert_eq!(
        place.target.check(&too_big).await.unwrap_err().kind(),
        ComputeErrorKind::Refused
    );
}

#[tokio::test]
async fn a_prepared_environment_answers_for_its_lock_file() {
    let place = Place::new().await;
    let venv = place.path("venv");
    let made = std::process::Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status()
        .unwrap();
    assert!(made.success());
    let software = SoftwareSpec::Python("requirements.lock".to_owned());
    let place = Place::with(|b| b.environment(software.clone(), &venv)).await;
    let mut spec = place.python("import sys; print(sys.prefix)");
    spec.software = software;
    assert_eq!(place.run(&spec).await.printed(), venv.to_str().unwrap());
    let spec = place.python("import sys; print(sys.prefix)");
    assert_eq!(place.run(&spec).await.printed(), "/usr");
}

#[tokio::test]
async fn a_state_folder_that_can_not_be_used_is_told() {
    let error = builder(std::path::Path::new("/proc/nothing"))
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ComputeErrorKind::Unavailable);
    assert!(error.to_string().contains("/proc/nothing"), "{error}");
}

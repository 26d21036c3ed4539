//! Which level a machine gives, and that what is missing is said.

use windlass_compute::{ProcessTarget, SandboxLevel};
use windlass_core::{ComputeErrorKind, ComputeTarget, Found, Isolation, JobEnd, Resources};

use crate::kit::{Place, folder, path_of};

#[tokio::test]
async fn every_property_is_either_held_or_named_as_missing() {
    for place in Place::walled().await {
        let capabilities = place.target.capabilities();
        let letter = place.target.level().letter();
        let summary = format!("process sandbox level {letter}");
        assert!(
            capabilities.summary.starts_with(&summary),
            "{}",
            capabilities.summary
        );
        println!(
            "{}: missing {:?}",
            capabilities.summary, capabilities.missing
        );
        for property in Isolation::ALL {
            let held = capabilities.isolation.contains(property);
            let missing = capabilities.missing.iter().any(|(p, _)| p == property);
            assert!(held != missing, "{property}");
            let mut spec = place.shell("touch $WINDLASS_OUTPUTS/started");
            spec.require = vec![*property];
            let key = place.key();
            match place.target.submit(&key, &spec).await {
                Ok(_) => assert!(held, "{property} is missing"),
                Err(error) => {
                    assert!(missing, "{error}");
                    assert_eq!(error.kind(), ComputeErrorKind::Refused);
                    assert_eq!(place.target.find(&key).await.unwrap(), Found::Never);
                }
            }
        }
    }
}

#[tokio::test]
async fn namespaces_without_control_groups_say_that_memory_is_not_limited() {
    let Some(place) = Place::at(SandboxLevel::Namespaces).await else {
        return;
    };
    let mut spec = place.shell("exit 0");
    assert!(place.target.check(&spec).await.unwrap().is_empty());
    spec.resources = Resources::new().memory_gib(1).cpu_cores(1);
    let sentences = place.target.check(&spec).await.unwrap();
    assert_eq!(sentences.len(), 2, "{sentences:?}");
    let seen = place.run(&spec).await;
    assert_eq!(seen.observation.degraded, sentences);
    assert!(!seen.usage().peak_is_tree && seen.usage().peak_memory_bytes > 0);
}

#[tokio::test]
async fn no_sandbox_is_had_by_name_only_and_promises_nothing() {
    let place = Place::at(SandboxLevel::Nothing).await.unwrap();
    let capabilities = place.target.capabilities();
    assert_eq!(capabilities.summary, "process sandbox level D");
    assert!(capabilities.isolation.is_empty() && !capabilities.exact_oom);
    let script = "echo hi; echo 5 > $WINDLASS_RESULT; touch $TMPDIR/x $WINDLASS_OUTPUTS/y; exit 9";
    let spec = place.shell(script);
    assert_eq!(place.target.check(&spec).await.unwrap().len(), 5);
    let seen = place.run(&spec).await;
    assert_eq!(
        (seen.end.clone(), seen.out.as_str()),
        (JobEnd::Exit(9), "hi\n"),
        "{seen:#?}"
    );
    assert!(seen.outputs.join("y").exists() && seen.usage().wall_micros > 0);
    let result = seen.outputs.with_file_name("result.json");
    assert_eq!(std::fs::read(result).unwrap(), b"5\n");
    let seen = place.run(&place.spec(["no-such-program"])).await;
    assert!(matches!(seen.end, JobEnd::StartFailed(_)), "{seen:#?}");
    let mut spec = place.shell("sleep 60 & while :; do sleep 0.01; done");
    spec.walltime = Some(std::time::Duration::from_millis(100));
    assert_eq!(place.run(&spec).await.end, JobEnd::TimeLimit);
}

#[tokio::test]
async fn without_walls_what_a_job_leaves_is_taken_and_nothing_is_made_for_nothing() {
    let place = Place::at(SandboxLevel::Nothing).await.unwrap();
    assert!(place.target.capabilities().makes_folders);
    let stay = "trap 'exit 0' TERM; while :; do sleep 0.01; done";
    for (script, left) in [
        ("exit 0", None),
        (
            "mkdir -p $WINDLASS_OUTPUTS/a; echo 1 > $WINDLASS_OUTPUTS/a/b",
            Some("outputs"),
        ),
        ("echo 1 > $WINDLASS_RESULT", Some("result.json")),
        ("echo 1", Some("logs")),
        ("echo 1 >&2; exit 3", Some("logs")),
        ("echo 1 > $TMPDIR/x; kill -9 $$", None),
        ("sleep 0.1", None),
        ("sleep 0.1; mkdir $WINDLASS_OUTPUTS/a", Some("outputs")),
    ] {
        let spec = place.shell(script);
        let folder = path_of(&spec.outputs).parent().unwrap().to_owned();
        std::fs::remove_dir(path_of(&spec.outputs)).unwrap();
        let seen = place.run(&spec).await;
        let found: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(found, Vec::from_iter(left), "{script}: {seen:#?}");
        // It never says so of a job that may have left something.
        let nothing = seen.observation.left_nothing;
        assert_eq!(
            nothing,
            left.is_none() && !script.contains("TMPDIR"),
            "{script}"
        );
    }
    // Two at once never share a folder, and a job that stays finds its own empty.
    let spec = place.shell(&format!(
        "[ -z \"$(ls $TMPDIR)\" ] && touch $TMPDIR/x && echo up; {stay}"
    ));
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let mut spec = spec.clone();
        spec.logs = windlass_core::Location::Path(place.path(&format!("logs-{}", jobs.len())));
        jobs.push(
            place
                .target
                .submit(&place.key(), &spec)
                .await
                .unwrap()
                .into_handle(),
        );
    }
    for job in &jobs {
        while place.log(job, windlass_core::LogStream::Stdout).await != "up\n" {
            tokio::task::yield_now().await;
        }
        place
            .target
            .cancel(job, std::time::Duration::from_secs(20))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_helper_that_does_not_work_is_no_silent_fall_to_less() {
    for program in ["/nonexistent/helper", "/bin/true"] {
        let folder = folder();
        let error = ProcessTarget::builder(folder.path())
            .helper(program)
            .build()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ComputeErrorKind::Refused);
        assert!(error.to_string().contains(program), "{error}");
    }
}

#[tokio::test]
async fn the_strongest_level_is_taken_by_itself() {
    let place = Place::new().await;
    let mut strongest = None;
    for level in [
        SandboxLevel::Full,
        SandboxLevel::Namespaces,
        SandboxLevel::Landlock,
    ] {
        if strongest.is_none() && Place::at(level).await.is_some() {
            strongest = Some(level);
        }
    }
    assert_eq!(Some(place.target.level()), strongest);
}

#[tokio::test]
async fn files_that_are_too_large_are_cut_by_the_disk_limit() {
    let place = Place::new().await;
    let mut spec = place.shell("head -c 3000000 /dev/zero > $WINDLASS_OUTPUTS/big");
    spec.resources = Resources::new().named("disk", 1_000_000);
    let seen = place.run(&spec).await;
    assert_ne!(seen.end, JobEnd::Exit(0));
    let size = std::fs::metadata(seen.outputs.join("big")).unwrap().len();
    assert!(size <= 1_000_000, "{size}");
    assert!(seen.observation.degraded.iter().any(|s| s.contains("disk")));
}

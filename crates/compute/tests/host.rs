//! The books of a target that starts jobs on this host.
#![cfg(unix)]

use std::path::Path;

use windlass_compute::host::{Ledger, command};
use windlass_core::{
    AttemptNo, ComputeErrorKind, Found, JobEnd, JobHandle, JobSpec, Location, LogStream, Phase,
    RunId, SubmitKey, Timestamp, Usage,
};

fn handle() -> JobHandle {
    let run = RunId::from_parts(Timestamp::from_micros(0), 1);
    let key = SubmitKey::new("owner", run, "step", AttemptNo::new(1));
    JobHandle::new(key.clone(), key.native_name())
}

fn spec(folder: &Path) -> JobSpec {
    let place = |name: &str| Location::Path(folder.join(name));
    let script = "printf out; printf err >&2; exit 3";
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    JobSpec::new(command, place("outputs"), place("logs"), place("result"))
}

#[test]
fn a_job_whose_host_died_is_unknown_and_never_launched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, spec) = (handle(), spec(folder.path()));
    let first = Ledger::open(folder.path().join("books")).unwrap();
    assert_eq!(first.find(&handle.key).unwrap(), Found::Never);
    let entry = first.claim(&handle, &spec, Vec::new()).unwrap().unwrap();
    // What a killed host leaves: the files, and no end.
    std::mem::forget(entry);
    let next = Ledger::open(folder.path().join("books")).unwrap();
    assert_eq!(next.find(&handle.key).unwrap(), Found::Unknown);
    assert!(next.claim(&handle, &spec, Vec::new()).unwrap().is_none());
    let seen = next.observe(std::slice::from_ref(&handle)).unwrap();
    let unknown = JobEnd::Unknown("its host is gone".to_owned());
    assert_eq!(seen[0].phase, Phase::Done(unknown));
    assert_eq!(next.list_owned("owner").unwrap(), [handle]);
}

#[test]
fn a_claim_without_a_record_is_unknown_too() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let handle = handle();
    // A host that died between the two writes of a claim.
    std::fs::create_dir(folder.path().join(&handle.native_id)).unwrap();
    assert_eq!(ledger.find(&handle.key).unwrap(), Found::Unknown);
    assert!(ledger.list_owned("owner").unwrap().is_empty());
}

#[test]
fn an_entry_that_nobody_ends_is_an_unknown_end() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path().join("books")).unwrap();
    let (handle, spec) = (handle(), spec(folder.path()));
    drop(ledger.claim(&handle, &spec, Vec::new()).unwrap());
    let seen = ledger.observe(&[handle]).unwrap();
    assert!(
        matches!(seen[0].phase, Phase::Done(JobEnd::Unknown(_))),
        "{seen:?}"
    );
}

#[test]
fn an_end_and_its_usage_outlive_the_ledger_until_the_release() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, spec) = (handle(), spec(folder.path()));
    let open = || Ledger::open(folder.path().join("books")).unwrap();
    let ledger = open();
    let entry = ledger.claim(&handle, &spec, Vec::new()).unwrap().unwrap();
    let status = command(&spec, entry.folder()).unwrap().status().unwrap();
    let mut usage = Usage::default();
    usage.wall_micros = 7;
    entry.end(status.into(), Some(usage.clone()));
    for ledger in [ledger, open()] {
        let seen = ledger.observe(std::slice::from_ref(&handle)).unwrap();
        assert_eq!(seen[0].phase, Phase::Done(JobEnd::Exit(3)));
        assert_eq!(seen[0].usage.as_ref(), Some(&usage));
        let log = ledger.logs(&handle, LogStream::Stderr, 1).unwrap();
        assert_eq!(&log[..], b"rr");
    }
    open().release(&handle).unwrap();
    assert_eq!(open().find(&handle.key).unwrap(), Found::Never);
    let gone = open().logs(&handle, LogStream::Stdout, 0).unwrap_err();
    assert_eq!(gone.kind(), ComputeErrorKind::NotFound);
}

#[test]
fn what_has_no_path_here_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path().join("books")).unwrap();
    let uri = Location::Uri("lake://x".to_owned());
    let mut elsewhere = spec(folder.path());
    elsewhere.logs = uri.clone();
    let refused = ledger.claim(&handle(), &elsewhere, Vec::new()).unwrap_err();
    assert_eq!(refused.kind(), ComputeErrorKind::Refused);
    assert!(refused.to_string().contains("lake://x"), "{refused}");
    assert_eq!(ledger.find(&handle().key).unwrap(), Found::Never);
    let mut nothing = spec(folder.path());
    nothing.command.clear();
    assert!(command(&nothing, folder.path()).is_err());
    let mut outputs = spec(folder.path());
    outputs.outputs = uri;
    assert!(command(&outputs, &folder.path().join("x")).is_err());
}

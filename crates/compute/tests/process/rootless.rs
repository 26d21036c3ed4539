//! The same sandbox for a host that is an ordinary user.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use windlass_compute::{ProcessTarget, SandboxLevel};
use windlass_core::{ComputeTarget, Isolation, JobEnd, JobSpec, Location};

use crate::kit::done;

const FOLDER: &str = "WINDLASS_TEST_ROOTLESS";
const USER: u32 = 61_234;

/// Not a test of its own: the host that runs as an ordinary user.
#[test]
#[ignore = "started by another test as another user"]
#[expect(
    clippy::disallowed_methods,
    reason = "its orders come in the environment"
)]
fn rootless_host() {
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let target = ProcessTarget::builder(folder.join("state"))
            .helper(folder.join("helper"))
            .build()
            .await
            .unwrap();
        let place = |name: &str| Location::Path(folder.join(name));
        let script = "id -u; cut -c 11-22 /proc/self/uid_map; cat $WINDLASS_INPUTS/data; \
                      echo kept > $WINDLASS_OUTPUTS/file; ls /home /root 2>/dev/null; \
                      cat /proc/1/environ 2>/dev/null; echo $$";
        let mut spec = JobSpec::new(
            ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            place("outputs"),
            place("logs"),
            place("result"),
        );
        std::fs::write(folder.join("data"), "mine\n").unwrap();
        let name = windlass_core::LogicalName::new("data").unwrap();
        spec.inputs.insert(name, place("data"));
        let key = crate::kit::key("rootless", 1);
        let handle = target.submit(&key, &spec).await.unwrap().into_handle();
        let seen = done(&target, &handle).await;
        assert_eq!(
            seen.phase,
            windlass_core::Phase::Done(JobEnd::Exit(0)),
            "{seen:#?}"
        );
        let capabilities = target.capabilities();
        if target.level() < SandboxLevel::Full {
            let (_, why) = capabilities
                .missing
                .iter()
                .find(|(which, _)| *which == Isolation::Memory)
                .unwrap();
            assert!(why.contains("Delegate=yes"), "{why}");
        }
        writeln!(std::io::stdout(), "\nlevel {}", target.level().letter()).unwrap();
    });
}

#[test]
fn an_ordinary_user_gets_namespaces_too() {
    if !rustix::process::geteuid().is_root() {
        println!("not here: the other tests already run as an ordinary user");
        return;
    }
    let folder = crate::kit::folder();
    let helper = folder.path().join("helper");
    let tests = folder.path().join("tests");
    std::fs::copy(env!("CARGO_BIN_EXE_windlass-sandbox"), &helper).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).unwrap();
    let user = USER.to_string();
    let ran = Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .arg(&tests)
        .args([
            "--exact",
            "rootless::rootless_host",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let err = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{err}");
    println!("{said}");
    let out = std::fs::read_to_string(folder.path().join("logs/stdout.log")).unwrap();
    if said.contains("level C") {
        return;
    }
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert_eq!(lines[..3], ["1000", user.as_str(), "mine"], "{out}");
    assert_eq!(lines.len(), 4, "nothing of the host is seen: {out}");
    let made = std::fs::metadata(folder.path().join("outputs/file")).unwrap();
    assert_eq!(made.uid(), USER);
}

/// Not a test of its own: a root host whose jobs' folders lie where owners can't be mapped.
#[test]
#[ignore = "started by another test in a mount namespace of its own"]
#[expect(
    clippy::disallowed_methods,
    reason = "its orders come in the environment"
)]
fn overlay_host() {
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let target = crate::kit::builder(&folder.join("state"))
            .build()
            .await
            .unwrap();
        let place = |name: &str| Location::Path(folder.join(name));
        let script = "cat $WINDLASS_INPUTS/data/rows; mkdir -p $WINDLASS_OUTPUTS/a/b; \
                      echo kept > $WINDLASS_OUTPUTS/a/b/file; echo 1 > $WINDLASS_RESULT";
        let mut spec = JobSpec::new(
            ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            place("outputs"),
            place("logs"),
            place("result"),
        );
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(folder.join("data/rows"), "rows").unwrap();
        let name = windlass_core::LogicalName::new("data").unwrap();
        spec.inputs.insert(name, place("data"));
        let key = crate::kit::key("overlay", 1);
        let handle = target.submit(&key, &spec).await.unwrap().into_handle();
        let seen = done(&target, &handle).await;
        assert_eq!(
            seen.phase,
            windlass_core::Phase::Done(JobEnd::Exit(0)),
            "{seen:#?}"
        );
        let told = seen
            .degraded
            .iter()
            .any(|s| s.contains("does not map owners"));
        assert!(
            told || target.level() < SandboxLevel::Namespaces,
            "{seen:#?}"
        );
        for path in ["outputs", "outputs/a", "outputs/a/b/file", "result"] {
            let owner = std::fs::metadata(folder.join(path)).unwrap().uid();
            assert_eq!(owner, 0, "{path}");
        }
    });
}

#[test]
fn without_owner_maps_outputs_are_given_and_taken_back() {
    if !rustix::process::geteuid().is_root() {
        println!("not here: only a root host has jobs of another user");
        return;
    }
    let folder = crate::kit::folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {} || exit 77; exec \"$0\" \
         --exact rootless::overlay_host --ignored --nocapture",
        path("lower"),
        path("upper"),
        path("work"),
        path("merged")
    );
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", &mount])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, path("merged"))
        .output()
        .unwrap();
    if ran.status.code() == Some(77) || ran.status.code() == Some(1) && ran.stdout.is_empty() {
        println!("not here: {}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    let said = String::from_utf8_lossy(&ran.stdout);
    let err = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{err}");
    assert!(said.contains("1 passed"), "{said}");
}

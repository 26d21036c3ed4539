//! What a job can't see, reach or change.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use windlass_compute::SandboxLevel;
use windlass_core::{JobEnd, Location, LogicalName};

use crate::kit::Place;

fn name(name: &str) -> LogicalName {
    LogicalName::new(name).unwrap()
}

/// True if the job has a root and a `/proc` of its own.
fn has_own_root(place: &Place) -> bool {
    place.target.level() >= SandboxLevel::Namespaces
}

#[tokio::test]
async fn inputs_and_code_are_read_only_and_outputs_are_the_hosts_afterwards() {
    for place in Place::walled().await {
        let level = place.target.level();
        let (code, data) = (place.path("code"), place.path("data"));
        fs::create_dir_all(&code).unwrap();
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("sub/rows.csv"), "a,b\n").unwrap();
        let script = "#!/bin/sh\n\
            cat $WINDLASS_INPUTS/data/sub/rows.csv\n\
            (echo x > $WINDLASS_INPUTS/data/sub/rows.csv) 2>/dev/null && echo wrote input\n\
            rm $WINDLASS_INPUTS/data/sub/rows.csv 2>/dev/null && echo removed input\n\
            touch $WINDLASS_INPUTS/data/new 2>/dev/null && echo added input\n\
            touch ./new 2>/dev/null && echo added code\n\
            mkdir -p $WINDLASS_OUTPUTS/model/deep && echo 42 > $WINDLASS_OUTPUTS/model/deep/weights\n\
            echo '{\"auc\":1}' > $WINDLASS_RESULT\n\
            touch $TMPDIR/scratch && echo scratch\n";
        fs::write(code.join("run.sh"), script).unwrap();
        fs::set_permissions(code.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut spec = place.spec(["./run.sh"]);
        spec.code = Some(Location::Path(code.clone()));
        spec.inputs
            .insert(name("data"), Location::Path(data.clone()));
        let seen = place.run(&spec).await;
        assert_eq!(seen.printed(), "a,b\nscratch", "{level:?}");
        assert_eq!(fs::read(data.join("sub/rows.csv")).unwrap(), b"a,b\n");
        assert!(!code.join("new").exists());
        let made = seen.outputs.join("model/deep/weights");
        assert_eq!(fs::read(&made).unwrap(), b"42\n");
        let me = fs::metadata(place.path("data")).unwrap().uid();
        for path in [&made, &seen.outputs.join("model"), &seen.outputs] {
            assert_eq!(
                fs::metadata(path).unwrap().uid(),
                me,
                "{level:?} {}",
                path.display()
            );
        }
        let result = seen.outputs.with_file_name("result.json");
        assert_eq!(fs::read(result).unwrap(), b"{\"auc\":1}\n", "{level:?}");
        fs::remove_dir_all(&seen.outputs).unwrap();
    }
}

#[tokio::test]
async fn a_hosts_private_files_can_be_inputs() {
    let place = Place::new().await;
    if !has_own_root(&place) {
        println!("not here: the job has no root of its own");
        return;
    }
    let private = place.path("private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("key"), "open").unwrap();
    fs::set_permissions(private.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let mut spec = place.shell("cat $WINDLASS_INPUTS/private/key $WINDLASS_INPUTS/one");
    spec.inputs
        .insert(name("private"), Location::Path(private.clone()));
    spec.inputs
        .insert(name("one"), Location::Path(private.join("key")));
    assert_eq!(place.run(&spec).await.printed(), "openopen");
}

#[tokio::test]
async fn undeclared_files_of_the_host_can_not_be_read() {
    for place in Place::walled().await {
        let secret = place.path("secret");
        fs::write(&secret, "top secret").unwrap();
        let state = place.state();
        let script = format!(
            "for f in {} {} /etc/shadow /proc/1/environ /proc/1/mem /proc/1/exe /root /home \
             /var/log {} /sys/kernel; do \
               cat $f >/dev/null 2>&1 && echo read $f; ls $f/ >/dev/null 2>&1 && echo listed $f; \
             done; echo end",
            secret.display(),
            state.display(),
            env!("CARGO_MANIFEST_DIR"),
        );
        assert_eq!(
            place.says(&script).await,
            "end",
            "{:?}",
            place.target.level()
        );
    }
}

#[tokio::test]
async fn the_environment_is_the_declared_one() {
    for place in Place::walled().await {
        let mut spec = place.spec(["/usr/bin/env"]);
        spec.variables
            .insert("COLOUR".to_owned(), "blue".to_owned());
        let key = windlass_core::Secret::new("s3cret");
        spec.secrets.insert("TOKEN".to_owned(), key);
        let seen = place.run(&spec).await;
        let names: BTreeSet<&str> = seen
            .printed()
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        let wanted = [
            "COLOUR",
            "HOME",
            "LANG",
            "PATH",
            "TMPDIR",
            "TOKEN",
            "WINDLASS_INPUTS",
            "WINDLASS_OUTPUTS",
            "WINDLASS_RESULT",
        ];
        assert_eq!(names, BTreeSet::from(wanted));
        assert!(seen.out.contains("COLOUR=blue\n") && seen.out.contains("TOKEN=s3cret\n"));
    }
}

#[tokio::test]
async fn no_descriptor_of_the_host_is_passed_on() {
    // Open across an exec, as a careless library in the host would have it.
    let leaky = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let script = "
import os
open_ones = []
for fd in range(0, 1024):
    try:
        os.fstat(fd); open_ones.append(fd)
    except OSError:
        pass
print(open_ones)";
    for place in Place::walled().await {
        assert_eq!(
            place.run(&place.python(script)).await.printed(),
            "[0, 1, 2]"
        );
    }
}

#[tokio::test]
async fn the_job_is_neither_process_1_nor_the_root_user() {
    for place in Place::walled().await {
        let seen = place.says("echo $$; id -u; id -g").await;
        let numbers: Vec<u32> = seen.lines().map(|l| l.parse().unwrap()).collect();
        assert!(
            numbers[0] > 1 && numbers[1] > 0 && numbers[2] > 0,
            "{numbers:?}"
        );
        if has_own_root(&place) {
            let map = place
                .says("cat /proc/self/uid_map /proc/self/gid_map")
                .await;
            for line in map.lines() {
                let ids: Vec<u32> = line
                    .split_whitespace()
                    .map(|n| n.parse().unwrap())
                    .collect();
                assert_eq!(ids[2], 1, "only one id is known inside");
                assert!(ids[1] != 0, "kernel id 0 inside: {map}");
            }
            let caps = place
                .says("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status")
                .await;
            assert!(
                caps.lines().all(|l| l.ends_with("0000000000000000")),
                "{caps}"
            );
            assert_eq!(place.says("id -un; hostname").await, "job\nwindlass-job");
        }
    }
}

#[tokio::test]
async fn the_system_can_not_be_changed() {
    for place in Place::walled().await {
        let script = "
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/overcommit_memory \
         /usr/bin/new /etc/new /new /proc/1/oom_score_adj; do
  (echo x > $f) 2>/dev/null && echo wrote $f
done
mount -t tmpfs none /tmp 2>/dev/null && echo mounted
umount /proc 2>/dev/null && echo unmounted
unshare -U true 2>/dev/null && echo new user namespace
unshare -n true 2>/dev/null && echo new network namespace
hostname other 2>/dev/null && echo renamed
mknod /tmp/disk b 8 0 2>/dev/null && echo device
kill -0 1 2>/dev/null && echo may signal process 1
echo end";
        assert_eq!(
            place.says(script).await,
            "end",
            "{:?}",
            place.target.level()
        );
    }
}

#[tokio::test]
async fn other_processes_are_out_of_reach() {
    let host = std::process::id();
    for place in Place::walled().await {
        let script = format!("kill -0 {host} 2>/dev/null && echo reached; echo end");
        assert_eq!(
            place.says(&script).await,
            "end",
            "{:?}",
            place.target.level()
        );
    }
}

#[tokio::test]
async fn there_is_no_network_unless_it_is_asked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "
import socket
try:
    socket.create_connection(('127.0.0.1', {port}), 5).close()
    print('connected')
except OSError as e:
    print('no network')
"
    );
    for place in Place::walled().await {
        let level = place.target.level();
        let mut spec = place.python(&script);
        assert_eq!(place.run(&spec).await.printed(), "no network", "{level:?}");
        spec = place.python(&script);
        spec.network = true;
        assert_eq!(place.run(&spec).await.printed(), "connected", "{level:?}");
    }
}

#[tokio::test]
async fn only_common_kinds_of_sockets_can_be_made() {
    let script = "
import socket
refused = []
for family in range(1, 46):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        print('made', family)
    except OSError:
        pass
try:
    socket.socket(40, socket.SOCK_STREAM)   # vsock goes around network namespaces
    print('made a vsock')
except PermissionError:
    print('vsock refused')
";
    for place in Place::walled().await {
        for network in [false, true] {
            let mut spec = place.python(script);
            spec.network = network;
            let seen = place.run(&spec).await;
            let made: Vec<u32> = seen
                .printed()
                .lines()
                .filter_map(|l| l.strip_prefix("made ")?.parse().ok())
                .collect();
            let wanted: &[u32] = if network || has_own_root(&place) {
                &[1, 2, 10]
            } else {
                &[1]
            };
            let without_netlink: Vec<u32> = made.into_iter().filter(|f| *f != 16).collect();
            assert_eq!(without_netlink, wanted, "{:?}", place.target.level());
            assert!(seen.out.contains("vsock refused"));
        }
    }
}

#[tokio::test]
async fn the_loopback_inside_works() {
    let place = Place::new().await;
    if !has_own_root(&place) {
        println!("not here: no network namespace");
        return;
    }
    let script = "
import socket
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname(), 5)
client.sendall(b'hello')
print(server.accept()[0].recv(5).decode())
print(sorted(name for _, name in socket.if_nameindex()))
";
    let seen = place.run(&place.python(script)).await;
    let lines: Vec<&str> = seen.printed().lines().collect();
    assert_eq!(lines[0], "hello");
    assert!(!lines[1].contains("eth"), "{lines:?}");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn system_calls_that_hide_from_filters_are_refused() {
    let script = "
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    libc.syscall(*[ctypes.c_long(a) for a in args])
    return errno.errorcode.get(ctypes.get_errno(), 'OK')
print(call(435, 0, 0))                       # clone3
print(call(0x40000000 | 39))                 # getpid of the x32 table
print(call(425, 1, 0))                       # io_uring_setup
print(call(16, 0, 0x5412, 0))                # TIOCSTI
print(call(16, 0, 0x5412 | 1 << 32, 0))      # the same to the kernel
print(call(16, 0, 0x541C, 0))                # TIOCLINUX
print(call(56, 0x10000000, 0, 0, 0, 0))      # clone(CLONE_NEWUSER)
print(call(272, 0x20000))                    # unshare(CLONE_NEWNS)
print(call(321, 0, 0, 0))                    # bpf
print(call(250, 0, 0, 0, 0, 0))              # keyctl
";
    let wanted = "ENOSYS ENOSYS ENOSYS EPERM EPERM EPERM EPERM EPERM EPERM EPERM";
    for place in Place::walled().await {
        let seen = place.run(&place.python(script)).await;
        let said: Vec<&str> = seen.printed().lines().collect();
        assert_eq!(said.join(" "), wanted, "{:?}", place.target.level());
    }
}

#[tokio::test]
async fn the_root_holds_declared_things_only() {
    let place = Place::new().await;
    if !has_own_root(&place) {
        println!("not here: the job has no root of its own");
        return;
    }
    let seen = place
        .says("ls /; echo --; ls /dev; echo --; ls -A /tmp /dev/shm")
        .await;
    let parts: Vec<&str> = seen.split("--\n").collect();
    let allowed = [
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr",
        "windlass",
    ];
    for entry in parts[0].lines() {
        assert!(allowed.contains(&entry), "{entry}");
    }
    assert_eq!(
        parts[1].lines().collect::<Vec<_>>(),
        [
            "fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"
        ]
    );
    assert_eq!(parts[2].trim(), "/dev/shm:\n\n/tmp:");
    let script = "echo x > /dev/null && head -c 4 /dev/urandom | wc -c && \
                  head -c 4 /dev/zero | od -An -tx1";
    assert_eq!(place.says(script).await, "4\n 00 00 00 00");
}

#[tokio::test]
async fn outputs_can_not_be_executed() {
    let place = Place::new().await;
    if !has_own_root(&place) {
        println!("not here: the outputs are no mount of their own");
        return;
    }
    let script = "cp /bin/true $WINDLASS_OUTPUTS/t; chmod 4755 $WINDLASS_OUTPUTS/t; \
                  $WINDLASS_OUTPUTS/t 2>/dev/null && echo ran; echo end";
    assert_eq!(place.says(script).await, "end");
}

#[tokio::test]
async fn tmp_has_its_size_and_is_gone_afterwards() {
    let place = Place::with(|b| b.tmp_bytes(8 << 20)).await;
    if !has_own_root(&place) {
        println!("not here: /tmp is a folder of the host");
        return;
    }
    let script = "head -c 9000000 /dev/zero > /tmp/big 2>/dev/null || echo full; \
                  head -c 9000000 /dev/zero > /dev/shm/big 2>/dev/null || echo full";
    assert_eq!(place.says(script).await, "full\nfull");
    assert_eq!(
        place.says("ls -A /tmp /dev/shm").await,
        "/dev/shm:\n\n/tmp:"
    );
}

#[tokio::test]
async fn a_result_that_is_a_trap_is_left_alone() {
    for place in Place::walled().await {
        let spec = place.shell("ln -s /etc/passwd $WINDLASS_RESULT");
        let seen = place.run(&spec).await;
        assert_eq!(seen.end, JobEnd::Exit(0));
        assert!(!seen.outputs.with_file_name("result.json").exists());
        let told = seen
            .observation
            .degraded
            .iter()
            .any(|s| s.contains("result"));
        assert!(told, "{:?}", seen.observation.degraded);
    }
}

#[tokio::test]
async fn python_runs_with_workers_and_writes_outputs() {
    let place = Place::new().await;
    let script = "
import json, os, multiprocessing, sqlite3, ssl, ctypes, tempfile
def square(n):
    return n * n
if __name__ == '__main__':
    if os.path.isdir('/dev/shm'):
        with multiprocessing.Pool(2) as pool:
            squares = pool.map(square, range(4))
    else:
        squares = [square(n) for n in range(4)]
    with open(os.path.join(os.environ['WINDLASS_OUTPUTS'], 'squares.json'), 'w') as f:
        json.dump(squares, f)
    with tempfile.TemporaryFile() as f:
        f.write(b'x')
    print(len(ssl.create_default_context().get_ca_certs()) >= 0)
";
    let code = place.path("model");
    fs::create_dir(&code).unwrap();
    fs::write(code.join("train.py"), script).unwrap();
    let mut spec = place.spec(["python3", "train.py"]);
    spec.code = Some(Location::Path(code));
    let seen = place.run(&spec).await;
    assert_eq!(seen.printed(), "True");
    let written = fs::read_to_string(seen.outputs.join("squares.json")).unwrap();
    assert_eq!(written, "[0, 1, 4, 9]");
}

#[tokio::test]
async fn a_python_outside_of_the_system_is_found_and_shown() {
    let place_with = |path: String| Place::with(move |b| b.search_path(path));
    // An installation as pyenv or conda make it: a prefix of its own, here around the system's.
    let place = Place::new().await;
    let venv = place.path("venv");
    let made = std::process::Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status()
        .unwrap();
    assert!(made.success());
    let path = format!("{}:/usr/bin:/bin", venv.join("bin").display());
    let place = place_with(path).await;
    let prefix = "import sys; print(sys.prefix)";
    let seen = place.run(&place.python(prefix)).await;
    assert_eq!(seen.printed(), venv.to_str().unwrap());

    let shims = std::path::Path::new("/root/.pyenv/shims");
    if shims.join("python3").exists() && has_own_root(&place) {
        let place = place_with(format!("{}:/usr/bin:/bin", shims.display())).await;
        let seen = place.run(&place.python(prefix)).await;
        assert!(
            seen.printed().starts_with("/root/.pyenv/versions/"),
            "{seen:?}"
        );
    }
}

//! Somebody is told of a failed run although the receiver was down and the host was killed with
//! SIGKILL between the failure and its delivery; and is told once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are waited for in real time"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than the binary waits for a receiver.
const LONG: Duration = Duration::from_secs(30);

fn project(root: &Path) {
    for folder in ["environments", "pipelines"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let write = |file: &str, text: &str| std::fs::write(root.join(file), text).unwrap();
    write("windlass.yaml", "name: told\n");
    write(
        "environments/dev.yaml",
        "store: { sqlite: state/dev.db }\nstorage: { runs: { file: state/runs } }\nrun_storage: runs\n\
         compute: { here: { process: { cpu: 1, isolation: none } } }\ndefault_compute: here\n\
         secrets: { hook: { env: HOOK } }\n\
         notifiers: { hook: { webhook: { url: { secret: hook }, allow_private: true } } }\n\
         owners: { us: { notify: [hook] } }\n",
    );
    write(
        "pipelines/model.yaml",
        "name: model\nowner: us\nsteps:\n  - { name: train, run: { command: [sh, -c, 'echo no such column >&2; exit 3'] } }\n",
    );
}

fn windlass(root: &Path, hook: &SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command
        .args([
            "--json",
            "run",
            "model",
            "--date",
            "2026-11-03",
            "--project",
        ])
        .arg(root)
        .env("HOOK", format!("http://{hook}/secret-path"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Returns a project, and the address of its receiver, where nobody listens yet.
fn project_that_tells_nobody() -> (tempfile::TempDir, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (folder, listener.local_addr().unwrap())
}

/// Answers every request with 200 and passes on its id.
fn receiver(listener: TcpListener) -> mpsc::Receiver<String> {
    let (sender, ids) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = BufReader::new(socket.unwrap());
            let (mut id, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                socket.read_line(&mut line).unwrap();
                let header = line.trim_end().to_lowercase();
                match header.split_once(": ") {
                    Some(("webhook-id", value)) => value.clone_into(&mut id),
                    Some(("content-length", value)) => length = value.parse().unwrap(),
                    _ if header.is_empty() => break,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            socket.read_exact(&mut body).unwrap();
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            socket.get_mut().write_all(ok).unwrap();
            if sender.send(id).is_err() {
                return;
            }
        }
    });
    ids
}

#[test]
fn a_failure_is_told_after_the_host_was_killed_between_it_and_its_delivery() {
    let (folder, address) = project_that_tells_nobody();

    // Nobody listens. The line that tells of the end comes after its commit, and then it is killed.
    let mut host = windlass(folder.path(), &address).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let mut events = lines.map(Result::unwrap);
    assert!(events.any(|line| line.contains("\"run_ended\"")));
    host.kill().unwrap();
    host.wait().unwrap();

    let ids = receiver(TcpListener::bind(address).unwrap());
    let again = windlass(folder.path(), &address).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "the run failed, and stays so");
    let told = ids.recv_timeout(LONG).unwrap();
    assert!(told.starts_with("wln"), "{told}");
    // Whoever asks again tells nobody again.
    windlass(folder.path(), &address).output().unwrap();
    assert_eq!(ids.try_recv(), Err(mpsc::TryRecvError::Empty));
}

#[test]
fn a_receiver_that_is_down_delays_and_fails_no_run() {
    let (folder, address) = project_that_tells_nobody();
    let mut host = windlass(folder.path(), &address).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let outcome = lines
        .map(Result::unwrap)
        .find(|l| l.contains("\"outcome\""));
    assert!(
        outcome.unwrap().contains("failed"),
        "told before anybody is"
    );
    // It comes up while the binary still waits to tell.
    let ids = receiver(TcpListener::bind(address).unwrap());
    assert!(ids.recv_timeout(LONG).is_ok());
    assert_eq!(host.wait().unwrap().code(), Some(1));
}

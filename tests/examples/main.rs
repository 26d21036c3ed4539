//! The examples, run as the processes that they are: this program turns into each of them.
//!
//! It has a `main` of its own because a host that is its own sandbox helper needs one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and examples print"
)]

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

#[path = "../../examples/adapter.rs"]
mod adapter;
#[path = "../../examples/embed.rs"]
mod embed;

/// Set to the name of the example that this process is to be.
const BE: &str = "--be-the-example";

fn main() -> ExitCode {
    // A job's helper is this very program; it must not do anything else first.
    windlass::init_if_child();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, be, name] if be == BE => {
            let ran = match name.as_str() {
                "adapter" => adapter::main(),
                _ => embed::main(),
            };
            ran.map_or_else(
                |error| {
                    println!("{error}");
                    ExitCode::FAILURE
                },
                |()| ExitCode::SUCCESS,
            )
        }
        _ => {
            let trials = vec![
                Trial::test("the_host_streams_a_run_and_finds_it_done", || {
                    the_host_streams_a_run_and_finds_it_done();
                    Ok(())
                }),
                Trial::test("adapters_of_others_keep_the_contract", || {
                    adapters_of_others_keep_the_contract();
                    Ok(())
                }),
            ];
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
    }
}

/// Runs an example with temporary files of its own, and returns what it printed.
fn printed(name: &str, temporary: &std::path::Path) -> String {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args([BE, name])
        .env("TMPDIR", temporary)
        .output()
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}:\n{text}\n{said}", ran.status);
    text
}

/// Returns a folder that jobs of any user may enter.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn the_host_streams_a_run_and_finds_it_done() {
    let folder = folder();
    let expected = [
        "fetch runs",
        "fetch succeeded",
        "mean runs",
        "mean succeeded",
        "report runs",
        "report succeeded",
        "the run succeeded: customers spent 31.33 each",
    ];
    let attempts = || {
        let lake = folder.path().join("windlass-embed/lake/churn/runs");
        let found = Command::new("find")
            .arg(lake)
            .args(["-type", "d", "-name", "outputs"])
            .output();
        String::from_utf8(found.unwrap().stdout)
            .unwrap()
            .lines()
            .count()
    };
    // What steps said is all there is, but for the log of the engine.
    let told = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("INFO"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(told(&printed("embed", folder.path())), expected);
    let before = attempts();
    assert!(before >= 2, "two processes have a folder each: {before}");
    assert_eq!(told(&printed("embed", folder.path())), expected);
    assert_eq!(attempts(), before, "nothing ran again");
}

fn adapters_of_others_keep_the_contract() {
    let text = printed("adapter", folder().path());
    for line in [
        "kept     submitting twice gives one job",
        "kept     after the grace the whole tree is killed",
        "kept     an ended job is known to the next target",
        "not made out of memory is told",
        "JsonLines keeps the contract: 2 lines",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
    }
}

//! Help, completion and typos.

use super::kit::{Project, settings, windlass};

fn text(args: &[&str]) -> String {
    let out = windlass(args).output().unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_help_has_examples_and_the_exit_codes() {
    insta::assert_snapshot!("help", text(&["--help"]));
}

#[test]
fn every_command_has_examples() {
    let all = text(&["--help"]);
    let commands: Vec<&str> = all
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| {
            l.strip_prefix("  ")?
                .split_whitespace()
                .next()
                .filter(|_| !l.starts_with("   "))
        })
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 11, "{commands:?}");
    for command in commands {
        let args: &[&str] = if command == "import" {
            &["import", "wfformat", "--help"]
        } else {
            &[command, "--help"]
        };
        let help = text(args);
        assert!(help.contains("Examples:\n  windlass "), "{command}: {help}");
    }
}

#[test]
fn completion_knows_commands_and_options_of_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = text(&["completion", shell]);
        assert!(
            script.contains("validate") && script.contains("follow"),
            "{shell}"
        );
    }
}

#[test]
fn a_completion_script_is_one_that_bash_reads() {
    use std::io::Write;
    let mut bash = std::process::Command::new("bash")
        .arg("-n")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin
        .take()
        .unwrap()
        .write_all(text(&["completion", "bash"]).as_bytes())
        .unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn a_typo_names_what_was_meant() {
    let project = Project::of("  - { name: train, run: { command: [\"true\"] } }\n");
    project.run(&["run", "work"]).expect(0);
    let typos = [
        &["statsu"][..],
        &["run", "wrok"],
        &["run", "work", "--param", "siez=2"],
        &["run", "work", "--env", "dve"],
        &["graph", "wrok"],
        &["status", "wrok"],
        &["logs", "work", "trian"],
    ];
    let said: Vec<String> = typos
        .iter()
        .map(|args| {
            format!(
                "$ windlass {}\n{}",
                args.join(" "),
                project.run(args).expect(2).err
            )
        })
        .collect();
    settings().bind(|| insta::assert_snapshot!("typos", project.plain(&said.join("\n"))));
}

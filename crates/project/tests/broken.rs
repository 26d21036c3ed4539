//! Projects that don't load, and exactly what is said about each.
//!
//! Each folder of tests/broken holds the files of one case, which lie over those of tests/base, and
//! what is said about it in report.snap. A file `environment` names another than `dev`.

use windlass_project::Project;

use crate::support::{Folder, cpu_time, tests};

mod support;

#[test]
fn what_is_said_about_broken_projects_is_as_recorded() {
    let mut cases: Vec<_> = std::fs::read_dir(tests().join("broken"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for case in cases {
        let folder = Folder::base();
        let files = tests().join("broken").join(&case);
        folder.copy(&files);
        std::fs::remove_file(folder.path().join("report.snap")).ok();
        let environment = std::fs::read_to_string(files.join("environment")).ok();
        let before = folder.files();
        let report = Project::load(folder.path(), environment.as_deref())
            .err()
            .unwrap_or_else(|| panic!("{case} loads"));
        assert_eq!(folder.files(), before, "{case} writes");
        for diagnostic in report.diagnostics() {
            assert!(
                !diagnostic.to_string().contains("hunter2"),
                "{case} shows a secret"
            );
        }
        let mut settings = insta::Settings::new();
        settings.set_snapshot_path(&files);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("report", report.to_string()));
    }
}

#[test]
fn a_file_of_10_mb_is_refused_without_reading_it() {
    let folder = Folder::base();
    folder.write("pipelines/huge.yaml", vec![b'a'; 10_000_000]);
    folder.write("environments/dev.yaml", vec![b'#'; (1 << 20) + 1]);
    insta::assert_snapshot!("a_huge_file", folder.errors());
}

#[test]
fn bytes_that_are_no_utf_8_are_shown_with_their_place() {
    let folder = Folder::base();
    folder.write(
        "pipelines/p.yaml",
        b"name: p\ndescription: \xc3\xa9t\xe9 2026\n",
    );
    folder.write("templates/t.yaml", b"\xff\xfename: p");
    insta::assert_snapshot!("no_utf_8", folder.errors());
}

#[test]
fn links_and_folders_are_no_way_out() {
    let folder = Folder::base();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.yaml"), "password: hunter2\n").unwrap();
    let link = |target: &str, name: &str| {
        folder.write(name, "");
        std::fs::remove_file(folder.path().join(name)).unwrap();
        std::os::unix::fs::symlink(outside.path().join(target), folder.path().join(name)).unwrap();
    };
    link("secret.yaml", "pipelines/a.yaml");
    link("nowhere.yaml", "pipelines/b.yaml");
    link("", "models/out");
    folder.write("pipelines/c.yaml/x", "");
    folder.write(
        "pipelines/d.yaml",
        "name: d\nowner: team-a\nsteps:\n  - { name: a, run: { command: [x], code: models/out } }\n",
    );
    insta::assert_snapshot!("links", folder.errors());
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_block() {
    let folder = Folder::base();
    folder.write("pipelines/x", "");
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("pipelines/p.yaml"))
        .status()
        .unwrap();
    assert!(made.success());
    assert!(folder.errors().contains("this is no file"));
}

#[test]
fn a_folder_that_is_no_project_says_so() {
    let empty = tempfile::tempdir().unwrap();
    let report = Project::load(empty.path(), None).unwrap_err().to_string();
    insta::assert_snapshot!("no_project", report);
    assert_eq!(Project::find(empty.path()), None);
}

#[test]
fn ten_thousand_mistakes_are_counted_and_not_all_printed() {
    let folder = Folder::base();
    let steps: String = (0..10_000)
        .map(|i| format!("- {{name: s{i}, after: [no{i}], check: x}}\n"))
        .collect();
    folder.write(
        "pipelines/p.yaml",
        format!("name: p\nowner: team-a\nsteps:\n{steps}"),
    );
    let report = folder.load().unwrap_err();
    assert_eq!(report.diagnostics().len(), 51);
    assert!(
        report
            .to_string()
            .contains("9950 more problems in this file"),
        "{report}"
    );
}

/// Each is as large as a file may be, and made to cost as much as it can.
#[test]
fn hostile_files_of_a_megabyte_end_soon() {
    let size = windlass_project::MAX_BYTES - 100;
    let fill = |part: &str| part.repeat(size / part.len());
    for (name, text) in [
        ("open lists", fill("[")),
        ("open maps", fill("{a: ")),
        ("dashes", fill("- ")),
        ("questions", fill("? ")),
        (
            "nested blocks",
            (0..1_000)
                .map(|i| format!("{}a:\n", " ".repeat(i)))
                .collect(),
        ),
        (
            "many keys",
            (0..100_000).map(|i| format!("k{i}: 1\n")).collect(),
        ),
        ("many items", format!("steps: [{}]", fill("a,"))),
        (
            "a map over half a million",
            format!(
                "name: p\nsteps: [{{name: a, check: x, map: {{as: i, over: [{}]}}}}]",
                fill("1,")
            ),
        ),
        ("one word", fill("a")),
        ("one comment", fill("#")),
        ("quotes", fill("\"")),
        ("anchors", fill("&a ")),
        ("aliases", format!("[{}]", fill("*a,"))),
        ("new lines", fill("\n")),
        ("a block", format!("a: |\n{}", fill("  x\n"))),
        ("tags", fill("!a ")),
        ("colons", fill(": ")),
        (
            "expression",
            format!(
                "name: p\nsteps: [{{name: a, check: \"{}\"}}]",
                fill("{{ a }}")
            ),
        ),
        (
            "deep expression",
            format!(
                "name: p\nsteps: [{{name: a, check: \"{{{{ {}\"}}]",
                "(".repeat(60_000)
            ),
        ),
    ] {
        let folder = Folder::base();
        folder.write("pipelines/p.yaml", &text);
        let before = cpu_time();
        let report = folder.load().unwrap_err();
        assert!(report.to_string().len() < 200_000, "{name}");
        let took = cpu_time() - before;
        assert!(took < 20.0, "{name} took {took} s");
    }
}

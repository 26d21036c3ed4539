//! Guards the rules of the workspace that no lint can: which crate may depend on which, what the
//! default features pull in, where `unsafe` and printing are, and words that must not be anywhere.
//!
//! It reads manifests and sources only; it builds nothing and needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which crates of ours each crate may depend on: the table of the design, arrows downwards only.
const ARROWS: &[(&str, &[&str])] = &[
    ("windlass-core", &[]),
    ("windlass-project", &["windlass-core"]),
    ("windlass-state", &["windlass-core"]),
    ("windlass-storage", &["windlass-core"]),
    ("windlass-compute", &["windlass-core"]),
    ("windlass-alerts", &["windlass-core"]),
    ("windlass-engine", &["windlass-core"]),
    ("windlass-testkit", &["windlass-core", "windlass-engine"]),
    (
        "windlass-server",
        &[
            "windlass-core",
            "windlass-engine",
            "windlass-project",
            "windlass-alerts",
        ],
    ),
    (
        "windlass",
        &[
            "windlass-core",
            "windlass-project",
            "windlass-state",
            "windlass-storage",
            "windlass-compute",
            "windlass-alerts",
            "windlass-engine",
            "windlass-server",
        ],
    ),
    ("windlass-cli", &["windlass"]),
];

/// Examples whose length is a promise, and the number of lines that they stay under: all lines count.
const SHORT: &[(&str, usize)] = &[
    ("examples/embed.rs", 60),
    ("examples/adapter/plain_processes.rs", 100),
    ("examples/adapter/json_lines.rs", 100),
];

/// The kit that tests adapters; nobody depends on it but in tests.
const TESTKIT: &str = "windlass-testkit";

/// The files that may hold `unsafe`: one of a library, and a test's file system for SQLite.
const UNSAFE_FILES: &[&str] = &[
    "crates/compute/src/process/sys.rs",
    "crates/state/tests/power/vfs.rs",
];

/// Crates that a bare `windlass` must not compile: TLS, SQL and clouds come with features only.
const HEAVY: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "hyper",
    "libsqlite3-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
    "redb",
    "reqwest",
    "ring",
    "rusqlite",
    "rustls",
    "tokio-postgres",
];

/// Crates that do I/O or run tasks, which the contract must not.
const IO: &[&str] = &[
    "axum",
    "hyper",
    "mio",
    "object_store",
    "redb",
    "reqwest",
    "rusqlite",
    "rustix",
    "socket2",
];

fn metadata() -> Result<Metadata> {
    Ok(MetadataCommand::new()
        .manifest_path(Path::new(ROOT).join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options([
            "--filter-platform".to_owned(),
            format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .exec()?)
}

/// Returns the names of the packages that `cargo tree` says a package compiles with its default features.
fn compiled_with(package: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(ROOT)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect())
}

/// A text file of the repository.
struct Source {
    /// Path from the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Returns true for the code of a library, as opposed to binaries, tests, benches and examples.
    fn is_library(&self) -> bool {
        let inside = self
            .path
            .strip_prefix("crates/")
            .and_then(|p| p.split_once('/'));
        let (name, below) = inside.unwrap_or(("windlass", self.path.as_str()));
        self.is_rust()
            && name != "cli"
            && below.starts_with("src/")
            && !below.contains("/bin/")
            && !below.ends_with("/main.rs")
    }
}

/// Reads every text file of the repository; build output and run state are left out.
fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(ROOT)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type()?;
            // In a worktree `.git` is a file that names the place of the repository.
            if [".git", ".windlass", "target", "node_modules"]
                .iter()
                .any(|skip| name == *skip)
            {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && let Ok(text) = String::from_utf8(std::fs::read(&path)?)
            {
                let path = path.strip_prefix(ROOT)?.to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Blanks out comments and the content of strings, keeping every line where it is.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string_literal(rest, out.ends_with(is_word)) {
            length
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        out.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of the block comment at the start, inner ones included.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text[at..];
        let step = if here.starts_with("/*") {
            depth += 1;
            2
        } else if here.starts_with("*/") {
            depth -= 1;
            2
        } else {
            here.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns the length of the string or character literal at the start, if there is one.
fn string_literal(text: &str, within_word: bool) -> Option<usize> {
    let raw = text
        .strip_prefix("br")
        .or_else(|| text.strip_prefix('r'))
        .filter(|_| !within_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let start = text.len() - raw.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(
                text[start..]
                    .find(&end)
                    .map_or(text.len(), |at| start + at + end.len()),
            );
        }
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    if quote == '\'' {
        // `'a` is a lifetime unless a quote follows the one character.
        let mut chars = text[1..].chars();
        let (first, second) = (chars.next()?, chars.next());
        if first != '\\' && second != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Returns the lines, by number from 1, in which `word` stands by itself.
fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.lines()
        .enumerate()
        .filter(move |(_, line)| has_word(line, word))
        .map(|(i, _)| i + 1)
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let goes_on = word.ends_with(is_word) && after.is_some_and(is_word);
        !goes_on && !before.is_some_and(is_word)
    })
}

/// Fails with every problem, one a line.
#[track_caller]
fn expect_none(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn arrows_between_crates_point_downwards() -> Result {
    let metadata = metadata()?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    let mut problems = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(may) = allowed.get(name) else {
            problems.push(format!(
                "{name} is not in the table of arrows: add it here and to the design"
            ));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|d| ours.contains(d.name.as_str()))
        {
            let to = dependency.name.as_str();
            let good = match dependency.kind {
                // Tests may use the kit, and themselves with other features; whole-system tests use everything.
                DependencyKind::Development => {
                    to == TESTKIT || to == name || may.contains(&to) || name == "windlass"
                }
                _ => may.contains(&to),
            };
            if !good {
                problems.push(format!(
                    "{name} must not depend on {to} ({:?})",
                    dependency.kind
                ));
            }
        }
    }
    expect_none(&problems, "dependencies point downwards only");
    Ok(())
}

#[test]
fn every_dependency_builds_with_our_oldest_compiler() -> Result {
    let metadata = metadata()?;
    let ours = metadata
        .root_package()
        .and_then(|p| p.rust_version.clone())
        .ok_or("the root has no rust-version")?;
    let used: BTreeSet<_> = metadata
        .resolve
        .as_ref()
        .ok_or("no resolve")?
        .nodes
        .iter()
        .map(|n| &n.id)
        .collect();
    let too_new: Vec<String> = metadata
        .packages
        .iter()
        .filter(|p| used.contains(&p.id) && p.rust_version.as_ref().is_some_and(|v| *v > ours))
        .map(|p| {
            format!(
                "{} {} needs Rust {:?}",
                p.name,
                p.version,
                p.rust_version.as_ref().map(ToString::to_string)
            )
        })
        .collect();
    expect_none(&too_new, &format!("the workspace promises Rust {ours}"));
    Ok(())
}

#[test]
fn every_crate_takes_the_lints_and_the_version_of_the_workspace() -> Result {
    let mut problems = Vec::new();
    for package in metadata()?.workspace_packages() {
        let text = std::fs::read_to_string(&package.manifest_path)?;
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        if !lines
            .windows(2)
            .any(|pair| pair == ["[lints]", "workspace = true"])
        {
            problems.push(format!(
                "{} lacks `[lints] workspace = true`",
                package.manifest_path
            ));
        }
        for key in ["version", "edition", "rust-version", "license"] {
            if !lines.contains(&format!("{key}.workspace = true").as_str()) {
                problems.push(format!(
                    "{} lacks `{key}.workspace = true`",
                    package.manifest_path
                ));
            }
        }
    }
    expect_none(&problems, "the workspace decides");
    Ok(())
}

#[test]
fn unsafe_code_stands_in_the_files_named_for_it() -> Result {
    let problems: Vec<String> = sources()?
        .iter()
        .filter(|s| s.is_rust() && !UNSAFE_FILES.contains(&s.path.as_str()))
        .flat_map(|s| {
            lines_with(&code_only(&s.text), "unsafe")
                .map(|line| format!("{}:{line}", s.path))
                .collect::<Vec<_>>()
        })
        .collect();
    expect_none(
        &problems,
        &format!("`unsafe` is allowed in {UNSAFE_FILES:?} only"),
    );
    Ok(())
}

#[test]
fn libraries_do_not_print_or_exit() -> Result {
    let words = [
        "print!",
        "println!",
        "eprint!",
        "eprintln!",
        "dbg!",
        "process::exit",
    ];
    let mut problems = Vec::new();
    for source in sources()?
        .iter()
        .filter(|s| s.is_library() && !s.path.starts_with("crates/testkit/"))
    {
        let code = code_only(&source.text);
        // Unit tests stand at the foot of their file.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for word in words {
            problems.extend(
                lines_with(code, word).map(|line| format!("{}:{line}: {word}", source.path)),
            );
        }
    }
    expect_none(
        &problems,
        "only the binary prints or exits; a library returns values and traces",
    );
    Ok(())
}

#[test]
fn examples_stay_as_short_as_they_promise() -> Result {
    let mut problems = Vec::new();
    for (path, limit) in SHORT {
        let lines = std::fs::read_to_string(Path::new(ROOT).join(path))?
            .lines()
            .count();
        if lines >= *limit {
            problems.push(format!("{path} has {lines} lines: stay under {limit}"));
        }
    }
    expect_none(
        &problems,
        "what takes more lines needs a better API, not a longer example",
    );
    Ok(())
}

#[test]
fn no_work_is_left_for_later() -> Result {
    // Written in halves, or this file would find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!"),
        concat!("unimple", "mented!"),
    ];
    let mut problems = Vec::new();
    for source in sources()?
        .iter()
        .filter(|s| s.is_rust() || s.path.ends_with(".py"))
    {
        for word in words {
            problems.extend(
                lines_with(&source.text, word)
                    .map(|line| format!("{}:{line}: {word}", source.path)),
            );
        }
    }
    expect_none(&problems, "finish it, or say what is left out and why");
    Ok(())
}

#[test]
fn no_file_names_a_place_that_only_its_author_has() -> Result {
    let words = [
        concat!("/wo", "rk/"),
        concat!("//index.crates", ".io"),
        concat!("//static.crates", ".io"),
        concat!("//crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let mut problems = Vec::new();
    for source in sources()? {
        for word in words {
            problems.extend(
                lines_with(&source.text, word)
                    .map(|line| format!("{}:{line}: {word}", source.path)),
            );
        }
    }
    expect_none(
        &problems,
        "paths and hosts of one machine don't belong into the repository",
    );
    Ok(())
}

#[test]
fn a_bare_windlass_compiles_no_tls_sql_or_cloud_code() -> Result {
    let compiled = compiled_with("windlass")?;
    assert!(
        compiled.contains("windlass-core"),
        "cargo tree was not understood: {compiled:?}"
    );
    let heavy: Vec<String> = HEAVY
        .iter()
        .filter(|h| compiled.contains(**h))
        .map(|h| (*h).to_owned())
        .collect();
    expect_none(&heavy, "put it behind a feature that is off by default");
    Ok(())
}

#[test]
fn the_contract_does_no_io() -> Result {
    let compiled = compiled_with("windlass-core")?;
    assert!(
        compiled.contains("serde"),
        "cargo tree was not understood: {compiled:?}"
    );
    let found: Vec<String> = IO
        .iter()
        .filter(|c| compiled.contains(**c))
        .map(|c| (*c).to_owned())
        .collect();
    expect_none(&found, "the core crate has no I/O and no tasks");
    Ok(())
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = \"unsafe // \\\" x\"; // unsafe\nfn f<'a>() -> char { '\"' } /* unsafe\n/* x */ */ unsafe { r#\"unsafe\"# }\n";
    let code = code_only(text);
    assert_eq!(
        lines_with(&code, "unsafe").collect::<Vec<_>>(),
        [3],
        "{code}"
    );
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.contains("fn f<'a>() -> char {"), "{code}");
    assert!(has_word("x.println!(1)", "println!") && !has_word("eprintln!(1)", "println!"));
    assert!(!has_word("unsafe_code", "unsafe") && has_word("(unsafe)", "unsafe"));
}

//! `init`: a small project that runs at once and says in each file what it is for.
//!
//! It writes files that aren't there and never replaces one. It needs no network and no Git.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use windlass::PipelineName;

use super::Failure;
use crate::args::InitArgs;
use crate::exit::Exit;
use crate::json;
use crate::print::out;

/// Stands for the project's name in the files below.
const HOLE: &str = "PROJECT_NAME";
/// Name of a project whose folder has none to take.
const NAMELESS: &str = "my-project";
/// Entries in the way that are named.
const SHOWN: usize = 5;

macro_rules! files {
    ($($path:literal = $source:literal;)*) => {
        &[$(($path, include_str!(concat!("../init/", $source))),)*]
    };
}

/// Every file of a new project.
const FILES: &[(&str, &str)] = files! {
    "README.md" = "README.md";
    "windlass.yaml" = "windlass.yaml";
    "environments/dev.yaml" = "environments/dev.yaml";
    "environments/prod.yaml" = "environments/prod.yaml";
    "pipelines/forecast.yaml" = "pipelines/forecast.yaml";
    "models/forecast/forecast.py" = "models/forecast/forecast.py";
    "data/shop/sales.csv" = "data/shop/sales.csv";
    ".gitignore" = "gitignore";
};

pub(crate) fn init(args: &InitArgs, as_json: bool) -> Result<ExitCode, Failure> {
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let failed = |what: &Path, e: std::io::Error| {
        Failure::wrong(format!("{} can't be made: {e}", what.display()))
    };
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
    let name = match &args.name {
        Some(name) => PipelineName::new(name.as_str())
            .map_err(|e| Failure::wrong(format!("--name {name}: {e}")))?
            .to_string(),
        None => name_of(&folder),
    };
    let in_the_way = in_the_way(&folder).map_err(|e| failed(&folder, e))?;
    if !in_the_way.is_empty() && !args.force {
        let more = match in_the_way.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Err(Failure::wrong(format!(
            "{} is not empty: it has {}{more}\nhelp: name another folder, or add the files beside them with --force (it replaces none)",
            folder.display(),
            in_the_way[..in_the_way.len().min(SHOWN)].join(", ")
        )));
    }
    let (mut written, mut kept) = (Vec::new(), Vec::new());
    for (path, text) in FILES {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        }
        let made = std::fs::File::options()
            .write(true)
            .create_new(true)
            .open(&file);
        match made {
            Ok(mut made) => {
                let text = text.replace(HOLE, &name);
                made.write_all(text.as_bytes())
                    .map_err(|e| failed(&file, e))?;
                written.push(*path);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => kept.push(*path),
            Err(e) => return Err(failed(&file, e)),
        }
    }
    if as_json {
        let done = serde_json::json!({
            "project": name, "folder": folder, "written": written, "kept": kept, "pipeline": "forecast",
        });
        out(&format!("{}\n", json::text(&done)));
    } else {
        out(&told(&name, &folder, &written, &kept));
    }
    Ok(Exit::Done.into())
}

/// Returns what a person is told, the next two commands last.
fn told(name: &str, folder: &Path, written: &[&str], kept: &[&str]) -> String {
    let mut text = format!("made project {name} in {}\n", folder.display());
    written
        .iter()
        .for_each(|file| text.push_str(&format!("  {file}\n")));
    if !kept.is_empty() {
        text.push_str(&format!("left as they were: {}\n", kept.join(", ")));
    }
    let place = if folder == Path::new(".") {
        String::new()
    } else {
        format!(" --project {}", folder.display())
    };
    text.push_str(&format!(
        "\nnext:\n  windlass validate{place}\n  windlass run forecast{place}\n"
    ));
    text
}

/// Returns what lies in a folder, in order; a repository without files is empty.
fn in_the_way(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != ".git" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes a name of a folder's.
fn name_of(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let base = full.file_name().unwrap_or_default().to_string_lossy();
    let plain: String = base
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let plain = plain.trim_matches('-');
    PipelineName::new(plain).map_or_else(|_| NAMELESS.to_owned(), |name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_name_if_it_can() {
        assert_eq!(name_of(Path::new("/x/My Shop (2)")), "my-shop--2");
        assert_eq!(name_of(Path::new("/")), NAMELESS);
        assert_eq!(name_of(Path::new("/x/日本")), NAMELESS);
    }
}

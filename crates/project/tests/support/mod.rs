//! Projects made of files, for tests.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where its files can't be written"
)]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "not every test uses all of it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use windlass_project::{Project, Report};

/// A project in a folder of its own, which goes with it.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// Returns the project that every test starts from: two environments, no pipeline.
    pub(crate) fn base() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.copy(&tests().join("base"));
        folder
    }

    /// Copies files over those that are there.
    pub(crate) fn copy(&self, from: &Path) {
        copy(from, self.path());
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Returns every path of the project, with what the files hold.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let (mut found, mut open) = (BTreeMap::new(), vec![self.path().to_owned()]);
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let is_folder = entry.file_type().unwrap().is_dir();
                if is_folder {
                    open.push(entry.path());
                }
                let content = (!is_folder).then(|| std::fs::read(entry.path()).unwrap());
                found.insert(entry.path(), content);
            }
        }
        found
    }

    pub(crate) fn load(&self) -> Result<Project, Report> {
        Project::load(self.path(), None)
    }

    /// Returns what is said about the project, which must be bad.
    #[track_caller]
    pub(crate) fn errors(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

/// Returns the folder of the tests' files.
pub(crate) fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Returns the seconds of a processor that this process has used.
pub(crate) fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in brackets, may hold spaces; user and system time are the 14th and
    // 15th field, in hundredths of a second (proc(5)).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|t| t.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

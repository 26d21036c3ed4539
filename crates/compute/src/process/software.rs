//! What of the host's software a job sees: programs, libraries, and the little of `/etc` they read.
//!
//! Found by looking at files, never by running one. The default is the system's own software and
//! the Python that `python3` means in the search path, wherever it is installed.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::wire::{Access, Bind};

/// The system's software, where it exists; links among these are copied as links.
const SYSTEM: &[&str] = &[
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];
/// What programs read in `/etc` without which they do not run or run wrongly: no user's data.
const ETC: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/java-11-openjdk",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/locale.alias",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/pki",
    "/etc/protocols",
    "/etc/python3",
    "/etc/R",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];
/// Read only by jobs that may use the network.
const ETC_NETWORK: &[&str] = &["/etc/host.conf", "/etc/hosts", "/etc/resolv.conf"];
pub(super) const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The search path of a job where the host gives none.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The part of the host's files that is software, worked out once when the target is built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Software {
    /// Folders and files that are shown read-only at their own path.
    roots: Vec<PathBuf>,
    /// Links that are shown as links.
    links: Vec<(PathBuf, PathBuf)>,
    etc: Vec<PathBuf>,
    /// Folders that programs are looked up in.
    path: Vec<PathBuf>,
    /// How all that appears in a root of its own: for jobs without and with network.
    binds: [Vec<Bind>; 2],
}

impl Software {
    /// Collects the system's software, `extra`, and the Python of `search_path`.
    pub(super) fn find(search_path: &str, extra: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in SYSTEM.iter().map(Path::new) {
            match fs::read_link(path) {
                Ok(target) => found.links.push((path.to_owned(), target)),
                Err(_) => found.add_root(path),
            }
        }
        let mut python_folder = None;
        if let Some(python) = python_in(search_path) {
            let folder = python.parent().map(Path::to_owned);
            for prefix in prefixes(&python) {
                found.add_root(&prefix);
            }
            // A shim's folder is not shown; what it stands for comes first then.
            python_folder = folder.filter(|f| !split(search_path).any(|p| p == *f));
        }
        for path in extra {
            found.add_root(path);
        }
        found.etc = ETC
            .iter()
            .map(PathBuf::from)
            .filter(|p| p.exists())
            .collect();
        found.path = python_folder
            .into_iter()
            .chain(split(search_path))
            .filter(|p| found.shows(p))
            .collect();
        found.work_out_binds();
        found
    }

    /// Returns this software and a prepared environment (a folder with `bin`), which comes first.
    pub(super) fn with_environment(&self, prefix: &Path) -> Self {
        let mut all = self.clone();
        let bin = prefix.join("bin");
        for name in ["python3", "python", "Rscript"] {
            if let Some(program) = Some(bin.join(name)).filter(|p| p.exists()) {
                prefixes(&program).iter().for_each(|p| all.add_root(p));
            }
        }
        all.add_root(prefix);
        all.path.insert(0, bin);
        all.work_out_binds();
        all
    }

    fn add_root(&mut self, path: &Path) {
        if path.exists()
            && path != Path::new("/")
            && !self.roots.iter().any(|r| path.starts_with(r))
        {
            self.roots.retain(|r| !r.starts_with(path));
            self.roots.push(path.to_owned());
        }
    }

    /// Returns true if the job sees that path, through links too.
    fn shows(&self, path: &Path) -> bool {
        let Ok(real) = fs::canonicalize(path) else {
            return false;
        };
        let linked = self.links.iter().any(|(link, _)| path.starts_with(link));
        self.roots.iter().any(|r| real.starts_with(r))
            && (linked || self.roots.iter().any(|r| path.starts_with(r)))
    }

    /// Returns the search path of the job.
    pub(super) fn search_path(&self) -> String {
        let all: Vec<_> = self.path.iter().map(|p| p.to_string_lossy()).collect();
        if all.is_empty() {
            DEFAULT_PATH.to_owned()
        } else {
            all.join(":")
        }
    }

    /// Returns how the software appears in a root of its own.
    pub(super) fn binds(&self, network: bool) -> Vec<Bind> {
        self.binds[usize::from(network)].clone()
    }

    /// Follows links once, so that no start of a job has to.
    fn work_out_binds(&mut self) {
        self.binds = [self.make_binds(false), self.make_binds(true)];
    }

    fn make_binds(&self, network: bool) -> Vec<Bind> {
        let network = ETC_NETWORK
            .iter()
            .map(PathBuf::from)
            .filter(|p| network && p.exists());
        self.roots
            .iter()
            .cloned()
            .chain(self.etc.iter().cloned())
            .chain(network)
            .filter_map(|path| {
                let target = path.to_str()?.to_owned();
                // A link in /etc (localtime, resolv.conf) is shown as what it leads to.
                let source = fs::canonicalize(&path).ok()?.to_str()?.to_owned();
                Some(Bind {
                    source,
                    target,
                    access: Access::Read,
                    owned: false,
                })
            })
            .collect()
    }

    pub(super) fn links(&self) -> Vec<(String, String)> {
        let standard = [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/etc/mtab", "/proc/self/mounts"),
        ];
        let text = |p: &Path| p.to_str().map(str::to_owned);
        self.links
            .iter()
            .filter_map(|(from, to)| Some((text(from)?, text(to)?)))
            .chain(standard.map(|(from, to)| (from.to_owned(), to.to_owned())))
            .collect()
    }

    /// Returns the paths that a job behind Landlock only may read.
    pub(super) fn readable(&self, network: bool) -> Vec<String> {
        let network: &[&str] = if network { ETC_NETWORK } else { &[] };
        // Without a root of its own the job reads who it is from the host's list of names.
        let names = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
        self.roots
            .iter()
            .chain(&self.etc)
            .filter_map(|p| p.to_str())
            .chain(network.iter().copied())
            .chain(names)
            .filter(|p| Path::new(p).exists())
            .map(str::to_owned)
            .collect()
    }
}

fn split(search_path: &str) -> impl Iterator<Item = PathBuf> {
    search_path
        .split(':')
        .filter(|p| p.starts_with('/'))
        .map(PathBuf::from)
}

/// Returns the `python3` that the search path means; a pyenv shim is followed to what it runs.
fn python_in(search_path: &str) -> Option<PathBuf> {
    split(search_path).find_map(|folder| {
        let program = folder.join("python3");
        if !program.is_file() {
            return None;
        }
        if folder.ends_with("shims") {
            return pyenv(folder.parent()?);
        }
        Some(program)
    })
}

/// Returns the `python3` of pyenv's global version; `None` lets the search go on, as for `system`.
fn pyenv(root: &Path) -> Option<PathBuf> {
    let chosen = fs::read_to_string(root.join("version")).ok()?;
    chosen.split_whitespace().find_map(|version| {
        let plain = Path::new(version)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        let program = root.join("versions").join(version).join("bin/python3");
        (plain && program.is_file()).then_some(program)
    })
}

/// Returns the folders that an interpreter `PREFIX/bin/NAME` needs: its own, that of the program it
/// is a link to, and that of the one a virtual environment was made from.
fn prefixes(program: &Path) -> Vec<PathBuf> {
    let prefix = |p: &Path| {
        let folder = p.parent().filter(|f| f.ends_with("bin"))?.parent()?;
        // `/bin` and a person's own `bin` are no installation of their own.
        (folder != Path::new("/") && folder.join("lib").is_dir()).then(|| folder.to_owned())
    };
    let mut all: Vec<PathBuf> = prefix(program).into_iter().collect();
    let config = all.first().map(|p| p.join("pyvenv.cfg"));
    if let Some(text) = config.and_then(|c| fs::read_to_string(c).ok()) {
        let home = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "home").then(|| value.trim())
        });
        all.extend(home.and_then(|h| prefix(&Path::new(h).join("python3"))));
    }
    if let Ok(real) = fs::canonicalize(program) {
        all.extend(prefix(&real));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn install(prefix: &Path) -> PathBuf {
        fs::create_dir_all(prefix.join("bin")).unwrap();
        fs::create_dir_all(prefix.join("lib/python3.11")).unwrap();
        let program = prefix.join("bin/python3");
        fs::write(&program, "").unwrap();
        program
    }

    #[test]
    fn a_pyenv_shim_leads_to_the_version_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pyenv");
        install(&root.join("versions/3.11.7"));
        fs::create_dir_all(root.join("shims")).unwrap();
        fs::write(root.join("shims/python3"), "#!/bin/sh").unwrap();
        fs::write(root.join("version"), "3.11.7\n").unwrap();
        let path = format!("{}:/usr/bin", root.join("shims").display());
        let found = Software::find(&path, &[]);
        let prefix = root.join("versions/3.11.7");
        assert!(found.roots.contains(&prefix), "{:?}", found.roots);
        assert!(
            found
                .search_path()
                .starts_with(prefix.join("bin").to_str().unwrap())
        );
        assert!(!found.search_path().contains("shims"));
    }

    #[test]
    fn a_virtual_environment_brings_the_python_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("opt/python");
        let program = install(&base);
        let venv = dir.path().join("venv");
        fs::create_dir_all(venv.join("bin")).unwrap();
        fs::create_dir_all(venv.join("lib")).unwrap();
        symlink(&program, venv.join("bin/python3")).unwrap();
        fs::write(
            venv.join("pyvenv.cfg"),
            format!("home = {}\n", base.join("bin").display()),
        )
        .unwrap();
        let found = Software::find(venv.join("bin").to_str().unwrap(), &[]);
        assert!(
            found.roots.contains(&venv) && found.roots.contains(&base),
            "{:?}",
            found.roots
        );
    }

    #[test]
    fn the_systems_own_python_adds_nothing() {
        let found = Software::find("/usr/bin:/bin", &[]);
        assert!(
            !found
                .roots
                .iter()
                .any(|r| r.starts_with("/root") || r.starts_with("/home"))
        );
        assert!(found.search_path().contains("/usr/bin"));
    }
}

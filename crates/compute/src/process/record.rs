//! What is on disk about each job, so that a host that starts again can tell what became of it.
//!
//! `NAME.job` is written and synced before user code can run; `NAME.end` is put there whole, once,
//! when the job has ended, before anyone hears of it. So: neither → never started; both → ended, with its end; only the first →
//! its host knows, and if that host is gone, so is the job.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass_core::{JobEnd, SubmitKey, Timestamp, Usage};

use super::procfs::ProcessLife;

/// A job that a host was about to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) key: SubmitKey,
    /// The host that starts it.
    pub(super) host: ProcessLife,
    /// Folder of its logs.
    pub(super) logs: PathBuf,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndRecord {
    pub(super) end: JobEnd,
    pub(super) usage: Option<Usage>,
    pub(super) degraded: Vec<String>,
    pub(super) started_at: Option<Timestamp>,
}

/// A job as the records show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) job: JobRecord,
    pub(super) end: Option<EndRecord>,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("jobs");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    /// Puts a record there, whole, that must not be there yet; it is durable only after
    /// [`Written::sync`].
    pub(super) fn create(&self, name: &str, record: &JobRecord) -> io::Result<Written> {
        let temporary = self.file(name, &format!("job-{}", record.host.pid));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        file.write_all(&line)?;
        let place = || rename_new(&temporary, &self.file(name, "job"));
        let placed = match place() {
            // Cut short by a crash of the machine: nothing was started for it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.read(name)?.is_none() => {
                fs::remove_file(self.file(name, "job")).and_then(|()| place())
            }
            other => other,
        };
        if let Err(error) = placed {
            fs::remove_file(&temporary)?;
            return Err(error);
        }
        Ok(Written(file))
    }

    /// Returns the process that [`Written::note_process`] noted.
    pub(super) fn process(&self, name: &str) -> Option<ProcessLife> {
        let text = fs::read_to_string(self.file(name, "job")).ok()?;
        ProcessLife::from_name(text.lines().nth(1)?)
    }

    /// Puts the end of a job there, whole; the first end stays.
    ///
    /// Not synced, and so it outlives the host but perhaps not the machine: neither do the job's
    /// outputs, and an end that claims more than they hold would be worse than none.
    pub(super) fn finish(&self, name: &str, end: &EndRecord) -> io::Result<()> {
        let temporary = self.file(name, "end-new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(end)?)?;
        match rename_new(&temporary, &self.file(name, "end")) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&temporary)?,
            other => other?,
        }
        Ok(())
    }

    /// Reads one job; `None` if it was never about to start here.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Recorded>> {
        let Some(job) = read(&self.file(name, "job"))? else {
            return Ok(None);
        };
        let end = read(&self.file(name, "end"))?;
        Ok(Some(Recorded { job, end }))
    }

    /// Forgets a job; one that is not there is no error.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        // The first record goes last, or a crash in between would leave an end without a job.
        for kind in ["end", "job"] {
            match fs::remove_file(self.file(name, kind)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the names of all jobs.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().and_then(|n| n.strip_suffix(".job")) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Renames without ever replacing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        rustix::fs::RenameFlags::NOREPLACE,
    )?)
}

/// A record that is written and not yet durable.
#[derive(Debug)]
pub(super) struct Written(File);

impl Written {
    /// One sync: the file was renamed before it, and the Linux file systems that a state folder
    /// belongs on (ext4, xfs, btrfs) then write its name together with it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// Notes the first process of a job that nothing else ties to its host. Not synced: it matters
    /// only while this boot of the machine lasts.
    pub(super) fn note_process(&self, process: &ProcessLife) -> io::Result<()> {
        (&self.0).write_all(process.name().as_bytes())
    }
}

/// A file cut short by a crash before it was durable counts as not there: what it stands for had
/// not happened yet.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            Ok(serde_json::from_slice(line).ok())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::{AttemptNo, RunId};

    #[test]
    fn the_first_end_stays_and_a_torn_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        let job = JobRecord {
            key: SubmitKey::new("me", run, "train", AttemptNo::new(1)),
            host: ProcessLife::me(),
            logs: dir.path().to_owned(),
        };
        let written = records.create("a", &job).unwrap();
        written.sync().unwrap();
        written.note_process(&job.host).unwrap();
        assert_eq!(records.process("a"), Some(job.host.clone()));
        assert!(records.create("a", &job).is_err());
        let end = |code| EndRecord {
            end: JobEnd::Exit(code),
            usage: None,
            degraded: Vec::new(),
            started_at: None,
        };
        records.finish("a", &end(1)).unwrap();
        records.finish("a", &end(2)).unwrap();
        let read = records.read("a").unwrap().unwrap();
        assert_eq!((&read.job, read.end), (&job, Some(end(1))));
        assert_eq!(records.names().unwrap(), ["a"]);
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert_eq!(records.read("a").unwrap(), None);

        fs::write(dir.path().join("jobs/b.job"), b"{\"key\":").unwrap();
        assert_eq!(records.read("b").unwrap(), None);
        records.create("b", &job).unwrap();
        assert_eq!(records.read("b").unwrap().unwrap().job, job);
    }
}

//! What is on disk about each job, so that a host that starts again can tell what became of it.
//!
//! One journal, a line a fact: a job before its program is started, its process, its end before
//! anyone hears of it, and that it may be forgotten. So: no line → never started; an end → ended so;
//! only a job → its host knows, and if that host is gone, so is the job.
//!
//! Lines are appended and never synced: what a process wrote outlives it, and what the machine loses
//! when it stops is about jobs that stopped with it. So a journal is about one boot, named by its
//! first line, which is synced before a job is started in that boot. A later boot forgets the lines
//! and keeps that there were some: then a key without a line may have been started, and nobody says
//! that it never was ([`Records::unknown`]).
//!
//! Several hosts may share a journal. Who writes or looks holds the lock of the file, and has read
//! what others appended. Torn lines, which only a full disk or a stop of the machine leaves, count
//! as not there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use windlass_core::{Found, JobEnd, SubmitKey, Timestamp, Usage};

use super::procfs::{self, ProcessLife, Spawned};

/// Lines after which those about forgotten jobs are left out of the file, if they are most of it.
const LINES: usize = 16_384;

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
    /// Its first process, if nothing but its host ends it.
    pub(super) process: Option<Spawned>,
    pub(super) end: Option<EndRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    /// The first line: which boot this is about, and whether jobs may have been started in another.
    Boot { id: Cow<'a, str>, earlier: bool },
    /// A job is about to start.
    Job(Cow<'a, str>, Cow<'a, JobRecord>),
    /// A job's first process.
    Process(Cow<'a, str>, Spawned),
    /// A job has ended.
    End(Cow<'a, str>, Cow<'a, EndRecord>),
    /// A job is forgotten.
    Gone(Cow<'a, str>),
}

impl Line<'_> {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The jobs of one state folder.
#[derive(Debug, Clone)]
pub(super) struct Records(Arc<Mutex<Book>>);

#[derive(Debug)]
struct Book {
    path: PathBuf,
    file: File,
    /// How far it was read.
    read: u64,
    /// Lines up to there.
    lines: usize,
    /// The last one has no end.
    torn: bool,
    earlier: bool,
    jobs: BTreeMap<String, Recorded>,
    /// Forgotten jobs whose line comes with the next one: it only saves room.
    gone: Vec<String>,
}

impl Records {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("jobs");
        // Whatever made the folder before may have started jobs.
        let used = folder.exists();
        fs::create_dir_all(&folder)?;
        let path = folder.join("journal");
        let mut book = Book {
            file: open_file(&path)?,
            path,
            read: 0,
            lines: 0,
            torn: false,
            earlier: false,
            jobs: BTreeMap::new(),
            gone: Vec::new(),
        };
        book.lock(|book| {
            let boot = procfs::boot_id();
            let fresh = book.file.metadata()?.len() == 0;
            match book.first_line()? {
                // Where boots have no names, each start may be another.
                Some(Line::Boot { id, .. }) if id == boot && !boot.is_empty() => Ok(()),
                _ => {
                    book.jobs.clear();
                    book.earlier = used || !fresh || boot.is_empty();
                    book.rewrite()?;
                    sync_names(&book.path)
                }
            }
        })?;
        Ok(Self(Arc::new(Mutex::new(book))))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Book) -> io::Result<T>) -> io::Result<T> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.lock(work)
    }

    /// Puts a job there that must not be there yet.
    pub(super) fn create(&self, name: &str, record: &JobRecord) -> io::Result<()> {
        self.with(|book| {
            if book.jobs.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            book.append(Line::Job(name.into(), Cow::Borrowed(record)))
        })
    }

    /// Notes the first process of a job that nothing else ties to its host.
    pub(super) fn note_process(&self, name: &str, process: Spawned) -> io::Result<()> {
        self.with(|book| book.append(Line::Process(name.into(), process)))
    }

    /// Puts the end of a job there; the first end stays.
    pub(super) fn finish(&self, name: &str, end: &EndRecord) -> io::Result<()> {
        self.with(|book| match book.jobs.get(name) {
            Some(Recorded { end: Some(_), .. }) => Ok(()),
            Some(_) => book.append(Line::End(name.into(), Cow::Borrowed(end))),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    /// Reads one job; `None` if there is no line of it.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Recorded>> {
        self.with(|book| Ok(book.jobs.get(name).cloned()))
    }

    /// Returns what is known of a key without a line.
    pub(super) fn unknown(&self) -> Found {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.earlier {
            Found::Gone
        } else {
            Found::Never
        }
    }

    /// Forgets a job that was read or made here; one that is not there is no error.
    ///
    /// Touches no file: other hosts hear of it with the next line.
    pub(super) fn remove(&self, name: &str) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.jobs.remove(name).is_some() {
            book.gone.push(name.to_owned());
        }
    }

    /// Returns all jobs.
    pub(super) fn all(&self) -> io::Result<Vec<(String, Recorded)>> {
        self.with(|book| Ok(book.jobs.clone().into_iter().collect()))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Makes the names of a file and of all folders above it durable, as far as this user may.
fn sync_names(path: &Path) -> io::Result<()> {
    for folder in path.ancestors().skip(1) {
        match File::open(folder).and_then(|f| f.sync_all()) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            // Some file systems, such as those of containers, can't sync a folder.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
            other => other?,
        }
    }
    Ok(())
}

impl Book {
    /// Works under the lock of the file, knowing what others wrote.
    fn lock<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        loop {
            match flock(&self.file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            }
            let here = self.file.metadata()?;
            if here.nlink() > 0 {
                let done = self.catch_up(here.len()).and_then(|()| work(self));
                // Dropping the file would end it, too.
                flock(&self.file, FlockOperation::Unlock).ok();
                return done;
            }
            // Somebody put a shorter one there, or took it away.
            self.file = open_file(&self.path)?;
            (self.read, self.lines, self.torn) = (0, 0, false);
            self.jobs.clear();
        }
    }

    fn catch_up(&mut self, length: u64) -> io::Result<()> {
        if length <= self.read {
            return Ok(());
        }
        let mut new = vec![0; usize::try_from(length - self.read).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut new, self.read)?;
        for line in new.split_inclusive(|b| *b == b'\n') {
            self.torn = line.last() != Some(&b'\n');
            self.lines += 1;
            if let Ok(line) = serde_json::from_slice(line) {
                self.take(line);
            }
        }
        self.read = length;
        for name in &self.gone {
            self.jobs.remove(name);
        }
        Ok(())
    }

    fn take(&mut self, line: Line<'_>) {
        match line {
            Line::Boot { earlier, .. } => self.earlier = earlier,
            Line::Job(name, job) => {
                let (job, process, end) = (job.into_owned(), None, None);
                let recorded = Recorded { job, process, end };
                self.jobs.entry(name.into_owned()).or_insert(recorded);
            }
            Line::Process(name, process) => {
                if let Some(job) = self.jobs.get_mut(&*name) {
                    job.process = Some(process);
                }
            }
            Line::End(name, end) => {
                if let Some(job) = self.jobs.get_mut(&*name) {
                    job.end.get_or_insert_with(|| end.into_owned());
                }
            }
            Line::Gone(name) => drop(self.jobs.remove(&*name)),
        }
    }

    fn first_line(&self) -> io::Result<Option<Line<'static>>> {
        let mut start = [0; 256];
        let read = self.file.read_at(&mut start, 0)?;
        let line = start[..read].split(|b| *b == b'\n').next();
        Ok(line.and_then(|l| serde_json::from_slice(l).ok()))
    }

    fn append(&mut self, line: Line<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        for name in &self.gone {
            bytes.extend(Line::Gone(name.into()).bytes()?);
        }
        bytes.extend(line.bytes()?);
        self.file.write_all(&bytes)?;
        self.read += bytes.len() as u64;
        self.lines += 1 + self.gone.len();
        self.torn = false;
        self.gone.clear();
        self.take(line);
        if self.lines > LINES && self.lines / 8 > self.jobs.len() {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Puts a file there without what is forgotten, durable but for its name.
    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        // Left there by a host that died over it.
        fs::remove_file(&new).or_else(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(e)
            }
        })?;
        let boot = Line::Boot {
            id: procfs::boot_id().into(),
            earlier: self.earlier,
        };
        let mut bytes = boot.bytes()?;
        let mut lines = 1;
        for (name, job) in &self.jobs {
            let mut facts = vec![Line::Job(name.into(), Cow::Borrowed(&job.job))];
            facts.extend(job.process.map(|p| Line::Process(name.into(), p)));
            let end = job.end.as_ref();
            facts.extend(end.map(|e| Line::End(name.into(), Cow::Borrowed(e))));
            lines += facts.len();
            for fact in &facts {
                bytes.extend(fact.bytes()?);
            }
        }
        let mut file = open_file(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        (self.file, self.read, self.lines) = (file, bytes.len() as u64, lines);
        self.torn = false;
        self.gone.clear();
        Ok(())
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        // What can't be written is only remembered longer.
        drop(self.lock(|book| {
            gone.into_iter()
                .try_for_each(|name| book.append(Line::Gone(name.into())))
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::{AttemptNo, RunId};

    fn job(dir: &Path) -> JobRecord {
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        JobRecord {
            key: SubmitKey::new("me", run, "train", AttemptNo::new(1)),
            host: ProcessLife::me(),
            logs: dir.to_owned(),
        }
    }

    fn end(code: i32) -> EndRecord {
        EndRecord {
            end: JobEnd::Exit(code),
            usage: None,
            degraded: Vec::new(),
            started_at: None,
        }
    }

    fn names(records: &Records) -> Vec<String> {
        let all = records.all().unwrap();
        all.into_iter().map(|(name, _)| name).collect()
    }

    fn journal(dir: &Path) -> PathBuf {
        dir.join("jobs/journal")
    }

    /// Makes the journal one of an earlier boot.
    fn boot_again(dir: &Path) {
        let text = fs::read_to_string(journal(dir)).unwrap();
        fs::write(
            journal(dir),
            text.replace(&procfs::boot_id(), "an-earlier-boot"),
        )
        .unwrap();
    }

    #[test]
    fn the_first_end_stays_and_all_who_share_the_journal_see_it() {
        let dir = tempfile::tempdir().unwrap();
        let (records, other) = (
            Records::open(dir.path()).unwrap(),
            Records::open(dir.path()).unwrap(),
        );
        let job = job(dir.path());
        records.create("a", &job).unwrap();
        let spawned = Spawned::between(7, 1, 2);
        records.note_process("a", spawned).unwrap();
        let again = other.create("a", &job).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        records.finish("a", &end(1)).unwrap();
        other.finish("a", &end(2)).unwrap();
        assert!(other.finish("b", &end(2)).is_err());
        for records in [&records, &other, &Records::open(dir.path()).unwrap()] {
            let read = records.read("a").unwrap().unwrap();
            assert_eq!(
                (read.job, read.process, read.end),
                (job.clone(), Some(spawned), Some(end(1)))
            );
            assert_eq!(names(records), ["a"]);
        }
        records.remove("a");
        records.remove("a");
        assert_eq!(records.read("a").unwrap(), None);
        records.create("c", &job).unwrap();
        assert_eq!(names(&other), ["c"]);
        records.remove("c");
        drop(records);
        assert_eq!(names(&other), [""; 0]);
        assert_eq!(other.unknown(), Found::Never);
    }

    #[test]
    fn a_torn_line_is_none_and_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.create("a", &job(dir.path())).unwrap();
        let mut file = File::options()
            .append(true)
            .open(journal(dir.path()))
            .unwrap();
        file.write_all(b"{\"job\":[\"b\",{\"key\":").unwrap();
        assert_eq!(names(&records), ["a"]);
        records.create("c", &job(dir.path())).unwrap();
        assert_eq!(names(&Records::open(dir.path()).unwrap()), ["a", "c"]);
    }

    #[test]
    fn what_is_forgotten_is_left_out_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (records, other) = (
            Records::open(dir.path()).unwrap(),
            Records::open(dir.path()).unwrap(),
        );
        let job = job(dir.path());
        records.create("kept", &job).unwrap();
        records.finish("kept", &end(3)).unwrap();
        assert_eq!(names(&other), ["kept"]);
        for n in 0..LINES / 2 + 1 {
            records.create(&n.to_string(), &job).unwrap();
            records.remove(&n.to_string());
        }
        let length = fs::metadata(journal(dir.path())).unwrap().len();
        assert!(length < 4_096, "{length}");
        other.create("new", &job).unwrap();
        assert_eq!(names(&records), ["kept", "new"]);
        assert_eq!(records.read("kept").unwrap().unwrap().end, Some(end(3)));
    }

    #[test]
    fn after_another_boot_nobody_says_that_a_job_was_never_started() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.create("a", &job(dir.path())).unwrap();
        records.finish("a", &end(0)).unwrap();
        assert_eq!(records.unknown(), Found::Never);
        drop(records);
        boot_again(dir.path());
        // Also for the hosts that come after the first one of that boot.
        for _ in 0..2 {
            let records = Records::open(dir.path()).unwrap();
            assert_eq!(records.read("a").unwrap(), None, "its outputs may be gone");
            assert_eq!(records.unknown(), Found::Gone);
            records.create("b", &job(dir.path())).unwrap();
            records.remove("b");
        }
        for lost in ["", "{\"boot\":"] {
            fs::write(journal(dir.path()), lost).unwrap();
            assert_eq!(Records::open(dir.path()).unwrap().unknown(), Found::Gone);
        }
        fs::remove_file(journal(dir.path())).unwrap();
        assert_eq!(Records::open(dir.path()).unwrap().unknown(), Found::Gone);
    }
}

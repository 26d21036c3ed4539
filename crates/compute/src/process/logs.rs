//! Captures what jobs print: one thread reads every pipe and writes the files.
//!
//! The first half of the cap is written as it comes. What follows goes round in a second file,
//! `NAME.tail`, whose last half is joined to the first at the end, with a line between them that
//! says how much was left out. So a log never takes more than its cap (and that line), a job never
//! waits for anything but the disk, and no memory is kept for it. While a job runs, readers see the
//! first half.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};

/// Read at once from one pipe before the next gets its turn; the size of a pipe.
const CHUNK: usize = 64 << 10;
/// Read first of what a job that has ended left in a pipe.
const SHORT: usize = 512;
/// Key of the wake-up descriptor; logs count up from 1.
const WAKE: u64 = 0;

/// A log file with a cap: the first half and the last half of what is written are kept.
#[derive(Debug)]
pub(super) struct CappedFile {
    path: PathBuf,
    /// `None` until something is written: a job that prints nothing has no log.
    head: Option<File>,
    head_left: u64,
    tail_path: PathBuf,
    tail: Option<File>,
    tail_cap: u64,
    /// Bytes that went to the tail so far, counting those overwritten since.
    tail_total: u64,
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

impl CappedFile {
    /// Names the file; one that may be there is removed.
    pub(super) fn new(path: &Path, cap: u64, anew: bool) -> io::Result<Self> {
        match anew.then(|| std::fs::remove_file(path)) {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut tail_path = path.as_os_str().to_owned();
        tail_path.push(".tail");
        Ok(Self {
            path: path.to_owned(),
            head: None,
            head_left: cap - cap / 2,
            tail_path: tail_path.into(),
            tail: None,
            tail_cap: cap / 2,
            tail_total: 0,
        })
    }

    const fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    fn head(&mut self) -> io::Result<&mut File> {
        match &mut self.head {
            Some(head) => Ok(head),
            none => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                Ok(none.insert(create(&self.path)?))
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let to_head = usize::try_from(self.head_left).map_or(bytes.len(), |n| n.min(bytes.len()));
        let (first, rest) = bytes.split_at(to_head);
        self.head()?.write_all(first)?;
        self.head_left -= first.len() as u64;
        self.write_tail(rest)
    }

    fn write_tail(&mut self, mut rest: &[u8]) -> io::Result<()> {
        if self.tail_cap == 0 {
            self.tail_total += rest.len() as u64;
            return Ok(());
        }
        while !rest.is_empty() {
            let tail = match &self.tail {
                Some(tail) => tail,
                None => self.tail.insert(create(&self.tail_path)?),
            };
            let at = self.tail_total % self.tail_cap;
            let room = usize::try_from(self.tail_cap - at).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            tail.write_all_at(now, at)?;
            self.tail_total += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Joins the two halves; a second time there is nothing to join.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let total = std::mem::take(&mut self.tail_total);
        let dropped = total.saturating_sub(self.tail_cap);
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        if dropped > 0 {
            writeln!(
                head,
                "\n[… {dropped} bytes left out: the log is over its cap …]"
            )?;
        }
        let Some(mut tail) = self.tail.take() else {
            return Ok(());
        };
        if dropped > 0 {
            let oldest = total % self.tail_cap;
            tail.seek(SeekFrom::Start(oldest))?;
            io::copy(&mut tail, head)?;
            tail.seek(SeekFrom::Start(0))?;
            io::copy(&mut (&tail).take(oldest), head)?;
        } else {
            tail.seek(SeekFrom::Start(0))?;
            io::copy(&mut tail, head)?;
        }
        std::fs::remove_file(&self.tail_path)
    }
}

/// The thread that captures; it ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Pump {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        // The counter can't overflow by this one.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    next: AtomicU64,
    /// Never held together with the lock of a log that is being moved.
    logs: Mutex<HashMap<u64, Arc<Mutex<Log>>>>,
}

/// A log that is being captured.
#[derive(Debug)]
pub(super) struct Capture(u64);

impl Pump {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(WAKE + 1),
            logs: Mutex::default(),
        });
        shared.watch(&shared.wake, WAKE)?;
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("windlass-logs".to_owned())
            .spawn(move || for_thread.run())?;
        Ok(Self {
            handle: Arc::new(Handle(shared)),
        })
    }

    /// Captures a log from now on.
    pub(super) fn add(&self, log: Log) -> io::Result<Capture> {
        let capture = self.add_or_fail(log);
        let log = lock(&self.handle.0.logs).get(&capture.0).cloned();
        match log.and_then(|log| lock(&log).error.take()) {
            Some(error) => {
                lock(&self.handle.0.logs).remove(&capture.0);
                Err(error)
            }
            None => Ok(capture),
        }
    }

    /// Captures a log from now on; if that can't be, its end tells.
    pub(super) fn add_or_fail(&self, log: Log) -> Capture {
        let shared = &self.handle.0;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let log = Arc::new(Mutex::new(log));
        lock(&shared.logs).insert(id, Arc::clone(&log));
        // Under its lock, so that the thread that is woken finds nothing half done.
        let mut log = lock(&log);
        let watched = match &log.pipe {
            Some(pipe) => shared.watch(pipe, id),
            None => Ok(()),
        };
        log.watched = Arc::downgrade(shared);
        if let Err(error) = watched {
            // Without a reader the job gets to know, too.
            (log.pipe, log.error) = (None, Some(error));
        }
        Capture(id)
    }

    /// Takes what is left in the pipe, also if someone still holds its other end, and completes the
    /// file. Blocks while the disk does.
    pub(super) fn finish(&self, capture: &Capture) -> Captured {
        let log = lock(&self.handle.0.logs).remove(&capture.0);
        match log {
            Some(log) => lock(&log).finish(),
            None => Captured {
                empty: false,
                held: None,
                done: Err(io::Error::other("the log is not captured")),
            },
        }
    }
}

/// Returns true if nobody has the other end of a pipe.
pub(super) fn is_closed(pipe: &OwnedFd) -> bool {
    let mut waiting = [PollFd::new(pipe, PollFlags::IN)];
    let asked = poll(&mut waiting, Some(&Timespec::default()));
    asked.is_ok() && waiting[0].revents().contains(PollFlags::HUP)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stream of a job on its way to its file.
#[derive(Debug)]
pub(super) struct Log {
    /// `None` once the pipe has ended.
    pipe: Option<OwnedFd>,
    /// Who watches it.
    watched: Weak<Shared>,
    file: CappedFile,
    /// The first error of the file; the pipe is still emptied, so that the job doesn't wait.
    error: Option<io::Error>,
}

/// What a log came to.
#[derive(Debug)]
pub(super) struct Captured {
    /// Nothing was printed, and there is no file.
    pub(super) empty: bool,
    /// The pipe, if somebody still has its other end: a process that got away, or a program that the
    /// host starts at this moment, until it is executed.
    pub(super) held: Option<OwnedFd>,
    pub(super) done: io::Result<()>,
}

impl Log {
    pub(super) fn new(pipe: OwnedFd, file: CappedFile) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            pipe: Some(pipe),
            watched: Weak::new(),
            file,
            error: None,
        })
    }

    /// Moves one buffer full; returns false if there is nothing to move now.
    fn step(&mut self, buffer: &mut [u8]) -> bool {
        let Some(pipe) = &self.pipe else {
            return false;
        };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                drop(self.leave());
                false
            }
            Ok(n) => {
                if self.error.is_none() {
                    self.error = self.file.write(&buffer[..n]).err();
                }
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(rustix::io::Errno::AGAIN) => false,
            Err(_) => {
                drop(self.leave());
                false
            }
        }
    }

    /// Takes the pipe out of what is watched. A program that is being started has a copy of it, and with
    /// that it would stay there, and end again and again, until it is executed.
    fn leave(&mut self) -> Option<OwnedFd> {
        let pipe = self.pipe.take()?;
        if let Some(shared) = self.watched.upgrade() {
            // Only one that was never watched is not there.
            epoll::delete(&shared.epoll, &pipe).ok();
        }
        Some(pipe)
    }

    /// Returns true if nothing was printed so far.
    pub(super) fn is_silent(&self) -> bool {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.error.is_none()) else {
            return false;
        };
        let mut waiting = [PollFd::new(pipe, PollFlags::IN)];
        let asked = poll(&mut waiting, Some(&Timespec::default()));
        self.file.is_empty() && asked.is_ok() && !waiting[0].revents().contains(PollFlags::IN)
    }

    /// Takes what is left in the pipe and completes the file.
    pub(super) fn finish(&mut self) -> Captured {
        if self.step(&mut [0; SHORT]) {
            let mut buffer = vec![0; CHUNK];
            // A process that got away may write for ever: what fits into pipes now is all there is.
            for _ in 0..64 {
                if !self.step(&mut buffer) {
                    break;
                }
            }
        }
        let held = self.leave();
        let written = self.error.take().map_or(Ok(()), Err);
        Captured {
            empty: self.file.is_empty() && written.is_ok(),
            held,
            done: written.and_then(|()| self.file.finish()),
        }
    }
}

impl Shared {
    fn watch(&self, fd: &OwnedFd, id: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(id);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; CHUNK];
        while !self.stop.load(Ordering::Acquire) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                // One buffer each, so that a torrent does not starve the others.
                let log = lock(&self.logs).get(&event.data.u64()).cloned();
                if let Some(log) = log {
                    lock(&log).step(&mut buffer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cap: u64, parts: &[&[u8]]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.log");
        std::fs::write(&path, "of an earlier job").unwrap();
        let mut file = CappedFile::new(&path, cap, true).unwrap();
        for part in parts {
            file.write(part).unwrap();
        }
        file.finish().unwrap();
        file.finish().unwrap();
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, usize::from(!parts.is_empty()));
        let text = std::fs::read(&path).unwrap_or_default();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn all_is_kept_up_to_the_cap() {
        assert_eq!(kept(10, &[b"0123", b"456789"]), "0123456789");
        assert_eq!(kept(10, &[]), "");
        assert_eq!(kept(11, &[b"0123456789a"]), "0123456789a");
    }

    #[test]
    fn beyond_the_cap_the_first_and_the_last_half_are_kept() {
        let text = kept(8, &[b"abcdefgh", b"ij", b"klmnopqrstuv", b"wxyz"]);
        assert!(text.starts_with("abcd\n[… 18 bytes left out"), "{text}");
        assert!(text.ends_with("]\nwxyz"), "{text}");
        assert!(kept(0, &[b"abc"]).contains("3 bytes left out"));
    }

    #[test]
    fn what_is_in_the_pipe_at_the_end_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (read, write) = rustix::pipe::pipe().unwrap();
        let pump = Pump::start().unwrap();
        let file = CappedFile::new(&path, 1 << 20, false).unwrap();
        let capture = pump.add(Log::new(read, file).unwrap()).unwrap();
        rustix::io::write(&write, b"last words").unwrap();
        // The other end stays open, as with a process that got away.
        let captured = pump.finish(&capture);
        captured.done.unwrap();
        assert!(captured.held.is_some() && !captured.empty);
        assert_eq!(std::fs::read(&path).unwrap(), b"last words");
        drop(write);
    }
}

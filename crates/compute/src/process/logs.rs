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
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, epoll, eventfd};
use tokio::sync::oneshot;

/// Read at once from one pipe before the next gets its turn; the size of a pipe.
const CHUNK: usize = 64 << 10;
/// Key of the wake-up descriptor; logs count up from 1.
const WAKE: u64 = 0;

/// A log file with a cap: the first half and the last half of what is written are kept.
#[derive(Debug)]
pub(super) struct CappedFile {
    head: File,
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
    /// Creates or empties the file.
    pub(super) fn create(path: &Path, cap: u64) -> io::Result<Self> {
        let mut tail_path = path.as_os_str().to_owned();
        tail_path.push(".tail");
        Ok(Self {
            head: create(path)?,
            head_left: cap - cap / 2,
            tail_path: tail_path.into(),
            tail: None,
            tail_cap: cap / 2,
            tail_total: 0,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let to_head = usize::try_from(self.head_left).map_or(bytes.len(), |n| n.min(bytes.len()));
        let (first, rest) = bytes.split_at(to_head);
        self.head.write_all(first)?;
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

    /// Joins the two halves.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let dropped = self.tail_total.saturating_sub(self.tail_cap);
        if dropped > 0 {
            writeln!(
                self.head,
                "\n[… {dropped} bytes left out: the log is over its cap …]"
            )?;
        }
        let Some(mut tail) = self.tail.take() else {
            return Ok(());
        };
        if dropped > 0 {
            let oldest = self.tail_total % self.tail_cap;
            tail.seek(SeekFrom::Start(oldest))?;
            io::copy(&mut tail, &mut self.head)?;
            tail.seek(SeekFrom::Start(0))?;
            io::copy(&mut (&tail).take(oldest), &mut self.head)?;
        } else {
            tail.seek(SeekFrom::Start(0))?;
            io::copy(&mut tail, &mut self.head)?;
        }
        std::fs::remove_file(&self.tail_path)
    }
}

enum Order {
    Add(u64, OwnedFd, CappedFile),
    /// Takes what is in the pipe, joins the halves and answers.
    Finish(u64, oneshot::Sender<io::Result<()>>),
}

/// The thread that captures; it ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Pump {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    orders: SyncSender<Order>,
    wake: OwnedFd,
    next: Mutex<u64>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        wake(&self.wake);
    }
}

fn wake(fd: &OwnedFd) {
    // The counter can't overflow in practice, and a full one wakes just as well.
    let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
}

/// A log that is being captured.
#[derive(Debug)]
pub(super) struct Capture(u64);

impl Pump {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let thread_wake = wake.try_clone()?;
        let (orders, inbox) = sync_channel(1_024);
        std::thread::Builder::new()
            .name("windlass-logs".to_owned())
            .spawn(move || {
                Loop {
                    epoll,
                    wake: thread_wake,
                    inbox,
                    logs: HashMap::new(),
                    buffer: vec![0; CHUNK],
                }
                .run();
            })?;
        Ok(Self {
            shared: Arc::new(Shared {
                orders,
                wake,
                next: Mutex::new(WAKE),
            }),
        })
    }

    /// Captures `pipe` into `file` from now on.
    pub(super) fn add(&self, pipe: OwnedFd, file: CappedFile) -> io::Result<Capture> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let id = {
            let mut next = self
                .shared
                .next
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        self.order(Order::Add(id, pipe, file))?;
        Ok(Capture(id))
    }

    /// Takes what is left in the pipe, also if someone still holds its other end, and completes the
    /// file.
    pub(super) async fn finish(&self, capture: Capture) -> io::Result<()> {
        let (answer, wait) = oneshot::channel();
        self.order(Order::Finish(capture.0, answer))?;
        wait.await
            .map_err(|_| io::Error::other("the thread that captures logs is gone"))?
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let sent = match self.shared.orders.try_send(order) {
            // The thread is far behind: waiting for it beats losing a log.
            Err(TrySendError::Full(order)) => self.shared.orders.send(order).is_ok(),
            other => other.is_ok(),
        };
        wake(&self.shared.wake);
        if sent {
            Ok(())
        } else {
            Err(io::Error::other("the thread that captures logs is gone"))
        }
    }
}

struct Log {
    /// `None` once the pipe has ended.
    pipe: Option<OwnedFd>,
    file: CappedFile,
    /// The first error of the file; the pipe is still emptied, so that the job doesn't wait.
    error: Option<io::Error>,
}

impl Log {
    /// Moves one buffer full; returns false if there is nothing to move now.
    fn step(&mut self, buffer: &mut [u8]) -> bool {
        let Some(pipe) = &self.pipe else {
            return false;
        };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                self.pipe = None;
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
                self.pipe = None;
                false
            }
        }
    }

    fn finish(mut self, buffer: &mut [u8]) -> io::Result<()> {
        // A process that got away may write for ever: what fits into pipes now is all there is.
        for _ in 0..64 {
            if !self.step(buffer) {
                break;
            }
        }
        match self.error {
            Some(error) => Err(error),
            None => self.file.finish(),
        }
    }
}

struct Loop {
    epoll: OwnedFd,
    wake: OwnedFd,
    inbox: Receiver<Order>,
    logs: HashMap<u64, Log>,
    buffer: Vec<u8>,
}

impl Loop {
    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let id = event.data.u64();
                if id != WAKE {
                    self.read(id);
                }
            }
            if events.iter().any(|e| e.data.u64() == WAKE) && !self.obey() {
                return;
            }
        }
    }

    fn read(&mut self, id: u64) {
        let Some(log) = self.logs.get_mut(&id) else {
            return;
        };
        log.step(&mut self.buffer);
        // A closed descriptor leaves the interest list by itself.
    }

    /// Returns false when every handle is gone.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Add(id, pipe, file)) => self.add(id, pipe, file),
                Ok(Order::Finish(id, answer)) => {
                    let done = match self.logs.remove(&id) {
                        Some(log) => log.finish(&mut self.buffer),
                        None => Err(io::Error::other("the log is not captured")),
                    };
                    // Nobody waits any more if the job's task was dropped.
                    drop(answer.send(done));
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, id: u64, pipe: OwnedFd, file: CappedFile) {
        let watched = epoll::add(
            &self.epoll,
            &pipe,
            epoll::EventData::new_u64(id),
            epoll::EventFlags::IN,
        );
        self.logs.insert(
            id,
            Log {
                pipe: Some(pipe),
                file,
                error: watched.err().map(io::Error::from),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cap: u64, parts: &[&[u8]]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout.log");
        let mut file = CappedFile::create(&path, cap).unwrap();
        for part in parts {
            file.write(part).unwrap();
        }
        file.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        String::from_utf8(std::fs::read(&path).unwrap()).unwrap()
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

    #[tokio::test]
    async fn what_is_in_the_pipe_at_the_end_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (read, write) = rustix::pipe::pipe().unwrap();
        let pump = Pump::start().unwrap();
        let capture = pump
            .add(read, CappedFile::create(&path, 1 << 20).unwrap())
            .unwrap();
        rustix::io::write(&write, b"last words").unwrap();
        // The other end stays open, as with a process that got away.
        pump.finish(capture).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"last words");
        drop(write);
    }
}

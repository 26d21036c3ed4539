//! What host and helper say to each other over the control socket.
//!
//! The host sends one [`Launch`] as a frame (length as 4 bytes, little end first, then JSON), then
//! single bytes: [`GO`], [`TERM`], [`KILL`]. The helper answers with frames of [`Report`]. The end
//! of the stream means that the other side is gone: for the helper that is an order to kill.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sys::{ExitKind, Rusage};

/// First argument of the helper: it refuses a host that was built from other sources.
pub(super) const VERSION: &str = "1";
/// Name under which a host starts itself again as helper.
pub(super) const MARKER: &str = "windlass-sandbox-helper";

/// The intent is durable and the limits hold: start user code.
pub(super) const GO: u8 = b'G';
/// Send TERM to the job.
pub(super) const TERM: u8 = b'T';
/// Kill the whole tree.
pub(super) const KILL: u8 = b'K';

/// Frames longer than this are a bug or an attack.
const FRAME_MAX: u32 = 32 << 20;

/// How a path of the host appears in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bind {
    /// Path on the host.
    pub(super) source: String,
    /// Path in the sandbox, absolute.
    pub(super) target: String,
    pub(super) access: Access,
    /// True if files of the host's user must be the job's own, as seen from inside.
    pub(super) owned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Access {
    Read,
    /// Writable, nothing in it can be executed, is a device or changes its user.
    Write,
    /// A device node.
    Device,
}

/// How the job is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Walls {
    /// Namespaces, a root of its own, Landlock and seccomp.
    Namespaces,
    /// Landlock and seccomp.
    Landlock,
}

/// Limits that a process inherits; `None` leaves the host's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ProcessLimits {
    pub(super) open_files: Option<u64>,
    pub(super) file_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
}

/// All that the helper needs to know, worked out by the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) walls: Walls,
    pub(super) command: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    /// Working folder, as seen from inside.
    pub(super) cwd: String,
    /// In the order of mounting: a target may lie in an earlier one only if it exists there.
    pub(super) binds: Vec<Bind>,
    /// Empty folders.
    pub(super) folders: Vec<String>,
    /// Symbolic links: where, and what they say.
    pub(super) links: Vec<(String, String)>,
    /// Small files: where, and what they hold.
    pub(super) files: Vec<(String, String)>,
    pub(super) network: bool,
    pub(super) tmp_bytes: u64,
    pub(super) limits: ProcessLimits,
    /// Paths that Landlock lets the job read and execute, and those it may also write.
    pub(super) readable: Vec<String>,
    pub(super) writable: Vec<String>,
    /// Folders given to the job's user when owners can't be mapped, and taken back after it.
    pub(super) give: Vec<String>,
    /// Seccomp programs, each instruction packed into one number.
    pub(super) filters: Vec<Vec<u64>>,
    /// True if everything is set up but no program is started: finds out what works here.
    pub(super) probe: bool,
}

/// What the helper tells the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Report {
    /// User code runs.
    Started,
    /// User code was not started.
    Failed(String),
    /// Something that was promised is missing, as a sentence.
    Degraded(String),
    /// The host must give these folders back to its own user.
    Given(Vec<String>),
    /// The first process ended, and no other of the job is left.
    Ended(Ended),
    /// Process 1 of the sandbox died before it could report.
    InitDied { signal: Option<i32> },
}

/// How the job ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) wall_micros: u64,
    pub(super) user_micros: u64,
    pub(super) system_micros: u64,
    pub(super) max_rss_bytes: u64,
    /// Processes that were still there when the first one ended.
    pub(super) left_behind: u32,
}

impl Ended {
    /// Returns how a process ended, and what was there besides.
    pub(super) fn new(end: ExitKind, used: Rusage, wall: Duration, left_behind: u32) -> Self {
        let (code, signal) = match end {
            ExitKind::Code(code) => (Some(code), None),
            ExitKind::Signal(signal) => (None, Some(signal)),
        };
        Self {
            code,
            signal,
            wall_micros: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            user_micros: used.user_micros,
            system_micros: used.system_micros,
            max_rss_bytes: used.max_rss_bytes,
            left_behind,
        }
    }
}

/// Packs a message into a frame.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4)
        .ok()
        .filter(|n| *n <= FRAME_MAX)
        .ok_or_else(|| io::Error::other("message is too long for the control socket"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

pub(super) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// Reads one frame; an end of the stream before the first byte is an `UnexpectedEof` too.
pub(super) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut body = vec![0; frame_length(head)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Takes the first frame out of what was read so far; `None` while it isn't there whole.
pub(super) fn take<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let end = 4 + frame_length(*head)?;
    let Some(body) = buffer.get(4..end) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..end);
    Ok(Some(message))
}

/// Returns how many bytes follow the head of a frame.
fn frame_length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head);
    if length > FRAME_MAX {
        return Err(io::Error::other("frame on the control socket is too long"));
    }
    usize::try_from(length).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_and_a_huge_one_is_refused() {
        let bytes = frame(&Report::Failed("no such program".to_owned())).unwrap();
        assert!(matches!(
            receive::<Report>(&bytes[..]).unwrap(),
            Report::Failed(why) if why == "no such program"
        ));
        assert!(receive::<Report>(&u32::MAX.to_le_bytes()[..]).is_err());
    }
}

//! What happened in a history, as lines: the last of them for people, all of them in a hash.

use std::collections::VecDeque;
use std::fmt;

/// Lines that are kept for people.
const KEPT: usize = 400;

/// A log whose hash tells whether two histories were the same.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    last: VecDeque<String>,
    lines: u64,
}

impl Trace {
    pub(super) const fn new() -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            last: VecDeque::new(),
            lines: 0,
        }
    }

    pub(super) fn note(&mut self, line: String) {
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Returns the FNV-1a hash of all lines so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns how many lines there were.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// Returns the last lines, at most 400 of them.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

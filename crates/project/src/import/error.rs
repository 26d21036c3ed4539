//! What can go wrong with an import.

use std::fmt;
use std::io;
use std::path::Path;

/// Why an import failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportErrorKind {
    /// The bytes are no JSON: perhaps compressed, cut off, or another file.
    NotJson,
    /// It is JSON, but of another format.
    OtherFormat,
    /// It is the format, in a version that this release doesn't read.
    UnknownVersion,
    /// It contradicts itself: correct the file.
    Invalid,
    /// It is larger than an import, or a file of a project, may be.
    TooLarge,
    /// The folder isn't empty: name another, or insist.
    FolderInUse,
    /// The folder can't be written.
    Io,
}

/// An import that failed, with everything that is wrong.
#[derive(Debug)]
pub struct ImportError {
    kind: ImportErrorKind,
    problems: Vec<String>,
    source: Option<io::Error>,
}

/// More problems than this are counted, not printed.
const SHOWN: usize = 20;

impl ImportError {
    pub(super) fn new(kind: ImportErrorKind, problem: impl Into<String>) -> Self {
        Self {
            kind,
            problems: vec![problem.into()],
            source: None,
        }
    }

    pub(super) const fn invalid(problems: Vec<String>) -> Self {
        Self {
            kind: ImportErrorKind::Invalid,
            problems,
            source: None,
        }
    }

    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self {
            source: Some(source),
            ..Self::new(
                ImportErrorKind::Io,
                format!("{} can't be written", path.display()),
            )
        }
    }

    /// Returns why it failed.
    #[must_use]
    pub const fn kind(&self) -> ImportErrorKind {
        self.kind
    }

    /// Returns everything that is wrong, in the order of the file; never empty.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems[..self.problems.len().min(SHOWN)].join("\n"))?;
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

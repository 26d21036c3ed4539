//! The engine's own errors; a failed step is a value, not one of these.

use windlass_core::{ParamProblem, PipelineName, nearest};

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong: correct it.
    Invalid,
    /// The engine is closed, or its store failed: build another one.
    Closed,
    /// The store can't be used: see the message.
    Store,
    /// A storage can't be used: see the message.
    Storage,
    /// There is no such run.
    NotFound,
}

/// An error of an engine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// Returns what to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns an error of a request that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            message: message.into(),
        }
    }

    pub(crate) fn closed() -> Self {
        Self {
            kind: ErrorKind::Closed,
            message: "the engine is closed".to_owned(),
        }
    }

    pub(crate) fn store(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Store,
            message: message.into(),
        }
    }

    pub(crate) fn storage(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Storage,
            message: message.into(),
        }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::NotFound,
            message: message.into(),
        }
    }

    pub(crate) fn unknown_pipeline<'a>(
        name: &str,
        known: impl Iterator<Item = &'a PipelineName>,
    ) -> Self {
        let near = nearest(name, known.map(PipelineName::as_str));
        let help = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        Self::invalid(format!("no pipeline `{name}` is deployed{help}"))
    }

    pub(crate) fn params(pipeline: &str, problems: &[ParamProblem]) -> Self {
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self::invalid(format!("pipeline {pipeline}: {}", list.join("; ")))
    }
}

impl From<windlass_core::StoreError> for Error {
    fn from(e: windlass_core::StoreError) -> Self {
        Self::store(windlass_core::error_chain(&e))
    }
}

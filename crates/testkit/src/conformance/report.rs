//! What a suite found, and the words in which its promises say so.

use std::fmt;
use std::time::Duration;

/// What a suite found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Promises that hold.
    pub held: Vec<&'static str>,
    /// Promises about what the implementation says it can't do, or the caller can't show.
    pub skipped: Vec<&'static str>,
    /// Promises that are broken, and how.
    pub broken: Vec<(&'static str, String)>,
}

impl Report {
    /// Notes how a promise came out.
    pub(super) fn note(&mut self, promise: &'static str, found: Found) {
        match found {
            Ok(()) => self.held.push(promise),
            Err(Miss::NotHere) => self.skipped.push(promise),
            Err(Miss::Broken(how)) => self.broken.push((promise, how)),
        }
    }

    /// Returns the report if nothing is broken.
    ///
    /// # Panics
    /// With the promises that are broken.
    #[expect(clippy::panic, reason = "a suite panics where a promise is broken")]
    pub(super) fn or_panic(self, who: &dyn fmt::Display) -> Self {
        if !self.broken.is_empty() {
            panic!("{who} breaks its contract: {self}");
        }
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, skipped) = (self.held.len(), self.skipped.join(", "));
        write!(f, "{held} hold, skipped: [{skipped}]")?;
        self.broken
            .iter()
            .try_for_each(|(promise, how)| write!(f, "\n  {promise}: {how}"))
    }
}

/// How a promise came out.
pub(super) type Found = Result<(), Miss>;

/// Why a promise was not seen to hold.
#[derive(Debug)]
pub(super) enum Miss {
    /// It is broken, and how.
    Broken(String),
    /// The implementation never made it.
    NotHere,
}

/// Returns a broken promise.
pub(super) fn broken<T>(how: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Broken(how.into()))
}

pub(super) fn that(holds: bool, otherwise: impl FnOnce() -> String) -> Found {
    if holds { Ok(()) } else { broken(otherwise()) }
}

pub(super) fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Found {
    that(found == expected, || {
        format!("{what} is {found:?} instead of {expected:?}")
    })
}

/// Skips the rest of a promise that holds under a condition only.
pub(super) fn only_if(made: bool) -> Found {
    if made { Ok(()) } else { Err(Miss::NotHere) }
}

impl From<std::io::Error> for Miss {
    fn from(e: std::io::Error) -> Self {
        Self::Broken(format!("the suite's own files: {e}"))
    }
}

impl From<serde_json::Error> for Miss {
    fn from(e: serde_json::Error) -> Self {
        Self::Broken(format!("JSON: {e}"))
    }
}

/// Ends a promise that nothing comes of, so that an implementation that hangs fails by name.
#[expect(
    clippy::disallowed_methods,
    reason = "the suite watches real implementations in real time"
)]
pub(super) async fn within(patience: Duration, promise: impl Future<Output = Found>) -> Found {
    match tokio::time::timeout(patience, promise).await {
        Ok(found) => found,
        Err(_) => broken(format!("nothing came of it within {patience:?}")),
    }
}

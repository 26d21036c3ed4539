//! Kept results: what a result is keyed by, what is kept of it, and what a look for one found.
//!
//! A key is the digest of named parts, so whoever compares two of them can say which part differs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{RunId, Slot};
use crate::step::StepOutput;
use crate::storage::Digest;
use crate::time::Timestamp;
use crate::units::optional_duration;

/// Bytes of a part's value that are kept as they are; a longer one is kept as its digest.
const MOST_SHOWN: usize = 120;
/// What digests of parts begin with that stand for a long value.
const DIGEST_OF: &str = "blake3:";

/// That a step's results are kept and served again, and how far.
///
/// ```
/// use windlass_core::CachePolicy;
/// let policy = CachePolicy::new().shared().version("2").max_age(std::time::Duration::from_secs(86_400));
/// assert!(policy.shared && policy.version.as_deref() == Some("2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[non_exhaustive]
pub struct CachePolicy {
    /// Whether steps of other pipelines, and of other names, are served the same result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Part of the key that people change by hand; code in Rust needs one, since nobody can take its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// Results that are older are not served; `None` serves any.
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age: Option<Duration>,
}

impl CachePolicy {
    /// Returns the policy to keep results for this step of this pipeline, whatever their age.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            shared: false,
            version: None,
            max_age: None,
        }
    }

    /// Shares results with other steps and pipelines.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Sets the part of the key that people change by hand.
    #[must_use]
    pub fn version(mut self, version: impl AsRef<str>) -> Self {
        self.version = Some(version.as_ref().into());
        self
    }

    /// Sets the age above which results are not served.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }
}

/// What a result is keyed by: values by name, long ones by their digest.
///
/// ```
/// use windlass_core::CacheParts;
/// let mut parts = CacheParts::default();
/// parts.set("command", "train.py --trees 100");
/// let mut other = parts.clone();
/// other.set("command", "train.py --trees 200");
/// assert_ne!(parts.key(), other.key());
/// assert_eq!(other.differences(&parts)[0].to_string(), "command: was train.py --trees 100, is train.py --trees 200");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheParts(BTreeMap<String, String>);

impl CacheParts {
    /// Sets a part.
    pub fn set(&mut self, name: impl Into<String>, value: impl AsRef<str>) {
        let value = value.as_ref();
        // One that looks like a digest must not stand for what has that digest.
        let shown = value.len() <= MOST_SHOWN && !value.starts_with(DIGEST_OF);
        let value = if shown {
            value.to_owned()
        } else {
            return self.set_digest(name, &Digest::of(value.as_bytes()));
        };
        self.0.insert(name.into(), value);
    }

    /// Sets a part that is known by its digest only.
    pub fn set_digest(&mut self, name: impl Into<String>, digest: &Digest) {
        self.0.insert(name.into(), format!("{DIGEST_OF}{digest}"));
    }

    /// Returns the key that they make.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut text = b"windlass cache 1\n".to_vec();
        for (name, value) in &self.0 {
            // Lengths, so that no value can look like the next part.
            text.extend(format!("{} {} {name} {value}\n", name.len(), value.len()).as_bytes());
        }
        Digest::of(&text)
    }

    /// Returns the names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns in what these parts differ from earlier ones, by name.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<CacheDifference> {
        let gone = before.0.keys().filter(|name| !self.0.contains_key(*name));
        let mut names: Vec<&String> = self.0.keys().chain(gone).collect();
        names.sort_unstable();
        let differs = names.into_iter().filter_map(|name| {
            let (was, is) = (before.0.get(name), self.0.get(name));
            (was != is).then(|| CacheDifference {
                part: name.clone(),
                was: was.cloned(),
                is: is.cloned(),
            })
        });
        differs.collect()
    }
}

/// A part in which two keys differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CacheDifference {
    /// Its name, such as `code`, `parameter region` or `input prices`.
    pub part: String,
    /// Its value in the earlier key; `None` if it wasn't in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Its value in the later key; `None` if it isn't in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
}

impl fmt::Display for CacheDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_digest = |value: &str| value.starts_with(DIGEST_OF);
        match (self.was.as_deref(), self.is.as_deref()) {
            (None, _) => write!(f, "{}: is new", self.part),
            (_, None) => write!(f, "{}: is gone", self.part),
            (Some(was), Some(is)) if is_digest(was) || is_digest(is) => {
                write!(f, "{}: has changed", self.part)
            }
            (Some(was), Some(is)) => write!(f, "{}: was {was}, is {is}", self.part),
        }
    }
}

/// A result that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CacheEntry {
    /// What it is found by: the key of `parts`.
    pub key: Digest,
    /// What it depends on.
    pub parts: CacheParts,
    /// Which results follow each other, to compare a missing one with: environment, pipeline, step and item.
    pub line: String,
    /// The run that computed it.
    pub run: RunId,
    /// The place in that run.
    pub slot: Slot,
    /// The result; its artifacts lie where that run wrote them.
    pub output: StepOutput,
    /// When it was computed.
    pub created_at: Timestamp,
    /// When it was computed or served last.
    pub used_at: Timestamp,
}

impl CacheEntry {
    /// Returns a result that was computed just now.
    #[must_use]
    pub fn new(
        parts: CacheParts,
        line: String,
        run: RunId,
        slot: Slot,
        output: StepOutput,
        at: Timestamp,
    ) -> Self {
        Self {
            key: parts.key(),
            parts,
            line,
            run,
            slot,
            output,
            created_at: at,
            used_at: at,
        }
    }

    /// Returns the bytes of its value and of the artifacts that it names.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let artifacts = self.output.artifacts.values().map(|a| a.bytes);
        self.output.value.bytes().len() as u64 + artifacts.sum::<u64>()
    }
}

/// Which kept results to return.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store must answer every question that there is"
)]
pub enum CacheQuery {
    /// The one of this key.
    Key(Digest),
    /// The one of this line that was computed last; the larger key if several were at that instant.
    Latest(String),
    /// Those behind this key, in the order of keys.
    Behind {
        /// The last key of the page before; `None` for the first page.
        last: Option<Digest>,
        /// At most so many.
        limit: u32,
    },
}

impl CacheQuery {
    /// Answers it from kept results in memory.
    #[must_use]
    pub fn answer(&self, kept: &BTreeMap<Digest, CacheEntry>) -> Vec<CacheEntry> {
        match self {
            Self::Key(key) => kept.get(key).into_iter().cloned().collect(),
            Self::Latest(line) => {
                let of = kept.values().filter(|e| e.line == *line);
                let last = of.max_by_key(|e| (e.created_at, e.key));
                last.into_iter().cloned().collect()
            }
            Self::Behind { last, limit } => {
                let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
                let found = kept.range((behind, Bound::Unbounded));
                let found = found.map(|(_, entry)| entry.clone());
                found.take(*limit as usize).collect()
            }
        }
    }
}

/// What a step was looked up by, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CacheNote {
    /// What its result depends on.
    pub parts: CacheParts,
    /// Which results it follows.
    pub line: String,
    /// What was found.
    pub found: CacheFound,
}

impl CacheNote {
    /// Returns a note.
    #[must_use]
    pub const fn new(parts: CacheParts, line: String, found: CacheFound) -> Self {
        Self { parts, line, found }
    }

    /// Returns the key; `None` if it isn't known what the result depends on.
    #[must_use]
    pub fn key(&self) -> Option<Digest> {
        (!matches!(self.found, CacheFound::Unknown { .. })).then(|| self.parts.key())
    }
}

/// What a look for a kept result found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "found")]
#[non_exhaustive]
pub enum CacheFound {
    /// The result of that run.
    Hit {
        /// The run that computed it.
        run: RunId,
    },
    /// Nothing, and nothing to compare with.
    Nothing,
    /// None of this key; the last one of its line differs in these parts.
    Differs {
        /// The run that computed the last one.
        run: RunId,
        /// What differs.
        parts: Vec<CacheDifference>,
    },
    /// One that is older than the step allows.
    TooOld {
        /// The run that computed it.
        run: RunId,
        /// When.
        at: Timestamp,
    },
    /// One whose artifacts are not there any more.
    Gone {
        /// The run that computed it.
        run: RunId,
        /// What is missing.
        what: String,
    },
    /// Somebody asked for a result of its own; it is kept for others.
    NotAsked,
    /// It can't be told what the result depends on, so it is not kept.
    Unknown {
        /// Why.
        why: String,
    },
}

impl fmt::Display for CacheFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit { run } => write!(f, "served from run {run}"),
            Self::Nothing => f.write_str("no result was kept for it before"),
            Self::Differs { run, parts } => {
                let names: Vec<String> = parts.iter().map(ToString::to_string).collect();
                write!(f, "differs from run {run} in {}", names.join("; "))
            }
            Self::TooOld { run, at } => {
                write!(f, "the result of run {run} is too old: it is of {at}")
            }
            Self::Gone { run, what } => {
                write!(f, "the result of run {run} is not there any more: {what}")
            }
            Self::NotAsked => f.write_str("it was asked to run anew"),
            Self::Unknown { why } => write!(f, "its result can't be kept: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(of: &[(&str, &str)]) -> CacheParts {
        let mut parts = CacheParts::default();
        of.iter().for_each(|(name, value)| parts.set(*name, value));
        parts
    }

    #[test]
    fn parts_that_are_cut_elsewhere_have_another_key() {
        let one = parts(&[("a", "b 1 1 c d")]);
        let other = parts(&[("a", "b"), ("c", "d")]);
        assert_ne!(one.key(), other.key());
        assert_ne!(
            parts(&[("a", "x\n1 1 b y")]).key(),
            parts(&[("a", "x"), ("b", "y")]).key()
        );
    }

    #[test]
    fn a_value_that_looks_like_a_digest_is_not_taken_for_what_has_it() {
        let long = "x".repeat(500);
        let kept = parts(&[("a", &long)]);
        let shown = kept.iter().next().unwrap().1.to_owned();
        assert!(shown.starts_with(DIGEST_OF), "{shown}");
        assert_ne!(parts(&[("a", &shown)]).key(), kept.key());
    }

    #[test]
    fn differences_name_what_is_new_gone_and_changed() {
        let before = parts(&[("code", "1"), ("input a", "x"), ("command", "c")]);
        let now = parts(&[("code", "2"), ("input b", "x"), ("command", "c")]);
        let found = now.differences(&before);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["code: was 1, is 2", "input a: is gone", "input b: is new"]
        );
        assert!(now.differences(&now).is_empty());
    }
}

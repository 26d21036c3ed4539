//! Names, keys and ids: parsed once, valid ever after.
//!
//! Names that a person chooses are checked when they are built; ids that the engine makes come
//! from an [`IdSource`], never from ambient randomness, so that a simulation can repeat them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::sharing::Shard;
use crate::time::Timestamp;

/// A name that breaks the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name={name:?} is not valid: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

impl InvalidName {
    /// Returns the rule that the name breaks, in words.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        self.rule
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Returns the name after checking it.
            ///
            /// # Errors
            /// [`InvalidName`] says which rule is broken.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                let name = name.as_ref();
                let check: fn(&str) -> bool = $check;
                if check(name) {
                    Ok(Self(Arc::from(name)))
                } else {
                    Err(InvalidName { kind: $kind, name: clip(name), rule: $rule })
                }
            }

            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl TryFrom<&str> for $type {
            type Error = InvalidName;
            fn try_from(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

fn clip(name: &str) -> String {
    name.chars().take(80).collect()
}

fn is_lower_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_word_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

name_type!(
    /// The name of a pipeline, unique in its project.
    ///
    /// ```
    /// use windlass_core::PipelineName;
    /// assert!(PipelineName::new("churn-emea").is_ok());
    /// assert!(PipelineName::new("../churn").is_err());
    /// ```
    PipelineName,
    "pipeline",
    "use 1 to 63 characters of a-z, 0-9 and `-`, starting with a letter or digit",
    |n| is_lower_name(n, 63)
);

name_type!(
    /// The name of a step, unique in its pipeline; also a folder name in [`crate::storage`].
    ///
    /// ```
    /// use windlass_core::StepName;
    /// assert_eq!(StepName::new("train_2").unwrap().as_str(), "train_2");
    /// assert!(StepName::new("a.b").is_err(), "a dot would be read as STEP.OUTPUT");
    /// ```
    StepName,
    "step",
    "use 1 to 128 characters of a-z, A-Z, 0-9, `-` and `_`, starting with a letter or digit",
    |n| is_word_name(n, 128)
);

name_type!(
    /// The logical name of a port, parameter, storage, target, pool, notifier or secret.
    ///
    /// ```
    /// use windlass_core::LogicalName;
    /// assert!(LogicalName::new("warehouse").is_ok());
    /// assert!(LogicalName::new("").is_err());
    /// ```
    LogicalName,
    "logical",
    "use 1 to 128 characters of a-z, A-Z, 0-9, `-` and `_`, starting with a letter or digit",
    |n| is_word_name(n, 128)
);

name_type!(
    /// The caller's idempotency key: starting an existing key returns the run it started.
    ///
    /// The default is `PIPELINE@ENVIRONMENT@LOGICAL-DATE`; a forced sibling gets `#2`, `#3`, … behind it.
    ///
    /// ```
    /// use windlass_core::RunKey;
    /// assert!(RunKey::new("churn@dev@2026-11-03").is_ok());
    /// assert!(RunKey::new("").is_err());
    /// ```
    RunKey,
    "run key",
    "use 1 to 512 characters without control characters",
    |n| (1..=512).contains(&n.len()) && !n.chars().any(char::is_control)
);

impl RunKey {
    /// Returns the key without the number of a sibling behind it.
    ///
    /// ```
    /// use windlass_core::RunKey;
    /// let third = RunKey::new("churn@dev@2026-11-03#3").unwrap();
    /// assert_eq!(third.first_sibling(), "churn@dev@2026-11-03");
    /// assert_eq!(RunKey::new("issue #7b").unwrap().first_sibling(), "issue #7b");
    /// ```
    #[must_use]
    pub fn first_sibling(&self) -> &str {
        match self.0.rsplit_once('#') {
            Some((first, number))
                if !first.is_empty()
                    && !number.is_empty()
                    && number.bytes().all(|b| b.is_ascii_digit()) =>
            {
                first
            }
            _ => &self.0,
        }
    }
}

/// Identifies one run; a UUIDv7, so ids sort by start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// Wraps an id that was made before, for example one read from a store.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// Builds the UUIDv7 of `at` (milliseconds kept) with 74 bits taken from `random`.
    ///
    /// ```
    /// use windlass_core::{RunId, Timestamp};
    /// let a = RunId::from_parts(Timestamp::from_micros(1_000_000), 7);
    /// let b = RunId::from_parts(Timestamp::from_micros(2_000_000), 3);
    /// assert!(a < b, "ids sort by time");
    /// ```
    #[must_use]
    pub fn from_parts(at: Timestamp, random: u128) -> Self {
        let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random.to_be_bytes()[6..]);
        Self(
            uuid::Builder::from_bytes(bytes)
                .with_version(uuid::Version::SortRand)
                .into_uuid(),
        )
    }

    /// Returns the same id in that shard: its last bits are the shard's number.
    #[must_use]
    pub const fn in_shard(self, shard: Shard) -> Self {
        let mut bytes = *self.0.as_bytes();
        bytes[15] = bytes[15] / Shard::COUNT * Shard::COUNT + shard.number();
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the id as a UUID.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// Returns the last eight hex digits: enough for a person to tell runs of a day apart.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.0.simple().to_string();
        text[24..].to_owned()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for RunId {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Uuid::parse_str(s).map(Self).map_err(|_| InvalidName {
            kind: "run id",
            name: clip(s),
            rule: "use a UUID: 32 hex digits, with or without `-`",
        })
    }
}

/// The number of a try of a step, counted from 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct AttemptNo(u32);

impl AttemptNo {
    /// Wraps a number; 0 means that no attempt was made yet.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Returns the number of the try after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AttemptNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number that a late owner fails on: it only grows within a run, and a result that carries
/// an old one changes nothing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Wraps a number; 0 is older than every token that was handed out.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A place in a run: a step, or one item of a mapped step.
///
/// `step` is the index in the pipeline version (definition order, `finally` steps last).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "two coordinates are all there are"
)]
pub struct Slot {
    /// Index of the step in its pipeline version.
    pub step: u32,
    /// Index of the item of a mapped step; `None` for the step itself.
    pub item: Option<u32>,
}

impl Slot {
    /// Names a whole step.
    #[must_use]
    pub const fn step(step: u32) -> Self {
        Self { step, item: None }
    }

    /// Names one item of a mapped step.
    #[must_use]
    pub const fn item(step: u32, item: u32) -> Self {
        Self {
            step,
            item: Some(item),
        }
    }
}

/// Makes ids and randomness for the engine.
///
/// Production uses a random source; tests and simulation use a seeded one.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// Returns 128 fresh random bits.
    fn random(&self) -> u128;

    /// Returns a new run id for a run that starts at `at`.
    fn next_run_id(&self, at: Timestamp) -> RunId {
        RunId::from_parts(at, self.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_would_escape_a_folder() {
        for bad in ["", ".", "..", "a/b", "a\\b", "a b", "-a", "é", "a.b"] {
            assert!(StepName::new(bad).is_err(), "{bad:?}");
            assert!(PipelineName::new(bad).is_err(), "{bad:?}");
        }
        assert!(StepName::new("a".repeat(129)).is_err());
    }

    #[test]
    fn text_that_is_no_run_id_is_shown_without_its_control_characters() {
        let said = "0193\u{1b}[2J".parse::<RunId>().unwrap_err().to_string();
        assert!(said.contains("0193") && !said.contains('\u{1b}'), "{said}");
    }

    #[test]
    fn run_id_is_a_uuid_v7_of_its_time() {
        let id = RunId::from_parts(Timestamp::from_micros(1_700_000_000_123_456), u128::MAX);
        assert_eq!(id.as_uuid().get_version_num(), 7);
        let (secs, nanos) = id.as_uuid().get_timestamp().unwrap().to_unix();
        assert_eq!((secs, nanos / 1_000_000), (1_700_000_000, 123));
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
    }
}

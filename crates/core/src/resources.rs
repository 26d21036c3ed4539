//! What a step asks for and what a pool grants: a vector of named amounts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::LogicalName;
use crate::units::format_bytes;

/// A vector of named amounts: cpu in thousandths of a core, memory and disk in bytes, gpus in
/// thousandths, and anything else (licences, connections) by name.
///
/// A missing amount is zero in a request. In a quota, a missing amount means *not limited*; see [`Quota`].
///
/// ```
/// use windlass_core::Resources;
/// let request = Resources::new().cpu_cores(2).memory_gib(4).named("licence", 1);
/// assert_eq!(request.get("cpu"), 2_000);
/// assert_eq!(request.get("memory"), 4 << 30);
/// assert_eq!(request.to_string(), "2 cpu, 1 licence, 4GiB memory");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources {
    amounts: BTreeMap<String, u64>,
}

/// The name under which cpu is counted, in thousandths of a core.
pub const CPU: &str = "cpu";
/// The name under which memory is counted, in bytes.
pub const MEMORY: &str = "memory";
/// The name under which scratch disk is counted, in bytes.
pub const DISK: &str = "disk";
/// The name under which gpus are counted, in thousandths of a device.
pub const GPU: &str = "gpu";

impl Resources {
    /// Returns the vector that asks for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whole cores.
    #[must_use]
    pub fn cpu_cores(self, cores: u32) -> Self {
        self.with(CPU, u64::from(cores) * 1_000)
    }

    /// Sets cpu in thousandths of a core.
    #[must_use]
    pub fn cpu_millis(self, millis: u64) -> Self {
        self.with(CPU, millis)
    }

    /// Sets memory in GiB.
    #[must_use]
    pub fn memory_gib(self, gib: u32) -> Self {
        self.with(MEMORY, u64::from(gib) << 30)
    }

    /// Sets memory in bytes.
    #[must_use]
    pub fn memory_bytes(self, bytes: u64) -> Self {
        self.with(MEMORY, bytes)
    }

    /// Sets whole gpus.
    #[must_use]
    pub fn gpus(self, gpus: u32) -> Self {
        self.with(GPU, u64::from(gpus) * 1_000)
    }

    /// Sets an amount of anything else; the name is free, zero takes the entry away.
    #[must_use]
    pub fn named(self, name: &str, amount: u64) -> Self {
        self.with(name, amount)
    }

    fn with(mut self, name: &str, amount: u64) -> Self {
        if amount == 0 {
            self.amounts.remove(name);
        } else {
            self.amounts.insert(name.to_owned(), amount);
        }
        self
    }

    /// Returns one amount in its unit; zero where nothing is asked.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.amounts.get(name).copied().unwrap_or(0)
    }

    /// Iterates over the amounts that are not zero, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.amounts.iter().map(|(k, v)| (k.as_str(), *v))
    }

    /// Returns true if nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.amounts.is_empty()
    }

    /// Adds `other` to this vector; amounts stop at `u64::MAX`.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.amounts {
            let sum = self.get(name).saturating_add(*amount);
            self.amounts.insert(name.clone(), sum);
        }
    }

    /// Takes `other` away from this vector; amounts stop at zero.
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.amounts {
            match self.get(name).saturating_sub(*amount) {
                0 => self.amounts.remove(name),
                rest => self.amounts.insert(name.clone(), rest),
            };
        }
    }

    /// Returns the first amount of this request that `limit` could never grant, given what is in use.
    ///
    /// A name that `limit` doesn't mention is not limited.
    #[must_use]
    pub fn first_excess<'a>(&'a self, in_use: &Self, limit: &'a Self) -> Option<Excess<'a>> {
        self.amounts.iter().find_map(|(name, asked)| {
            let limit = *limit.amounts.get(name)?;
            let used = in_use.get(name);
            (used.saturating_add(*asked) > limit).then_some(Excess {
                name,
                asked: *asked,
                used,
                limit,
            })
        })
    }
}

/// The amount of a request that doesn't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Excess<'a> {
    /// Which amount.
    pub name: &'a str,
    /// How much is asked for.
    pub asked: u64,
    /// How much is in use.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
}

/// Prints one amount in the unit of its name: cores, bytes or a plain count.
#[must_use]
pub fn format_amount(name: &str, amount: u64) -> String {
    match name {
        CPU | GPU if amount.is_multiple_of(1_000) => format!("{}", amount / 1_000),
        CPU | GPU => format!("{}", amount as f64 / 1_000.0),
        MEMORY | DISK => format_bytes(amount),
        _ => amount.to_string(),
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (name, amount)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} {name}", format_amount(name, amount))?;
        }
        Ok(())
    }
}

/// A limit on what the steps of one pool may hold together.
///
/// A name that the limit doesn't mention is not limited by this pool.
///
/// ```
/// use windlass_core::{Quota, Resources};
/// let quota = Quota::new("training", Resources::new().cpu_cores(4).memory_gib(24)).unwrap();
/// assert_eq!(quota.pool().as_str(), "training");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pool: LogicalName,
    limit: Resources,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<LogicalName>,
}

impl Quota {
    /// Returns a quota for the pool of that name.
    ///
    /// # Errors
    /// [`crate::InvalidName`] if the name breaks the rules of a [`LogicalName`].
    pub fn new(pool: &str, limit: Resources) -> Result<Self, crate::InvalidName> {
        Ok(Self {
            pool: LogicalName::new(pool)?,
            limit,
            within: None,
        })
    }

    /// Puts the pool into another one: a step of it needs room in both, and in those around that one.
    #[must_use]
    pub fn within(mut self, pool: LogicalName) -> Self {
        self.within = Some(pool);
        self
    }

    /// Returns the pool that it lies within.
    #[must_use]
    pub const fn outer(&self) -> Option<&LogicalName> {
        self.within.as_ref()
    }

    /// Returns the name of the pool.
    #[must_use]
    pub const fn pool(&self) -> &LogicalName {
        &self.pool
    }

    /// Returns the limit.
    #[must_use]
    pub const fn limit(&self) -> &Resources {
        &self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_limit_is_free() {
        let limit = Resources::new().cpu_cores(2);
        let ask = Resources::new().cpu_cores(1).named("licence", 9);
        assert_eq!(ask.first_excess(&Resources::new(), &limit), None);
        let used = Resources::new().cpu_cores(2);
        assert_eq!(ask.first_excess(&used, &limit).map(|e| e.name), Some("cpu"));
    }

    #[test]
    fn adding_then_subtracting_leaves_the_start() {
        let start = Resources::new().cpu_cores(3).named("x", 2);
        let more = Resources::new().cpu_cores(1).memory_gib(1);
        let mut v = start.clone();
        v.add(&more);
        v.subtract(&more);
        assert_eq!(v, start);
    }
}

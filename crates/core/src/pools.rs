//! Pools within pools.

use std::collections::BTreeMap;

use crate::ids::LogicalName;
use crate::resources::{Quota, Resources};

/// The pools of some quotas, and which lies within which.
///
/// ```
/// use windlass_core::{LogicalName, PoolTree, Quota, Resources};
/// let cluster = Quota::new("cluster", Resources::new().cpu_cores(64)).unwrap();
/// let churn = Quota::new("churn", Resources::new().cpu_cores(8)).unwrap();
/// let cluster_name = cluster.pool().clone();
/// let pools = PoolTree::new(&[churn.within(cluster_name), cluster]).unwrap();
/// let path = pools.path(&LogicalName::new("churn").unwrap());
/// assert_eq!(path.iter().map(|p| p.as_str()).collect::<Vec<_>>(), ["churn", "cluster"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolTree {
    paths: BTreeMap<LogicalName, Vec<LogicalName>>,
    limits: BTreeMap<LogicalName, Resources>,
}

/// A pool that lies within none, or within itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pool `{pool}` {what}")]
#[non_exhaustive]
pub struct BadPool {
    /// That pool.
    pub pool: LogicalName,
    /// What is wrong with it.
    pub what: String,
}

impl PoolTree {
    /// Finds the pools that each pool lies within.
    ///
    /// # Errors
    /// [`BadPool`] for one that lies within a pool without a quota, or within itself.
    pub fn new(quotas: &[Quota]) -> Result<Self, BadPool> {
        let by_name: BTreeMap<_, _> = quotas.iter().map(|q| (q.pool(), q)).collect();
        let mut tree = Self::default();
        for quota in by_name.values() {
            let (mut path, mut limit) = (vec![quota.pool().clone()], Resources::new());
            let mut at = *quota;
            loop {
                limit = least(&limit, at.limit());
                let Some(outer) = at.outer() else { break };
                let bad = |what| BadPool {
                    pool: quota.pool().clone(),
                    what,
                };
                if path.contains(outer) {
                    return Err(bad(format!("lies within itself, by `{}`", at.pool())));
                }
                let found = by_name.get(outer);
                at = found.ok_or_else(|| {
                    bad(format!("lies within `{outer}`, and there is no such pool"))
                })?;
                path.push(outer.clone());
            }
            tree.paths.insert(quota.pool().clone(), path);
            tree.limits.insert(quota.pool().clone(), limit);
        }
        Ok(tree)
    }

    /// Returns a pool and those that it lies within, from the inside out; nothing for one without a quota.
    #[must_use]
    pub fn path(&self, pool: &LogicalName) -> &[LogicalName] {
        self.paths.get(pool).map_or(&[], Vec::as_slice)
    }

    /// Returns what a single step of each pool may ask for at most: the least of its own limits and of those
    /// that it lies within.
    #[must_use]
    pub const fn limits(&self) -> &BTreeMap<LogicalName, Resources> {
        &self.limits
    }
}

/// A name that a limit doesn't mention is not limited by it.
fn least(a: &Resources, b: &Resources) -> Resources {
    let mut least = a.clone();
    for (name, amount) in b.iter().filter(|(_, amount)| *amount > 0) {
        let so_far = least.get(name);
        if so_far == 0 || amount < so_far {
            least = least.named(name, amount);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(pool: &str, cores: u32, within: &str) -> Quota {
        let quota = Quota::new(pool, Resources::new().cpu_cores(cores)).unwrap();
        match within {
            "" => quota,
            outer => quota.within(outer.parse().unwrap()),
        }
    }

    #[test]
    fn a_step_may_ask_for_the_least_of_all_limits_around_it() {
        let licences = Quota::new("inner", Resources::new().named("licence", 3)).unwrap();
        let licences = licences.within("middle".parse().unwrap());
        let all = [licences, quota("middle", 9, "outer"), quota("outer", 4, "")];
        let tree = PoolTree::new(&all).unwrap();
        let inner = "inner".parse().unwrap();
        assert_eq!(tree.path(&inner).len(), 3);
        let least = Resources::new().cpu_cores(4).named("licence", 3);
        assert_eq!(tree.limits()[&inner], least);
        assert!(tree.path(&"unknown".parse().unwrap()).is_empty());
    }

    #[test]
    fn pools_within_themselves_or_within_none_are_told() {
        let told = |quotas: &[Quota]| PoolTree::new(quotas).unwrap_err().to_string();
        let lost = told(&[quota("a", 1, "b")]);
        assert_eq!(lost, "pool `a` lies within `b`, and there is no such pool");
        let round = told(&[quota("a", 1, "b"), quota("b", 1, "a")]);
        assert_eq!(round, "pool `a` lies within itself, by `b`");
        assert_eq!(
            told(&[quota("a", 1, "a")]),
            "pool `a` lies within itself, by `a`"
        );
    }
}

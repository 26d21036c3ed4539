//! What a step needs room for.

use std::sync::Arc;

use windlass_core::{Action, CPU, FailureClass, LogicalName, MEMORY, Resources, RetryPolicy, Slot};

use super::Active;
use crate::admission::Need;
use crate::engine::Core;

/// Returns what an attempt of a slot needs room for: the pools, what it takes from each, and for whom.
///
/// How much depends on the pools and their limits.
pub(super) fn need(
    core: &Core,
    active: &Active,
    slot: Slot,
    resources: impl FnOnce(&[LogicalName]) -> Resources,
) -> Need {
    let step = active.bound.pipeline.step(slot.step);
    let mut pools: Vec<LogicalName> = step.policy.pool.iter().cloned().collect();
    if let Some(pool) = &step.policy.pool {
        // The pool itself is the first of them.
        pools.extend(core.pools.path(pool).iter().skip(1).cloned());
    }
    if matches!(step.action, Action::Run(_)) {
        let target = step.policy.target.as_ref();
        let target = target.or(core.settings.default_target.as_ref());
        pools.extend(target.map(target_pool));
    }
    Need {
        tenant: Arc::clone(&active.bound.tenant),
        resources: resources(&pools),
        pools,
        label: format!("{}/{}", active.record.pipeline, active.state.label(slot)),
    }
}

/// Returns what the next attempt of a slot takes.
///
/// A job takes at least a core of its target unless it says otherwise, so that a pipeline without
/// any figures doesn't run everything at once. What ran out of memory grows as its policy says, up to the
/// limit of its pools: what asks for more would never start.
pub(super) fn resources(active: &Active, slot: Slot, memory_limit: Option<u64>) -> Resources {
    let step = active.bound.pipeline.step(slot.step);
    let mut resources = step.policy.resources.clone();
    if !matches!(step.action, Action::Run(_)) {
        return resources;
    }
    if resources.get(CPU) == 0 {
        resources = resources.cpu_cores(1);
    }
    let memory = resources.get(MEMORY);
    let extra = active.state.extras.get(&slot);
    match extra.map_or(0, |e| e.out_of_memory) {
        0 => resources,
        _ if memory == 0 => resources,
        times => resources.memory_bytes(grown(&step.policy.retry, times, memory, memory_limit)),
    }
}

/// Returns what to ask for instead of `first` after so many failures for memory.
fn grown(retry: &RetryPolicy, times: u32, first: u64, limit: Option<u64>) -> u64 {
    let wanted = retry.memory_after(FailureClass::OutOfMemory, times, first);
    limit.map_or(wanted, |limit| wanted.min(limit.max(first)))
}

/// Returns the name under which the room of a target is counted.
///
/// No quota can have it: names of quotas have no such prefix by the builder's check.
pub(crate) fn target_pool(target: &LogicalName) -> LogicalName {
    let name = format!("target-{target}");
    LogicalName::new(&name).unwrap_or_else(|_| target.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::ClassRetry;

    #[test]
    fn memory_grows_up_to_the_limit_of_its_pools_and_never_below_the_first_request() {
        let mut doubled = ClassRetry::default();
        doubled.grow_memory_percent = Some(100);
        let retry = RetryPolicy::attempts(9).with_class(FailureClass::OutOfMemory, doubled);
        let asked = |limit| [1, 2, 3].map(|times| grown(&retry, times, 4, limit));
        assert_eq!(asked(None), [8, 16, 32]);
        assert_eq!(asked(Some(20)), [8, 16, 20]);
        assert_eq!(asked(Some(4)), [4, 4, 4]);
        // It waits for a larger pool, as it did when it was new.
        assert_eq!(asked(Some(2)), [4, 4, 4]);
    }
}

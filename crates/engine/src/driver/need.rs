//! What a step needs room for.

use std::sync::Arc;

use windlass_core::{Action, CPU, FailureClass, LogicalName, MEMORY, Resources, Slot};

use super::Active;
use crate::admission::Need;
use crate::engine::Core;

/// Returns the pools that a slot needs room in, what it takes from each, and for whom.
pub(super) fn need(core: &Core, active: &Active, slot: Slot) -> Need {
    let step = active.bound.pipeline.step(slot.step);
    let mut pools: Vec<LogicalName> = step.policy.pool.iter().cloned().collect();
    if matches!(step.action, Action::Run(_)) {
        let target = step.policy.target.as_ref();
        let target = target.or(core.settings.default_target.as_ref());
        pools.extend(target.map(target_pool));
    }
    Need {
        tenant: Arc::clone(&active.bound.tenant),
        pools,
        resources: resources(active, slot),
        label: format!("{}/{}", active.record.pipeline, active.state.label(slot)),
    }
}

/// Returns what the next attempt of a slot takes.
///
/// A job takes at least a core of its target unless it says otherwise, so that a pipeline without
/// any figures doesn't run everything at once.
pub(crate) fn resources(active: &Active, slot: Slot) -> Resources {
    let step = active.bound.pipeline.step(slot.step);
    let mut resources = step.policy.resources.clone();
    if !matches!(step.action, Action::Run(_)) {
        return resources;
    }
    if resources.get(CPU) == 0 {
        resources = resources.cpu_cores(1);
    }
    let extra = active.state.extras.get(&slot);
    let times = extra.map_or(0, |e| e.out_of_memory);
    let memory = resources.get(MEMORY);
    if times > 0 && memory > 0 {
        let retry = &step.policy.retry;
        let grown = retry.memory_after(FailureClass::OutOfMemory, times, memory);
        resources = resources.memory_bytes(grown);
    }
    resources
}

/// Returns the name under which the room of a target is counted.
///
/// No quota can have it: names of quotas have no such prefix by the builder's check.
pub(crate) fn target_pool(target: &LogicalName) -> LogicalName {
    let name = format!("target-{target}");
    LogicalName::new(&name).unwrap_or_else(|_| target.clone())
}

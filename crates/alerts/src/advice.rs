//! What to do, by class of failure: one sentence that names the step, the setting and its value.

use windlass_core::units::{format_bytes, format_duration};
use windlass_core::{FailureClass, MEMORY, Occasion, StepSpec, TimeoutKind};

use crate::message::{Failed, Root};

/// Roots that advice is given for: one of each class, the first ones.
const MAX_ADVICE: usize = 3;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Returns what to do about a failed run; never empty.
pub(crate) fn of(occasion: &Occasion<'_>, what: &Failed<'_>) -> Vec<String> {
    let mut seen: Vec<FailureClass> = Vec::new();
    let mut advice = Vec::new();
    for root in &what.roots {
        let class = root.failure.failure.class;
        if advice.len() < MAX_ADVICE && !seen.contains(&class) {
            seen.push(class);
            advice.push(for_root(root));
        }
    }
    if advice.is_empty() {
        advice.push(occasion.pipeline.deadline.map_or_else(
            || "look at the run's events: they say why it failed though no step did".to_owned(),
            |limit| {
                format!(
                    "see which steps took longest; the run's `deadline` is {}",
                    format_duration(limit)
                )
            },
        ));
    }
    advice
}

/// Returns what to do about a step that nobody can tell about.
pub(crate) fn unknown(step: &str) -> String {
    format!(
        "look whether the work of {step} is done or still running, then say how the attempt ended (`windlass resolve`); \
         if {step} may safely run twice, mark it `idempotent` and it is tried again by itself"
    )
}

/// Returns the memory that a step asks for, in bytes.
pub(crate) fn memory(spec: Option<&StepSpec>) -> Option<u64> {
    spec.map(|s| s.policy.resources.get(MEMORY))
        .filter(|b| *b > 0)
}

fn for_root(root: &Root<'_>) -> String {
    let step = root.step();
    let failure = &root.failure.failure;
    match failure.class {
        FailureClass::OutOfMemory => out_of_memory(root),
        FailureClass::TimedOut => timed_out(root),
        FailureClass::Preempted => format!(
            "run {step} again at a quieter time, or move it to a target that does not preempt{}",
            on_target(root)
        ),
        FailureClass::Lost => format!(
            "look whether the host that ran {step} is up{}, then run it again: the step itself is not to blame",
            on_target(root)
        ),
        FailureClass::Unavailable => format!(
            "look whether the services and storages that {step} uses answer, then run it again"
        ),
        _ if failure.permanent => format!(
            "read the log of {step} and correct its code, input or parameters: it was not tried again since it would fail the same way"
        ),
        _ => format!("read the log of {step} and correct its code or its input, then run it again"),
    }
}

fn out_of_memory(root: &Root<'_>) -> String {
    let step = root.step();
    match (memory(root.spec), root.peak) {
        (None, None) => format!("set `resources.memory` of {step}, or let it load less at once"),
        (None, Some(peak)) => format!(
            "set `resources.memory` of {step} to {} (it had reached {}), or let it load less at once",
            format_bytes(more_memory(peak)),
            format_bytes(peak)
        ),
        (Some(asked), peak) => format!(
            "raise `resources.memory` of {step} from {} to {}, or let it load less at once",
            format_bytes(asked),
            format_bytes(more_memory(peak.unwrap_or(0).max(asked)))
        ),
    }
}

/// Half as much again, rounded up to 256 MiB below 4 GiB and to 1 GiB above.
fn more_memory(bytes: u64) -> u64 {
    let wanted = bytes.saturating_add(bytes / 2);
    let unit = if wanted < 4 * GIB { 256 * MIB } else { GIB };
    wanted.div_ceil(unit).max(1).saturating_mul(unit)
}

fn timed_out(root: &Root<'_>) -> String {
    let step = root.step();
    let limits: Vec<String> = root.spec.map_or_else(Vec::new, |spec| {
        TimeoutKind::ALL
            .iter()
            .filter_map(|kind| {
                let limit = spec.policy.timeouts.get(*kind)?;
                Some(format!("{kind} {}", format_duration(limit)))
            })
            .collect()
    });
    let limits = if limits.is_empty() {
        String::new()
    } else {
        format!(" (its limits: {})", limits.join(", "))
    };
    format!(
        "see in the log of {step} where the time went, then make it faster or raise the limit{limits}"
    )
}

fn on_target(root: &Root<'_>) -> String {
    root.spec
        .and_then(|s| s.policy.target.as_ref())
        .map_or_else(String::new, |t| format!(" (it ran on target {t})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_raised_by_half_to_a_round_size() {
        assert_eq!(more_memory(GIB), 1_536 * MIB);
        assert_eq!(more_memory(16 * GIB), 24 * GIB);
        assert_eq!(more_memory(3 * GIB), 5 * GIB);
        assert_eq!(more_memory(0), 256 * MIB);
        assert!(more_memory(u64::MAX) > 0);
    }
}

//! Whether a run can be given a signal, by its rows.

use windlass_core::{Action, Approval, Json, MOST_GIVEN, PipelineSpec, RunSnapshot, nearest};

use crate::Error;

/// Says whether the steps of a run that wait for a signal of this name, or will, still need its
/// value; `false` if all have one, or have ended. For whoever leaves
/// [`windlass_core::Signal::Give`] in a store; [`crate::RunHandle::signal`] asks it by itself.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the run has ended, no step of it waits for a signal of the name,
/// the value is too large or null, or it is no [`Approval`] by one who may decide where the step asks for that.
pub fn check_signal(snapshot: &RunSnapshot, name: &str, value: &Json) -> Result<bool, Error> {
    let run = &snapshot.run;
    if run.state.is_final() {
        return Err(Error::invalid(format!(
            "run {} {} already: it takes no signals",
            run.id, run.state
        )));
    }
    check_value(&snapshot.version.spec, name, value)?;
    let steps = snapshot.version.spec.all_steps().zip(0..);
    let needs = |step: u32| {
        let row = snapshot.steps.iter().find(|r| r.slot.step == step);
        row.is_none_or(|r| !r.state.is_final() && r.output.is_none())
    };
    Ok(steps
        .filter(|(spec, _)| spec.action.awaits(&spec.name) == Some(name))
        .any(|(_, step)| needs(step)))
}

/// Refuses what no step of a pipeline can take.
pub(crate) fn check_value(spec: &PipelineSpec, name: &str, value: &Json) -> Result<(), Error> {
    let awaited: Vec<_> = spec
        .all_steps()
        .filter_map(|step| Some((step.action.awaits(&step.name)?, step)))
        .collect();
    let steps: Vec<_> = awaited.iter().filter(|(n, _)| *n == name).collect();
    if steps.is_empty() {
        let known = awaited.iter().map(|(name, _)| *name);
        let help = match nearest(name, known.clone()) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if awaited.is_empty() => "; none waits for any".to_owned(),
            None => format!("; there are {}", known.collect::<Vec<_>>().join(", ")),
        };
        return Err(Error::invalid(format!(
            "no step of pipeline {} waits for a signal `{name}`{help}",
            spec.name
        )));
    }
    let size = value.bytes().len();
    if size > MOST_GIVEN {
        return Err(Error::invalid(format!(
            "the value of signal `{name}` has {size} bytes, more than {MOST_GIVEN}: put it into a storage and give its name"
        )));
    }
    if value.is_none() {
        return Err(Error::invalid(format!(
            "signal `{name}` needs a value that isn't null: `true` if that it came is all there is to say"
        )));
    }
    for (_, step) in steps {
        let Action::Approve(ask) = &step.action else {
            continue;
        };
        let approval: Approval = value.to().map_err(|_| {
            Error::invalid(format!(
                "step `{name}` asks for approval: approve or reject it instead of giving it a signal"
            ))
        })?;
        if !ask.by.is_empty() && ask.by.iter().all(|by| **by != approval.by) {
            return Err(Error::invalid(format!(
                "`{}` may not decide on step `{name}`: {} may",
                approval.by,
                ask.by.join(", ")
            )));
        }
    }
    Ok(())
}

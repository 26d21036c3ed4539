//! `signal`, `approve` and `reject`: what steps wait for that wait for people.

use std::process::ExitCode;

use serde_json::Value;
use windlass::run_store::RunSnapshot;
use windlass::wiring::Variables;
use windlass::{Action, Approval, Json, Signal, check_signal};

use super::control::{Found, find};
use super::{Failure, look};
use crate::args::{ApproveArgs, Place, Progress, SignalArgs};
use crate::exit::Exit;

pub(crate) async fn signal(
    place: &Place,
    args: &SignalArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let value: Value = serde_json::from_str(&args.value).map_err(|e| {
        let help = "text needs quotes of its own: --value '\"emea\"'";
        Failure::wrong(format!(
            "--value {} is no JSON: {e}\nhelp: {help}",
            args.value
        ))
    })?;
    let found = find(place, &args.run, "signal", as_json).await?;
    let gift = Gift {
        name: &args.name,
        value: Json::of(&value).map_err(Failure::engine)?,
        by: who(args.by.as_ref(), &variables),
        said: format!("has the signal `{}` now", args.name),
    };
    let snapshot = look(&found.store, found.run.id).await?;
    give(&found, &snapshot, gift, variables, args.progress).await
}

pub(crate) async fn decide(
    place: &Place,
    args: &ApproveArgs,
    approved: bool,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let wish = if approved { "approve" } else { "reject" };
    let found = find(place, &args.run, wish, as_json).await?;
    let snapshot = look(&found.store, found.run.id).await?;
    let step = snapshot
        .version
        .spec
        .all_steps()
        .find(|s| s.name.as_str() == args.step);
    if step.is_some_and(|s| !matches!(s.action, Action::Approve(_))) {
        return Err(Failure::wrong(format!(
            "step `{}` of run {} asks for no approval",
            args.step,
            found.run.id.short()
        )));
    }
    let by = who(args.by.as_ref(), &variables);
    let mut approval = Approval::approved(by.clone(), args.reason.clone());
    approval.approved = approved;
    let end = if approved { "approved" } else { "rejected" };
    let gift = Gift {
        name: &args.step,
        value: Json::of(&approval).map_err(Failure::engine)?,
        by,
        said: format!("takes `{}` as {end}", args.step),
    };
    give(&found, &snapshot, gift, variables, args.progress).await
}

/// What a run is given, and what is said once it has it.
struct Gift<'a> {
    name: &'a str,
    value: Json,
    by: String,
    said: String,
}

async fn give(
    found: &Found,
    snapshot: &RunSnapshot,
    gift: Gift<'_>,
    variables: Variables,
    progress: Progress,
) -> Result<ExitCode, Failure> {
    let Gift {
        name,
        value,
        by,
        said,
    } = gift;
    if !check_signal(snapshot, name, &value)? {
        let said = format!("had `{name}` already: the first one counts");
        found.answer(found.run.state, false, &said);
        return Ok(ExitCode::SUCCESS);
    }
    let signal = found
        .leave(Signal::Give {
            run: found.run.id,
            name: name.to_owned(),
            value,
            by,
        })
        .await?;
    if let Some(state) = found.wait(&signal, |_| true).await? {
        found.answer(state, false, &said);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(Exit::of(found.go_on(variables, progress).await?).into())
}

/// Returns who decides: as the command says, or the user of this process.
fn who(by: Option<&String>, variables: &Variables) -> String {
    let user = || variables("USER").or_else(|| variables("LOGNAME"));
    by.cloned()
        .or_else(user)
        .unwrap_or_else(|| "somebody".to_owned())
}

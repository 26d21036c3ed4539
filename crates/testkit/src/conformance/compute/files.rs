//! What a job sees and leaves: folders, variables, secrets, and nothing else.

use std::collections::BTreeMap;

use windlass_core::{Isolation, JobEnd, JobSpec, Location, LogStream, LogicalName, Secret};

use super::{Bench, Found, Miss, broken, that};
use crate::conformance::report::{only_if, same};

/// A value that must reach the job and nobody else.
const SECRET: &str = "canary-job-secret-6Tq2";

/// Variables that a shell or a target sets by itself, whatever the host has.
const OWN: [&str; 16] = [
    "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "PWD", "OLDPWD", "SHLVL", "_", "USER",
    "LOGNAME", "SHELL", "HOSTNAME", "TERM", "PS1",
];

fn name(text: &str) -> Result<LogicalName, Miss> {
    LogicalName::new(text).map_err(|e| Miss::Broken(e.to_string()))
}

async fn with_input(b: &Bench<'_>, script: &str, at: Location) -> Result<JobSpec, Miss> {
    let mut spec = b.shell(script).await?;
    spec.inputs.insert(name("data")?, at);
    Ok(spec)
}

pub(super) async fn outputs_outlive_the_job(b: &Bench<'_>) -> Found {
    let script = r#"mkdir "$WINDLASS_OUTPUTS/model"; printf deep > "$WINDLASS_OUTPUTS/model/a"
        printf flat > "$WINDLASS_OUTPUTS/report""#;
    let spec = b.shell(script).await?;
    let handle = b.run(&spec).await?;
    b.target.release(&handle).await?;
    same(
        "a file in a folder",
        &b.output(&spec, "model/a").await?.as_str(),
        &"deep",
    )?;
    same(
        "a file",
        &b.output(&spec, "report").await?.as_str(),
        &"flat",
    )
}

pub(super) async fn a_result_is_a_file_beside_the_outputs(b: &Bench<'_>) -> Found {
    let script = r#"printf '{"auc": 0.93}' > "$WINDLASS_RESULT"
        ls "$WINDLASS_OUTPUTS" > "$TMPDIR/list"; cat "$TMPDIR/list""#;
    let spec = b.shell(script).await?;
    let handle = b.run(&spec).await?;
    let listed = b.log(&handle, LogStream::Stdout).await?;
    that(listed.is_empty(), || {
        format!("the outputs hold {}", String::from_utf8_lossy(&listed))
    })?;
    let Some(bytes) = b.setup.read(&spec.result, "").await? else {
        return broken("the result is not where the spec says");
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes)?;
    same("the result", &value, &serde_json::json!({ "auc": 0.93 }))
}

pub(super) async fn inputs_are_found_by_name(b: &Bench<'_>) -> Found {
    let script = r#"cd "$WINDLASS_INPUTS" && cat data/rows.csv data/below/more one"#;
    let files = [("rows.csv", "a,b;"), ("below/more", "c;")];
    let mut spec = with_input(b, script, b.setup.lay(&files).await?).await?;
    let file = b.setup.lay(&[("", "single")]).await?;
    spec.inputs.insert(name("one")?, file);
    let handle = b.run(&spec).await?;
    let read = b.log(&handle, LogStream::Stdout).await?;
    same("what the job read", &read.as_slice(), &&b"a,b;c;single"[..])
}

pub(super) async fn an_input_made_of_parts_is_one_folder(b: &Bench<'_>) -> Found {
    let (folder, file) = ([("x", "emea ")], [("", "amer")]);
    let (folder, file) = (b.setup.lay(&folder).await?, b.setup.lay(&file).await?);
    let (Location::Path(folder), Location::Path(file)) = (folder, file) else {
        return Err(Miss::NotHere);
    };
    let parts = BTreeMap::from([("emea".to_owned(), folder), ("amer".to_owned(), file)]);
    let script = r#"cd "$WINDLASS_INPUTS/data" && cat emea/x amer"#;
    let handle = b
        .run(&with_input(b, script, Location::Parts(parts)).await?)
        .await?;
    let read = b.log(&handle, LogStream::Stdout).await?;
    same("what the job read", &read.as_slice(), &&b"emea amer"[..])
}

fn walls(b: &Bench<'_>) -> Found {
    only_if(
        b.target
            .capabilities()
            .isolation
            .contains(&Isolation::Files),
    )
}

pub(super) async fn inputs_can_not_be_written(b: &Bench<'_>) -> Found {
    walls(b)?;
    let at = b.setup.lay(&[("rows", "as it was")]).await?;
    let script = r#"cd "$WINDLASS_INPUTS/data"; printf changed > rows; printf new > other; rm rows
        test ! -e other && cat rows"#;
    let handle = b.run(&with_input(b, script, at.clone()).await?).await?;
    let seen = b.log(&handle, LogStream::Stdout).await?;
    same("what the job saw", &seen.as_slice(), &&b"as it was"[..])?;
    let left = b.setup.read(&at, "rows").await?;
    same("what is left", &left.as_deref(), &Some(&b"as it was"[..]))
}

pub(super) async fn what_was_not_declared_can_not_be_read(b: &Bench<'_>) -> Found {
    walls(b)?;
    let Location::Path(hidden) = b.setup.lay(&[("rows", "hidden")]).await? else {
        return Err(Miss::NotHere);
    };
    let mut spec = b.shell(r#"cat "$HIDDEN/rows""#).await?;
    spec.variables
        .insert("HIDDEN".to_owned(), hidden.display().to_string());
    let handle = b.start(&spec).await?;
    let end = b.end_of(&handle).await?;
    that(end != JobEnd::Exit(0), || {
        "a job read a file of the host that it did not declare".to_owned()
    })
}

pub(super) async fn a_job_runs_in_its_code(b: &Bench<'_>) -> Found {
    let mut spec = b.shell(". ./train.sh").await?;
    let code = [("train.sh", "cat part/of.it"), ("part/of.it", "trained")];
    spec.code = Some(b.setup.lay(&code).await?);
    let handle = b.run(&spec).await?;
    let printed = b.log(&handle, LogStream::Stdout).await?;
    same("what it printed", &printed.as_slice(), &&b"trained"[..])
}

pub(super) async fn a_job_has_a_temporary_folder(b: &Bench<'_>) -> Found {
    let script =
        r#"test -z "$(ls -A "$TMPDIR")" && printf x > "$TMPDIR/scratch" && cat "$TMPDIR/scratch""#;
    for _ in 0..2 {
        // Twice, as the second one must not find what the first one left.
        b.run(&b.shell(script).await?).await?;
    }
    Ok(())
}

pub(super) async fn variables_reach_the_job_byte_for_byte(b: &Bench<'_>) -> Found {
    let values = [
        ("PLAIN", "emea"),
        ("EMPTY", ""),
        ("SPACED", "  a b  "),
        ("QUOTED", r#"'"$HOME`\"#),
        ("LINES", "one\ntwo\n"),
        ("EQUALS", "a=b"),
        ("TONGUES", "ключ-鍵-é"),
    ];
    let mut script = String::new();
    for (name, _) in values {
        script += &format!("printf '%s' \"${{{name}-unset}}\" > \"$WINDLASS_OUTPUTS/{name}\"\n");
    }
    let mut spec = b.shell(&script).await?;
    let variables = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
    spec.variables = variables.into();
    b.run(&spec).await?;
    for (name, value) in values {
        same(name, &b.output(&spec, name).await?.as_str(), &value)?;
    }
    Ok(())
}

pub(super) async fn secrets_reach_the_job_and_nobody_else(b: &Bench<'_>) -> Found {
    let script = r#"printf '%s' "$TOKEN" > "$WINDLASS_OUTPUTS/token"; exit 3"#;
    let mut spec = b.shell(script).await?;
    spec.secrets.insert("TOKEN".to_owned(), Secret::new(SECRET));
    let handle = b.start(&spec).await?;
    let seen = b.done(&handle).await?;
    same(
        "the secret",
        &b.output(&spec, "token").await?.as_str(),
        &SECRET,
    )?;
    let told = [
        format!("{:?}", b.target),
        format!("{seen:?}"),
        serde_json::to_string(&handle)?,
        String::from_utf8_lossy(&b.log(&handle, LogStream::Stderr).await?).into_owned(),
    ];
    for text in told {
        that(!text.contains(SECRET), || "the secret is shown".to_owned())?;
    }
    Ok(())
}

pub(super) async fn nothing_of_the_hosts_environment_reaches_the_job(b: &Bench<'_>) -> Found {
    let spec = b.shell(r#"env > "$WINDLASS_OUTPUTS/env""#).await?;
    b.run(&spec).await?;
    let inside = b.output(&spec, "env").await?;
    // The host is this very process, so its environment is what could have leaked.
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let line = format!("{name}={}", value.lines().next().unwrap_or_default());
        that(
            OWN.contains(&&*name) || !inside.lines().any(|l| l == line),
            || format!("`{name}` reached the job"),
        )?;
    }
    Ok(())
}

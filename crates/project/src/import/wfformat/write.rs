//! Writes an imported project: the files that a person would have written.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use windlass_core::{Action, InputSource, StepSpec};

use super::super::error::{ImportError, ImportErrorKind};
use super::{CODE, INPUTS, ImportedProject, OWNER, TASK_SCRIPT};

impl ImportedProject {
    /// Writes the project into a folder, which is made if it isn't there.
    ///
    /// `windlass.yaml` comes last, so a folder that was written in part is no project.
    ///
    /// # Errors
    /// A folder with something in it, unless `force` says to write over it; a pipeline that is too
    /// large for a file (take [`Self::pipeline`] instead); a disk that is full.
    pub fn write(&self, folder: &Path, force: bool) -> Result<(), ImportError> {
        let is_used = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_some() && !force,
            Err(_) => folder.exists(),
        };
        if is_used {
            let problem = format!("{} isn't an empty folder: name another", folder.display());
            return Err(ImportError::new(ImportErrorKind::FolderInUse, problem));
        }
        let pipeline = self.pipeline_file();
        if pipeline.len() > crate::MAX_BYTES {
            let problem = format!(
                "the pipeline's file would have {} bytes, more than {}",
                pipeline.len(),
                crate::MAX_BYTES
            );
            return Err(ImportError::new(ImportErrorKind::TooLarge, problem));
        }
        let name = &self.pipeline.name;
        for (key, bytes) in &self.data {
            let path = format!("data/{INPUTS}/{key}");
            write(folder, &path, &content(key, *bytes))?;
        }
        // The storages of an environment must be there even if nothing lies in them.
        let inputs = folder.join("data").join(INPUTS);
        fs::create_dir_all(&inputs).map_err(|e| ImportError::io(&inputs, e))?;
        let script = include_bytes!("task.sh");
        write(folder, &format!("{CODE}/{TASK_SCRIPT}"), script)?;
        write(
            folder,
            &format!("pipelines/{name}.yaml"),
            pipeline.as_bytes(),
        )?;
        write(
            folder,
            "environments/dev.yaml",
            self.environment().as_bytes(),
        )?;
        write(folder, "windlass.yaml", self.project().as_bytes())
    }

    fn project(&self) -> String {
        format!(
            "# Imported from a recorded run in WfFormat {}.\nname: {}\nschema: 1\ndefault_environment: dev\n",
            self.version,
            quoted(self.pipeline.name.as_str())
        )
    }

    fn environment(&self) -> String {
        let cpu = self.slots.map(|slots| format!("cpu: {slots}, "));
        let isolation = if self.isolated { "best" } else { "none" };
        format!(
            "\
# Everything on this machine, below .windlass/dev: nothing to install or to pay, safe to delete.
store: {{ sqlite: .windlass/dev.db }}
storage:
  {INPUTS}: {{ file: data/{INPUTS} }}
  runs: {{ file: .windlass/dev/runs }}
run_storage: runs
compute:
  sandbox: {{ process: {{ {}isolation: {isolation} }} }}
default_compute: sandbox
notifiers:
  log: {{ log: {{}} }}
owners:
  {OWNER}: {{ notify: [log] }}
",
            cpu.unwrap_or_default()
        )
    }

    fn pipeline_file(&self) -> String {
        let spec = &self.pipeline;
        let mut text = format!(
            "name: {}\ndescription: {}\nowner: {OWNER}\ndefaults: {{ resources: {{ cpu: 1 }} }}\n\nsteps:\n",
            quoted(spec.name.as_str()),
            quoted(&spec.description)
        );
        for step in &spec.steps {
            // Writing into a string never fails.
            let _written = step_text(&mut text, step);
        }
        text
    }
}

fn step_text(text: &mut String, step: &StepSpec) -> std::fmt::Result {
    writeln!(text, "  - name: {}", quoted(step.name.as_str()))?;
    if !step.edges.is_empty() {
        let names = step.edges.iter().map(|e| quoted(e.step.as_str()));
        writeln!(text, "    after: [{}]", joined(names))?;
    }
    let Action::Run(run) = &step.action else {
        return Ok(());
    };
    let command = run.command.iter().map(|c| quoted(c.as_str()));
    writeln!(text, "    run:\n      command: [{}]", joined(command))?;
    if let Some(code) = &run.code {
        writeln!(text, "      code: {}", quoted(code))?;
    }
    if !run.inputs.is_empty() {
        let inputs = run.inputs.iter().map(|(name, source)| {
            let source = match source {
                InputSource::Step(output) => quoted(&output.to_string()),
                InputSource::Storage(uri) => quoted(uri.as_str()),
                // A source of a later kind would be no source of this importer's.
                _ => quoted(""),
            };
            format!("{}: {source}", quoted(name.as_str()))
        });
        writeln!(text, "      inputs: {{ {} }}", joined(inputs))?;
    }
    if !run.outputs.is_empty() {
        let outputs = run.outputs.iter().map(|o| quoted(o.as_str()));
        writeln!(text, "      outputs: [{}]", joined(outputs))?;
    }
    let variables = run.variables.iter();
    let variables = variables.map(|(name, value)| format!("{name}: {}", quoted(value.as_str())));
    writeln!(text, "      variables: {{ {} }}", joined(variables))
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Returns text as YAML: as it is where that means the same, else in quotes.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./=".contains(&b))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        // A JSON string is a YAML string.
        serde_json::Value::from(text).to_string()
    }
}

/// Makes up a file: its name, again and again.
fn content(key: &str, bytes: u64) -> Vec<u8> {
    let line = format!("{key}\n").into_bytes();
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    line.into_iter().cycle().take(length).collect()
}

fn write(folder: &Path, file: &str, content: &[u8]) -> Result<(), ImportError> {
    let path = folder.join(file);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|e| ImportError::io(parent, e))?;
    fs::write(&path, content).map_err(|e| ImportError::io(&path, e))
}

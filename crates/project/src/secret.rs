//! Secrets: where each comes from, and its value when somebody uses it.
//!
//! A value is read when it is used, is never written or shown, and never part of an error.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use windlass_core::Secret;

/// How long a command may take to print a secret.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// The longest secret.
const MOST_BYTES: u64 = 1 << 16;

/// Where a secret comes from; its value is read when it is used, and never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretBinding {
    /// An environment variable.
    Env(String),
    /// A file; white space at its end is dropped.
    File(PathBuf),
    /// Program and arguments; what it prints is the value, without the white space at its end.
    Command(Vec<String>),
}

impl SecretBinding {
    /// Reads the value; `env` looks a variable up. A command may take 30 s.
    ///
    /// # Errors
    /// One sentence that names the variable, file or program, never a value.
    ///
    /// ```
    /// use windlass_project::SecretBinding;
    /// let binding = SecretBinding::Env("HOOK".to_owned());
    /// assert_eq!(binding.resolve(|_| Some("x".to_owned())).unwrap().expose(), "x");
    /// let missing = binding.resolve(|_| None).unwrap_err();
    /// assert_eq!(missing, "environment variable HOOK is not set");
    /// ```
    pub fn resolve(&self, env: impl Fn(&str) -> Option<String>) -> Result<Secret, String> {
        let value = match self {
            Self::Env(name) => {
                env(name).ok_or_else(|| format!("environment variable {name} is not set"))?
            }
            Self::File(path) => {
                let failed = |why: String| format!("file {} can't be read: {why}", path.display());
                let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
                text_of(file).map_err(failed)?
            }
            Self::Command(command) => {
                let program = command.first().map_or("", String::as_str);
                output_of(command).map_err(|why| format!("command {program} {why}"))?
            }
        };
        if value.is_empty() {
            return Err(match self {
                Self::Env(name) => format!("environment variable {name} is empty"),
                Self::File(path) => format!("file {} is empty", path.display()),
                Self::Command(command) => {
                    format!(
                        "command {} prints nothing",
                        command.first().map_or("", String::as_str)
                    )
                }
            });
        }
        Ok(Secret::new(value))
    }
}

/// Reads a secret to the end of its text.
fn text_of(from: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not valid UTF-8".to_owned())?;
    Ok(text.trim_end().to_owned())
}

fn output_of(command: &[String]) -> Result<String, String> {
    let [program, arguments @ ..] = command else {
        return Err("is empty".to_owned());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("can't be started: {e}"))?;
    let (sender, receiver) = sync_channel(1);
    let reader = child.stdout.take().map(|stdout| {
        std::thread::spawn(move || {
            // Nobody listens any more once the limit has passed.
            drop(sender.send(text_of(stdout)));
        })
    });
    let text = receiver.recv_timeout(COMMAND_LIMIT);
    if !matches!(text, Ok(Ok(_))) {
        // It may have ended by itself meanwhile.
        drop(child.kill());
    }
    let status = child
        .wait()
        .map_err(|e| format!("can't be waited for: {e}"))?;
    let text = text.map_err(|_| format!("took more than {} s", COMMAND_LIMIT.as_secs()))?;
    // The thread has sent the text, so it is at its end.
    drop(reader.map(std::thread::JoinHandle::join));
    if !status.success() {
        return Err(format!("failed: {status}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_secret_is_read_from_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let command = |words: &[&str]| {
            SecretBinding::Command(words.iter().map(ToString::to_string).collect())
        };
        for binding in [
            SecretBinding::File(path.clone()),
            command(&["cat", path.to_str().unwrap()]),
        ] {
            assert_eq!(binding.resolve(none).unwrap().expose(), "hunter2");
        }
        let failing = command(&["sh", "-c", "echo hunter2; exit 3"]);
        let error = failing.resolve(none).unwrap_err();
        assert!(
            error.contains("exit status: 3") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(
            command(&["no-such-program"])
                .resolve(none)
                .unwrap_err()
                .contains("can't be started")
        );
        std::fs::write(&path, "").unwrap();
        assert!(
            SecretBinding::File(path)
                .resolve(none)
                .unwrap_err()
                .contains("is empty")
        );
    }

    #[test]
    fn a_secret_without_end_is_refused() {
        let endless = SecretBinding::File("/dev/zero".into());
        assert!(
            endless
                .resolve(none)
                .unwrap_err()
                .contains("more than 65536 bytes")
        );
        let endless = SecretBinding::Command(vec!["yes".to_owned()]);
        assert!(endless.resolve(none).is_err());
    }
}

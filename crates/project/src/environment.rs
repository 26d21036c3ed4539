//! An environment: what the logical names of pipelines stand for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use windlass_core::{LogicalName, Quota, Resources, Secret};

use crate::convert::{Converter, resources_of};
use crate::files::{
    ComputeFile, EnvironmentFile, IsolationLevelFile, NotifierFile, SecretFile, StorageFile,
    StoreFile,
};

/// Where the state of runs lives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreBinding {
    /// An SQLite file.
    Sqlite(PathBuf),
}

/// Where a storage lies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageBinding {
    /// A path of this host, or a URL.
    pub url: String,
    /// Options of its backend.
    pub options: BTreeMap<String, String>,
    /// Options that are secret: option → name of the secret.
    pub secrets: BTreeMap<String, LogicalName>,
}

/// A compute target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComputeBinding {
    /// The process sandbox of this host.
    Process {
        /// What it may use; a missing amount is the machine's.
        capacity: Resources,
        /// True if it isolates as well as it can; false for no isolation, by name.
        isolated: bool,
    },
}

/// A notifier.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotifierBinding {
    /// A line in the log.
    Log,
    /// A signed POST.
    Webhook {
        /// The secret that holds the URL.
        url: LogicalName,
        /// The secret that holds the signing key.
        signing_key: Option<LogicalName>,
        /// True if the URL may name an address of this host or its network.
        allow_private: bool,
    },
}

/// Where a secret comes from; its value is read when it is used, and never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretBinding {
    /// An environment variable.
    Env(String),
    /// A file; white space at its end is dropped.
    File(PathBuf),
}

impl SecretBinding {
    /// Reads the value; `env` looks a variable up.
    ///
    /// # Errors
    /// One sentence that names the variable or file, never a value.
    pub fn resolve(&self, env: impl Fn(&str) -> Option<String>) -> Result<Secret, String> {
        match self {
            Self::Env(name) => env(name)
                .map(Secret::new)
                .ok_or_else(|| format!("environment variable {name} is not set")),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.trim_end())),
                Err(e) => Err(format!("file {} can't be read: {e}", path.display())),
            },
        }
    }
}

/// What the logical names of pipelines stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvironmentSpec {
    /// Its name.
    pub name: LogicalName,
    /// Runs only what is committed; needs an owner for every pipeline.
    pub protected: bool,
    /// Where the state of runs lives.
    pub store: StoreBinding,
    /// Storages.
    pub storages: BTreeMap<LogicalName, StorageBinding>,
    /// Which of them holds the folders of runs.
    pub run_storage: LogicalName,
    /// Compute targets.
    pub compute: BTreeMap<LogicalName, ComputeBinding>,
    /// Target of steps that name none.
    pub default_compute: Option<LogicalName>,
    /// Limits of pools.
    pub quotas: Vec<Quota>,
    /// Notifiers.
    pub notifiers: BTreeMap<LogicalName, NotifierBinding>,
    /// Notifiers that hear of every pipeline.
    pub notify: Vec<LogicalName>,
    /// Notifiers of each team.
    pub owners: BTreeMap<String, Vec<LogicalName>>,
    /// Where secrets come from.
    pub secrets: BTreeMap<LogicalName, SecretBinding>,
}

impl Converter<'_> {
    pub(crate) fn environment(
        &mut self,
        name: LogicalName,
        file: &EnvironmentFile,
        root: &std::path::Path,
    ) -> Option<EnvironmentSpec> {
        let StoreFile::Sqlite(path) = &file.store;
        let store = StoreBinding::Sqlite(root.join(self.inside("store/sqlite", path)?));
        let mut storages = BTreeMap::new();
        for (name, storage) in &file.storage {
            let at = format!("storage/{name}");
            if let (Some(name), Some(binding)) =
                (self.logical(&at, name), self.storage(&at, storage, root))
            {
                storages.insert(name, binding);
            }
        }
        let run_storage = self.known("run_storage", "storage", &file.run_storage, &storages)?;
        let mut compute = BTreeMap::new();
        for (name, target) in &file.compute {
            let ComputeFile::Process(process) = target;
            let mut capacity = Resources::new();
            if let Some(cpu) = process.cpu {
                capacity = capacity.cpu_millis(cpu.0);
            }
            if let Some(memory) = process.memory {
                capacity = capacity.memory_bytes(memory.0);
            }
            let isolated = process.isolation == IsolationLevelFile::Best;
            if let Some(name) = self.logical(&format!("compute/{name}"), name) {
                compute.insert(name, ComputeBinding::Process { capacity, isolated });
            }
        }
        let default_compute = match &file.default_compute {
            Some(name) => Some(self.known("default_compute", "compute target", name, &compute)?),
            None => None,
        };
        let mut quotas = Vec::new();
        for (name, limit) in &file.pools {
            quotas.extend(self.keep(
                &format!("pools/{name}"),
                Quota::new(name, resources_of(limit)),
            ));
        }
        let mut secrets = BTreeMap::new();
        for (name, secret) in &file.secrets {
            let at = format!("secrets/{name}");
            let binding = match secret {
                SecretFile::Env(variable) => SecretBinding::Env(variable.clone()),
                SecretFile::File(path) => SecretBinding::File(root.join(path)),
            };
            if let Some(name) = self.logical(&at, name) {
                secrets.insert(name, binding);
            }
        }
        for (name, storage) in &file.storage {
            for (option, secret) in &storage.secrets {
                self.known(
                    &format!("storage/{name}/secrets/{option}"),
                    "secret",
                    secret,
                    &secrets,
                );
            }
        }
        let notifiers = self.notifiers(file, &secrets);
        let notify = self.all_known("notify", &file.notify, &notifiers);
        let mut owners = BTreeMap::new();
        for (team, owner) in &file.owners {
            owners.insert(
                team.clone(),
                self.all_known(&format!("owners/{team}/notify"), &owner.notify, &notifiers),
            );
        }
        Some(EnvironmentSpec {
            name,
            protected: file.protected,
            store,
            storages,
            run_storage,
            compute,
            default_compute,
            quotas,
            notifiers,
            notify,
            owners,
            secrets,
        })
    }

    fn notifiers(
        &mut self,
        file: &EnvironmentFile,
        secrets: &BTreeMap<LogicalName, SecretBinding>,
    ) -> BTreeMap<LogicalName, NotifierBinding> {
        let mut notifiers = BTreeMap::new();
        for (name, notifier) in &file.notifiers {
            let at = format!("notifiers/{name}");
            let binding = match notifier {
                NotifierFile::Log(_) => Some(NotifierBinding::Log),
                NotifierFile::Webhook(hook) => {
                    let url = self.known(
                        &format!("{at}/webhook/url/secret"),
                        "secret",
                        &hook.url.secret,
                        secrets,
                    );
                    let key = hook.signing_key.as_ref().map(|k| {
                        self.known(
                            &format!("{at}/webhook/signing_key/secret"),
                            "secret",
                            &k.secret,
                            secrets,
                        )
                    });
                    url.map(|url| NotifierBinding::Webhook {
                        url,
                        signing_key: key.flatten(),
                        allow_private: hook.allow_private,
                    })
                }
            };
            if let (Some(name), Some(binding)) = (self.logical(&at, name), binding) {
                notifiers.insert(name, binding);
            }
        }
        notifiers
    }

    fn storage(
        &mut self,
        at: &str,
        file: &StorageFile,
        root: &std::path::Path,
    ) -> Option<StorageBinding> {
        let url = match (&file.file, &file.url) {
            (Some(path), None) if path.starts_with('/') => path.clone(),
            (Some(path), None) => root
                .join(self.inside(&format!("{at}/file"), path)?)
                .to_string_lossy()
                .into_owned(),
            (None, Some(url)) => url.clone(),
            _ => {
                self.report(at, "a storage has either `file` or `url`").help =
                    Some("write `file: FOLDER`, or `url: s3://BUCKET/PREFIX`".to_owned());
                return None;
            }
        };
        let secrets = file
            .secrets
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), LogicalName::new(v).ok()?)))
            .collect();
        Some(StorageBinding {
            url,
            options: file.options.clone(),
            secrets,
        })
    }

    /// Returns a name that must be one of those defined.
    fn known<T>(
        &mut self,
        at: &str,
        what: &str,
        name: &str,
        defined: &BTreeMap<LogicalName, T>,
    ) -> Option<LogicalName> {
        if let Some((name, _)) = defined.get_key_value(name) {
            return Some(name.clone());
        }
        let near = windlass_core::nearest(name, defined.keys().map(LogicalName::as_str))
            .map(|n| format!("did you mean `{n}`?"));
        let help = near.or_else(|| {
            (!defined.is_empty()).then(|| {
                format!(
                    "it has {}",
                    defined
                        .keys()
                        .map(LogicalName::as_str)
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            })
        });
        self.report(at, format!("the environment has no {what} `{name}`"))
            .help = help;
        None
    }

    fn all_known<T>(
        &mut self,
        at: &str,
        names: &[String],
        defined: &BTreeMap<LogicalName, T>,
    ) -> Vec<LogicalName> {
        names
            .iter()
            .enumerate()
            .filter_map(|(i, n)| self.known(&format!("{at}/{i}"), "notifier", n, defined))
            .collect()
    }
}

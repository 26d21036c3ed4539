//! An environment: what the logical names of pipelines stand for.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use windlass_core::{LogicalName, ObjectKey, PoolTree, Quota, Resources};

use crate::convert::Converter;
use crate::diagnostic::{Problem, clip};
use crate::files::{
    ComputeFile, EnvironmentFile, IsolationLevelFile, NotifierFile, SecretFile, StorageFile,
    StoreFile,
};
use crate::secret::SecretBinding;
use crate::yaml::{Key, Node};

/// Schemes of URLs that name a storage.
const SCHEMES: &[&str] = &[
    "s3", "s3a", "az", "azure", "abfs", "abfss", "gs", "memory", "file",
];
/// Parts of the names of options that hold secrets.
const SECRET_WORDS: &[&str] = &[
    "secret",
    "password",
    "token",
    "sas",
    "access_key",
    "account_key",
];

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

/// Which ended runs are deleted from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RetentionBinding {
    /// Those that ended longer ago.
    pub max_age: Option<Duration>,
    /// All but so many of the latest runs of each pipeline.
    pub keep_last: Option<u32>,
}

/// Which kept results are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheBinding {
    /// Those that were neither computed nor served for so long.
    pub max_age: Option<Duration>,
    /// Those that were not used for longest, until the others name at most so many bytes.
    pub max_bytes: Option<u64>,
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
    /// Which ended runs are deleted from it.
    pub retention: RetentionBinding,
    /// Which kept results are forgotten.
    pub cache: CacheBinding,
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
    /// Weights of teams that have another one than 1.
    pub weights: BTreeMap<String, NonZeroU32>,
    /// Where secrets come from.
    pub secrets: BTreeMap<LogicalName, SecretBinding>,
    /// Defaults of parameters that differ here: pipeline → parameter → value.
    pub parameters: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Returns true for keys below which a secret might stand by mistake.
pub(crate) fn may_hold_secret(key: &str) -> bool {
    matches!(key, "secrets" | "options" | "url" | "signing_key")
}

/// Returns where secrets seem to stand in an environment file, though none may.
///
/// Lines that hold one are not printed, whatever is wrong on them.
pub(crate) fn plain_secrets(root: &Node) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let below = |section: &str| root.get(section).into_iter().flat_map(Node::entries);
    for (_, secret) in below("secrets") {
        let references = |key: &Key| ["env", "file", "command"].contains(&key.name.as_str());
        if secret.keys().next().is_none() || !secret.keys().all(references) {
            found.push(secret.span.clone());
        }
        let variable = secret
            .get("env")
            .filter(|v| !v.text().is_some_and(is_variable));
        found.extend(variable.map(|v| v.span.clone()));
    }
    for (_, storage) in below("storage") {
        let options = storage.get("options").into_iter().flat_map(Node::entries);
        let secret = options.filter(|(option, _)| is_secret_option(&option.name));
        found.extend(secret.map(|(_, value)| value.span.clone()));
        let url = storage
            .get("url")
            .filter(|u| u.text().is_some_and(|u| u.contains('@')));
        found.extend(url.map(|u| u.span.clone()));
    }
    for (_, notifier) in below("notifiers") {
        let hook = notifier.get("webhook");
        for key in ["url", "signing_key"] {
            let value = hook.and_then(|h| h.get(key));
            let name = value.and_then(|v| v.get("secret")).and_then(Node::text);
            let is_name = name.is_some_and(|n| LogicalName::new(n).is_ok());
            found.extend(value.filter(|_| !is_name).map(|v| v.span.clone()));
        }
    }
    found
}

fn is_secret_option(option: &str) -> bool {
    let lower = option.to_ascii_lowercase();
    // An id of a key is public; the key is not.
    SECRET_WORDS.iter().any(|w| lower.contains(w)) && !lower.ends_with("_id")
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Converter<'_> {
    /// Converts an environment; what is wrong with it is in `problems`.
    pub(crate) fn environment(
        &mut self,
        name: LogicalName,
        file: &EnvironmentFile,
        root: &Path,
    ) -> Option<EnvironmentSpec> {
        let store = match &file.store {
            Some(StoreFile::Sqlite(path)) => self.inside("store/sqlite", path),
            None => self.missing("store"),
        };
        let retention = self.retention(file);
        let cache = self.cache_retention(file);
        let secrets = self.secrets(file, root);
        let mut storages = BTreeMap::new();
        for (name, storage) in &file.storage {
            let at = format!("storage/{name}");
            let binding = self.storage(&at, storage, root, &secrets);
            if let (Some(name), Some(binding)) = (self.logical(&at, name), binding) {
                storages.insert(name, binding);
            }
        }
        let run_storage = match &file.run_storage {
            Some(name) => self.known("run_storage", "storage", name, &storages),
            None => self.missing("run_storage"),
        };
        let compute = self.compute(file);
        let default_compute = file
            .default_compute
            .as_ref()
            .and_then(|name| self.known("default_compute", "compute target", name, &compute));
        let quotas = self.quotas(file);
        let notifiers = self.notifiers(file, &secrets);
        let notify = self.all_known("notify", &file.notify, &notifiers);
        let (mut owners, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for (team, owner) in &file.owners {
            if let Some(weight) = owner.weight() {
                match NonZeroU32::new(weight) {
                    Some(weight) => weights.extend([(team.clone(), weight)]),
                    None => self.reject(
                        &format!("owners/{team}/weight"),
                        "a team with weight 0 would never have a turn",
                        "write 1 or more; a team without a weight has 1",
                    ),
                }
            }
            let (below, names) = owner.notify();
            let known = self.all_known(&format!("owners/{team}{below}"), names, &notifiers);
            owners.insert(team.clone(), known);
        }
        Some(EnvironmentSpec {
            name,
            protected: file.protected,
            store: StoreBinding::Sqlite(root.join(store?)),
            retention,
            cache,
            storages,
            run_storage: run_storage?,
            compute,
            default_compute,
            quotas,
            notifiers,
            notify,
            owners,
            weights,
            secrets,
            parameters: file.parameters.clone(),
        })
    }

    fn retention(&mut self, file: &EnvironmentFile) -> RetentionBinding {
        let Some(retention) = &file.retention else {
            return RetentionBinding::default();
        };
        if retention.keep_last == Some(0) {
            self.reject(
                "retention/keep_last",
                "no run would be kept",
                "keep at least 1, or leave it out",
            );
        }
        let max_age = retention.max_age;
        RetentionBinding {
            max_age: max_age.and_then(|age| self.limit("retention/max_age", age)),
            keep_last: retention.keep_last,
        }
    }

    fn cache_retention(&mut self, file: &EnvironmentFile) -> CacheBinding {
        let Some(cache) = &file.cache else {
            return CacheBinding::default();
        };
        let max_age = cache.max_age;
        CacheBinding {
            max_age: max_age.and_then(|age| self.limit("cache/max_age", age)),
            max_bytes: cache.max_bytes.map(|bytes| bytes.0),
        }
    }

    fn secrets(
        &mut self,
        file: &EnvironmentFile,
        root: &Path,
    ) -> BTreeMap<LogicalName, SecretBinding> {
        let mut secrets = BTreeMap::new();
        for (name, secret) in &file.secrets {
            let at = format!("secrets/{name}");
            let binding = match secret {
                SecretFile::Env(variable) => {
                    let at = format!("{at}/env");
                    if !is_variable(variable) {
                        self.reject_secretly(
                            &at,
                            "this is no name of an environment variable",
                            "write the variable's name, never its value",
                        );
                    }
                    is_variable(variable).then(|| SecretBinding::Env(variable.clone()))
                }
                SecretFile::File(path) => self
                    .path(&format!("{at}/file"), path, root)
                    .map(SecretBinding::File),
                SecretFile::Command(command) => {
                    if command.first().is_none_or(|c| c.trim().is_empty()) {
                        let at = format!("{at}/command");
                        self.reject_secretly(
                            &at,
                            "the command is empty",
                            "write [PROGRAM, ARGUMENT, …]",
                        );
                    }
                    Some(SecretBinding::Command(command.clone()))
                }
            };
            if let (Some(name), Some(binding)) = (self.logical(&at, name), binding) {
                secrets.insert(name, binding);
            }
        }
        secrets
    }

    /// Reports a problem without printing the line, on which a secret may stand.
    pub(crate) fn reject_secretly(&mut self, path: &str, message: &str, help: &str) {
        let problem = Problem::at(self.root.find(path), message);
        self.problems.push(problem.help(help).discreet());
    }

    fn compute(&mut self, file: &EnvironmentFile) -> BTreeMap<LogicalName, ComputeBinding> {
        let mut compute = BTreeMap::new();
        for (name, target) in &file.compute {
            let at = format!("compute/{name}");
            let ComputeFile::Process(process) = target;
            let mut capacity = Resources::new();
            let amounts = [
                ("cpu", process.cpu.map(|c| c.0)),
                ("memory", process.memory.map(|m| m.0)),
            ];
            for (amount, value) in amounts {
                if value == Some(0) {
                    self.reject(
                        &format!("{at}/process/{amount}"),
                        format!("a target with 0 {amount} can't run anything"),
                        "write more, or take it away for all that the machine has",
                    );
                }
                capacity = capacity.named(amount, value.unwrap_or(0));
            }
            let isolated = process.isolation == IsolationLevelFile::Best;
            if let Some(name) = self.logical(&at, name) {
                compute.insert(name, ComputeBinding::Process { capacity, isolated });
            }
        }
        compute
    }

    fn quotas(&mut self, file: &EnvironmentFile) -> Vec<Quota> {
        let mut quotas: Vec<Quota> = Vec::new();
        for (name, pool) in &file.pools {
            let at = format!("pools/{name}");
            let nothing = Some("in a pool would be no limit at all");
            let limit = self.resources(&at, &pool.limit, nothing);
            if self.logical(&at, name).is_none() {
                continue;
            }
            let outer = pool.within.as_ref();
            let outer = outer.and_then(|outer| self.logical(&format!("{at}/within"), outer));
            let quota = self.keep(&at, Quota::new(name, limit));
            quotas.extend(quota.map(|q| outer.into_iter().fold(q, Quota::within)));
        }
        if let Err(bad) = PoolTree::new(&quotas) {
            let at = format!("pools/{}/within", bad.pool);
            let outer = file.pools.get(bad.pool.as_str());
            let outer = outer.and_then(|p| p.within.as_deref()).unwrap_or_default();
            let others = file.pools.keys().map(String::as_str);
            let others = others.filter(|p| *p != bad.pool.as_str() && *p != outer);
            let problem = Problem::at(self.root.find(&at), bad.to_string());
            let none = "name another pool, or take the line away";
            self.problems.push(problem.nearest(outer, others, none));
        }
        quotas
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
                    let at = format!("{at}/webhook");
                    let url = format!("{at}/url/secret");
                    let url = self.known(&url, "secret", &hook.url.secret, secrets);
                    let key = hook.signing_key.as_ref().and_then(|key| {
                        let at = format!("{at}/signing_key/secret");
                        self.known(&at, "secret", &key.secret, secrets)
                    });
                    url.map(|url| NotifierBinding::Webhook {
                        url,
                        signing_key: key,
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
        root: &Path,
        known: &BTreeMap<LogicalName, SecretBinding>,
    ) -> Option<StorageBinding> {
        let mut secrets = BTreeMap::new();
        for (option, secret) in &file.secrets {
            let at = format!("{at}/secrets/{option}");
            if let Some(secret) = self.known(&at, "secret", secret, known) {
                secrets.insert(option.clone(), secret);
            }
        }
        for option in file.options.keys() {
            if is_secret_option(option) {
                self.reject_secretly(
                    &format!("{at}/options/{option}"),
                    &format!("option `{}` is a secret, and can't stand in a file", clip(option)),
                    &format!("write `secrets: {{ {}: NAME }}`, and define NAME under the environment's `secrets`", clip(option)),
                );
            }
        }
        let url = match (&file.file, &file.url) {
            (Some(path), None) => {
                let path = self.path(&format!("{at}/file"), path, root)?;
                path.to_str()?.to_owned()
            }
            (None, Some(url)) => self.url(&format!("{at}/url"), url)?,
            _ => {
                self.reject(
                    at,
                    "a storage has either `file` or `url`",
                    "write `file: FOLDER`, or `url: s3://BUCKET/PREFIX`",
                );
                return None;
            }
        };
        Some(StorageBinding {
            url,
            options: file.options.clone(),
            secrets,
        })
    }

    /// Checks the URL of a storage: a known scheme, no password, and no way out of its prefix.
    fn url(&mut self, at: &str, url: &str) -> Option<String> {
        let help = "write s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX or memory://; a folder of this host is `file: FOLDER`";
        let Some((scheme, rest)) = url.split_once("://") else {
            self.reject_secretly(at, "this is no URL of a storage", help);
            return None;
        };
        if !SCHEMES.contains(&scheme) {
            self.reject_secretly(at, "no storage has a URL of this scheme", help);
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority
            .split_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
            || path.contains('?')
        {
            self.reject_secretly(
                at,
                "a URL with a password can't stand in a file",
                "take it out, and name it under `secrets` of the storage",
            );
            return None;
        }
        if ObjectKey::parse(path).is_err() && !path.is_empty() {
            self.reject_secretly(
                at,
                "the prefix of this URL would leave its storage",
                "write parts joined by `/`, none of them empty, `.` or `..`",
            );
            return None;
        }
        Some(url.to_owned())
    }

    /// Returns a path of the project, or an absolute one of the host.
    fn path(&mut self, at: &str, path: &str, root: &Path) -> Option<PathBuf> {
        match path.strip_prefix('/') {
            None => self.inside(at, path).map(|path| root.join(path)),
            Some(absolute) if ObjectKey::parse(absolute).is_ok() => Some(PathBuf::from(path)),
            Some(_) => {
                self.reject(
                    at,
                    format!("the path `{}` is not plain", clip(path)),
                    "write it without empty parts, `.` and `..`",
                );
                None
            }
        }
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
        let section = match what {
            "secret" => "secrets",
            "storage" => "storage",
            "notifier" => "notifiers",
            _ => "compute",
        };
        if self
            .root
            .get(section)
            .is_some_and(|s| s.get(name).is_some())
        {
            // It is there, and what is wrong with it has been said.
            return None;
        }
        if what == "secret" && LogicalName::new(name).is_err() {
            let help = "write the name of one of the environment's `secrets`, never a value";
            self.reject_secretly(at, "this is no name of a secret", help);
            return None;
        }
        let problem = Problem::at(
            self.root.find(at),
            format!("the environment has no {what} `{}`", clip(name)),
        );
        let known = defined.keys().map(LogicalName::as_str);
        self.problems
            .push(problem.nearest(name, known, format!("it has no {what} at all")));
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

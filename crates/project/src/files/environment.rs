//! environments/*.yaml.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Bytes, Cores, PoolFile, Span};

/// environments/NAME.yaml
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    title = "Windlass environment",
    description = "What the logical names of pipelines mean in one place.",
    extend("required" = ["store", "run_storage"])
)]
pub(crate) struct EnvironmentFile {
    /// Runs only what is committed; needs an owner for every pipeline.
    #[serde(default)]
    pub(crate) protected: bool,
    /// Where the state of runs lives.
    #[serde(default)]
    #[schemars(with = "StoreFile")]
    pub(crate) store: Option<StoreFile>,
    /// Which ended runs are deleted from the store; all are kept without it.
    #[serde(default)]
    pub(crate) retention: Option<RetentionFile>,
    /// Which kept results of steps are forgotten; all are kept without it.
    #[serde(default)]
    pub(crate) cache: Option<CacheRetentionFile>,
    /// Storages by logical name.
    #[serde(default)]
    pub(crate) storage: BTreeMap<String, StorageFile>,
    /// Storage that holds the folders of runs.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) run_storage: Option<String>,
    /// Compute targets by logical name.
    #[serde(default)]
    pub(crate) compute: BTreeMap<String, ComputeFile>,
    /// Target of steps that name none.
    #[serde(default)]
    pub(crate) default_compute: Option<String>,
    /// Limits of pools.
    #[serde(default)]
    pub(crate) pools: BTreeMap<String, PoolFile>,
    /// Notifiers by logical name.
    #[serde(default)]
    pub(crate) notifiers: BTreeMap<String, NotifierFile>,
    /// Notifiers that hear of every pipeline.
    #[serde(default)]
    pub(crate) notify: Vec<String>,
    /// Where secrets come from, by name.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, SecretFile>,
    /// Notifiers of each team.
    #[serde(default)]
    pub(crate) owners: BTreeMap<String, OwnerFile>,
    /// Defaults of parameters that differ here: pipeline → parameter → value.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Which ended runs are deleted; one that either rule names goes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionFile {
    /// Deletes runs that ended longer ago.
    #[serde(default)]
    pub(crate) max_age: Option<Span>,
    /// Deletes all but so many of the latest runs of each pipeline.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) keep_last: Option<u32>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheRetentionFile {
    /// Forgets results that were neither computed nor served for so long.
    #[serde(default)]
    pub(crate) max_age: Option<Span>,
    /// Forgets those that were not used for longest, until what the others name has at most this size.
    #[serde(default)]
    pub(crate) max_bytes: Option<Bytes>,
}

/// A team: its notifiers, as a list or under `notify`, and its weight.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum OwnerFile {
    Plain(Vec<String>),
    Map(OwnerMapFile),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerMapFile {
    /// Notifiers of the team.
    pub(crate) notify: Vec<String>,
    /// How much of the pools and targets it may have beside other teams, as a whole number;
    /// what nobody else asks for is anybody's.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) weight: Option<u32>,
}

impl OwnerFile {
    /// Returns the path of the list below the team, and the notifiers.
    pub(crate) fn notify(&self) -> (&'static str, &[String]) {
        match self {
            Self::Plain(notify) => ("", notify),
            Self::Map(map) => ("/notify", &map.notify),
        }
    }

    pub(crate) const fn weight(&self) -> Option<u32> {
        match self {
            Self::Plain(_) => None,
            Self::Map(map) => map.weight,
        }
    }
}

impl<'de> Deserialize<'de> for OwnerFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OwnerFile;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of notifiers")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                items: A,
            ) -> Result<OwnerFile, A::Error> {
                let items = serde::de::value::SeqAccessDeserializer::new(items);
                Vec::deserialize(items).map(OwnerFile::Plain)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                entries: A,
            ) -> Result<OwnerFile, A::Error> {
                let entries = serde::de::value::MapAccessDeserializer::new(entries);
                OwnerMapFile::deserialize(entries).map(OwnerFile::Map)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreFile {
    /// Path of an SQLite file in the project.
    Sqlite(String),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StorageFile {
    /// A folder of the project, or an absolute path.
    #[serde(default)]
    pub(crate) file: Option<String>,
    /// `s3://…`, `az://…`, `gs://…`, `memory://`.
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// Options of the backend, as object_store names them.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    /// Options that are secret: option → name of the secret.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ComputeFile {
    /// The process sandbox of this host.
    Process(ProcessFile),
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessFile {
    /// Cores that jobs may use in all; without it, those of the machine.
    #[serde(default)]
    pub(crate) cpu: Option<Cores>,
    /// Memory that jobs may use in all; without it, that of the machine.
    #[serde(default)]
    pub(crate) memory: Option<Bytes>,
    /// `best` takes the strongest isolation there is; `none` takes none, by name.
    #[serde(default)]
    pub(crate) isolation: IsolationLevelFile,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IsolationLevelFile {
    #[default]
    Best,
    None,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotifierFile {
    /// A line in the log.
    Log(Empty),
    /// A signed POST.
    Webhook(WebhookFile),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookFile {
    /// The name of the secret that holds the URL.
    pub(crate) url: SecretRefFile,
    /// The name of the secret that holds the signing key (`whsec_…`).
    #[serde(default)]
    pub(crate) signing_key: Option<SecretRefFile>,
    /// Lets the URL name an address of this host or its network.
    #[serde(default)]
    pub(crate) allow_private: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRefFile {
    /// Name of one of the environment's secrets.
    pub(crate) secret: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecretFile {
    /// Name of an environment variable of the host.
    Env(String),
    /// Path of a file: below the project, or an absolute one of the host.
    File(String),
    /// Program and arguments; what it prints is the value.
    Command(Vec<String>),
}

//! Who is told: a pipeline's own destinations, then those of its owner or the default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use windlass_core::{LogicalName, PipelineSpec};

/// Destinations of an environment, by owner.
///
/// ```
/// use windlass_alerts::Routes;
/// use windlass_core::{LogicalName, PipelineName, PipelineSpec};
///
/// let name = |n| LogicalName::new(n).unwrap();
/// let routes = Routes::new([name("ops")]).owner("team-retention", [name("retention-chat")]);
/// let mut churn = PipelineSpec::new(PipelineName::new("churn").unwrap());
/// assert_eq!(routes.destinations(&churn), [name("ops")]);
/// churn.owner = Some("team-retention".to_owned());
/// churn.notify = vec![name("log")];
/// assert_eq!(routes.destinations(&churn), [name("log"), name("retention-chat")]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Routes {
    /// Told of pipelines whose owner has no route of its own.
    #[serde(default)]
    pub default: Vec<LogicalName>,
    /// Told of an owner's pipelines instead of the default.
    #[serde(default)]
    pub owners: BTreeMap<String, Vec<LogicalName>>,
}

impl Routes {
    /// Returns routes that send everything to those destinations.
    pub fn new(default: impl IntoIterator<Item = LogicalName>) -> Self {
        Self {
            default: default.into_iter().collect(),
            owners: BTreeMap::new(),
        }
    }

    /// Sends an owner's alerts to those destinations instead of the default.
    #[must_use]
    pub fn owner(
        mut self,
        owner: impl Into<String>,
        destinations: impl IntoIterator<Item = LogicalName>,
    ) -> Self {
        self.owners
            .insert(owner.into(), destinations.into_iter().collect());
        self
    }

    /// Returns who is told of a pipeline, each once: its `notify`, then its owner's or the default.
    ///
    /// Empty if neither names anybody.
    #[must_use]
    pub fn destinations(&self, pipeline: &PipelineSpec) -> Vec<LogicalName> {
        let shared = pipeline
            .owner
            .as_ref()
            .and_then(|owner| self.owners.get(owner))
            .unwrap_or(&self.default);
        let mut all: Vec<LogicalName> = Vec::new();
        for name in pipeline.notify.iter().chain(shared) {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        all
    }
}

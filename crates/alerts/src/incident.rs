//! What an incident is, what is open, and the ids that survive a crash.
//!
//! An incident is one pipeline in one environment with one cause: rule family, first failed step
//! and class of the failure. Its key holds no run, no message, no severity and no time, so the same
//! trouble tomorrow has the same key.
//!
//! The state of an open incident is a fold of the outbox records that told of it, and of nothing
//! else ([`Open::apply`]): what was told can therefore be rebuilt from what was stored.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::{
    AlertKind, FailureClass, LogicalDate, LogicalName, Notification, OutboxRecord, PipelineName,
    RunId,
};

/// Days, or runs, that an incident remembers as failing; the earliest are forgotten beyond it.
pub(crate) const MAX_FAILING: usize = 400;

/// Names of the facts that incidents are rebuilt from.
pub(crate) mod fact {
    pub(crate) const CAUSE: &str = "cause";
    pub(crate) const FAILING: &str = "failing";
    pub(crate) const RULE: &str = "rule";
}

/// Which rule an incident comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// A run ended failed; held open by the days without a success since.
    RunFailed,
    /// Nobody can tell how an attempt ended; held open by the runs that wait for a person.
    StepUnknown,
}

impl Family {
    const ALL: [Self; 2] = [Self::RunFailed, Self::StepUnknown];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RunFailed => "run.failed",
            Self::StepUnknown => "step.unknown",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == word)
    }
}

/// Returns the key of an incident: `wl1:` and 32 hex digits.
///
/// `step` is the name without the item, so that the items of a mapped step are one incident.
pub(crate) fn incident_key(
    environment: &LogicalName,
    pipeline: &PipelineName,
    family: Family,
    step: Option<&str>,
    class: Option<FailureClass>,
) -> String {
    let parts = [
        environment.as_str(),
        pipeline.as_str(),
        family.as_str(),
        step.unwrap_or(""),
        class.map_or("", FailureClass::as_str),
    ];
    format!("wl1:{}", hash("windlass alerts incident v1", &parts))
}

/// Returns the id of a notification, the same each time the same event is folded.
pub(crate) fn notification_id(
    incident: &str,
    run: RunId,
    kind: AlertKind,
    seq: u64,
    destination: &LogicalName,
) -> String {
    let (run, seq) = (run.to_string(), seq.to_string());
    let parts = [incident, &run, kind_word(kind), &seq, destination.as_str()];
    format!("wln1_{}", hash("windlass alerts notification v1", &parts))
}

/// Returns the word of a kind, as receivers see it.
pub(crate) const fn kind_word(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::Opened => "opened",
        AlertKind::Resolved => "resolved",
        // A kind of a later release means to a receiver of today: something changed.
        _ => "updated",
    }
}

/// Hashes the parts with their lengths, so that no two lists of parts look the same.
fn hash(context: &str, parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut hex = hasher.finalize().to_hex().to_string();
    hex.truncate(32);
    hex
}

/// What holds an incident open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Days whose last run failed.
    Days(BTreeSet<LogicalDate>),
    /// Runs with a step that nobody can tell about.
    Runs(BTreeSet<RunId>),
}

impl Failing {
    /// Reads the fact that [`Failing::print`] wrote; what can't be read is left out.
    fn parse(family: Family, text: &str) -> Self {
        let words = text.split(' ');
        match family {
            Family::RunFailed => Self::Days(words.filter_map(|w| w.parse().ok()).collect()),
            Family::StepUnknown => Self::Runs(words.filter_map(|w| w.parse().ok()).collect()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Days(days) => days.is_empty(),
            Self::Runs(runs) => runs.is_empty(),
        }
    }

    /// Prints the latest [`MAX_FAILING`], in order, with a space in between.
    pub(crate) fn print(&self) -> String {
        let mut words: Vec<String> = match self {
            Self::Days(days) => days.iter().map(ToString::to_string).collect(),
            Self::Runs(runs) => runs.iter().map(ToString::to_string).collect(),
        };
        words.drain(..words.len().saturating_sub(MAX_FAILING));
        words.join(" ")
    }
}

/// An incident that somebody was told of and that isn't resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) environment: LogicalName,
    pub(crate) pipeline: PipelineName,
    /// Whom we told, and the id of the message that opened it there. Every later message of the
    /// incident goes to them, whatever the routes say by then.
    pub(crate) destinations: BTreeMap<LogicalName, String>,
    pub(crate) failing: Failing,
    /// What was wrong, in a few words, as last told.
    pub(crate) cause: String,
}

/// All open incidents, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Incidents(BTreeMap<String, Open>);

impl Incidents {
    pub(crate) fn get(&self, key: &str) -> Option<&Open> {
        self.0.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the open incidents of a pipeline in an environment, by key.
    pub(crate) fn of(
        &self,
        environment: &LogicalName,
        pipeline: &PipelineName,
    ) -> impl Iterator<Item = (&String, &Open)> {
        self.0
            .iter()
            .filter(move |(_, i)| i.environment == *environment && i.pipeline == *pipeline)
    }

    /// Folds in what somebody was told; the only way that incidents change.
    ///
    /// A record without the facts of this crate is some other reactor's: it is left alone.
    pub(crate) fn apply(&mut self, record: &OutboxRecord) {
        let told = &record.notification;
        let Some(family) = told
            .facts
            .get(fact::RULE)
            .and_then(|w| Family::from_word(w))
        else {
            return;
        };
        if told.kind == AlertKind::Resolved {
            if let Some(open) = self.0.get_mut(&told.incident) {
                open.destinations.remove(&record.notifier);
                if open.destinations.is_empty() {
                    self.0.remove(&told.incident);
                }
            }
            return;
        }
        let failing = told.facts.get(fact::FAILING).map_or("", String::as_str);
        let open = self
            .0
            .entry(told.incident.clone())
            .or_insert_with(|| Open::of(told, family));
        open.failing = Failing::parse(family, failing);
        if let Some(cause) = told.facts.get(fact::CAUSE) {
            open.cause.clone_from(cause);
        }
        open.destinations
            .entry(record.notifier.clone())
            .or_insert_with(|| told.id.clone());
    }
}

impl Open {
    fn of(told: &Notification, family: Family) -> Self {
        Self {
            environment: told.environment.clone(),
            pipeline: told.pipeline.clone(),
            destinations: BTreeMap::new(),
            failing: Failing::parse(family, ""),
            cause: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(environment: &str, pipeline: &str, step: &str, class: FailureClass) -> String {
        incident_key(
            &LogicalName::new(environment).unwrap(),
            &PipelineName::new(pipeline).unwrap(),
            Family::RunFailed,
            Some(step),
            Some(class),
        )
    }

    #[test]
    fn keys_have_their_form_and_tell_causes_apart() {
        let a = key("prod", "churn", "train", FailureClass::OutOfMemory);
        assert!(a.strip_prefix("wl1:").is_some_and(|hex| hex.len() == 32));
        assert!(a[4..].bytes().all(|b| b.is_ascii_hexdigit()));
        // Pinned: a key that changes between releases would leave old incidents open for ever.
        assert_eq!(a, "wl1:447db608bc6c981ab5edbb3b5a808490");
        for other in [
            key("dev", "churn", "train", FailureClass::OutOfMemory),
            key("prod", "churns", "train", FailureClass::OutOfMemory),
            key("prod", "churn", "trai", FailureClass::OutOfMemory),
            key("prod", "churn", "train", FailureClass::TimedOut),
        ] {
            assert_ne!(a, other);
        }
    }

    #[test]
    fn only_the_latest_failing_days_are_kept() {
        let days =
            (0..500).map(|d| windlass_core::Timestamp::from_micros(d * 86_400_000_000).date());
        let text = Failing::Days(days.collect()).print();
        assert_eq!(text.split(' ').count(), MAX_FAILING);
        assert!(text.ends_with("1971-05-15"), "{text}");
    }
}

//! The fold of a run's events into outbox records.
//!
//! Invariants:
//! - The same events in the same order give the same records, byte for byte.
//! - One failed run is one message a destination, however many steps it took with it.
//! - Whom we told of an incident, we tell of its end, whatever the routes say by then.
//! - A run that was cancelled alerts nobody.
//!
//! It deliberately has no clock, so it can't notice what did not happen (a run that never
//! started, a missed deadline), and no delivery: that is the engine's outbox.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use windlass_core::{
    AlertKind, AttemptEnd, EventKind, LogicalName, Notification, Occasion, OutboxRecord, Reactor,
    RootFailure, RunId, RunState, Severity, Slot, Usage,
};

use crate::incident::{Failing, Family, Incidents, incident_key, notification_id};
use crate::message::{self, Failed, Message, Root, split_label};
use crate::redact::Redactor;
use crate::routes::Routes;

/// Reactions kept to answer a repeated event with the same records.
const REMEMBERED: usize = 64;
/// Places of one run whose peak memory is kept until the run ends.
const MAX_PEAKS: usize = 1_000;

/// Turns failed runs, their recoveries and steps of unknown end into notifications.
///
/// | event | what is told |
/// |---|---|
/// | a run ended failed | opened, or updated where somebody was told of the incident before |
/// | a run succeeded | resolved, once each day that failed has a success; updated before that |
/// | a run was cancelled | nothing |
/// | a step's end is unknown | opened or updated; resolved when the run ends, however it does |
///
/// After a restart, [`AlertReactor::restore`] rebuilds it.
///
/// ```
/// use windlass_alerts::{AlertReactor, Routes};
/// use windlass_core::LogicalName;
///
/// let reactor = AlertReactor::new(Routes::new([LogicalName::new("log").unwrap()]));
/// assert_eq!(reactor.open_incidents(), 0);
/// ```
pub struct AlertReactor {
    routes: Routes,
    redactor: Redactor,
    open: Incidents,
    /// Peak memory of failed attempts, by running run and place.
    peaks: BTreeMap<RunId, BTreeMap<Slot, u64>>,
    recent: VecDeque<(RunId, u64, Vec<OutboxRecord>)>,
}

impl AlertReactor {
    /// Returns a reactor without open incidents.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        Self {
            routes,
            redactor: Redactor::patterns(),
            open: Incidents::default(),
            peaks: BTreeMap::new(),
            recent: VecDeque::new(),
        }
    }

    /// Takes secrets out of messages before they are cut and stored.
    ///
    /// Notifiers redact once more, but a value that a cut had split would pass them.
    #[must_use]
    pub fn with_redactor(mut self, redactor: Redactor) -> Self {
        self.redactor = redactor;
        self
    }

    /// Returns how many incidents are open.
    #[must_use]
    pub fn open_incidents(&self) -> usize {
        self.open.len()
    }

    fn failed(
        &self,
        occasion: &Occasion<'_>,
        roots: &[RootFailure],
        blocked: u32,
        reason: Option<&str>,
    ) -> Vec<OutboxRecord> {
        let what = Failed {
            roots: self.in_order(occasion, roots),
            blocked,
            reason,
        };
        let lead = what.roots.first();
        let key = incident_key(
            &occasion.run.environment,
            &occasion.run.pipeline,
            Family::RunFailed,
            lead.map(Root::step),
            lead.map(|r| r.failure.failure.class),
        );
        let mut days = match self.open.get(&key).map(|open| &open.failing) {
            Some(Failing::Days(days)) => days.clone(),
            _ => BTreeSet::new(),
        };
        days.insert(occasion.run.date);
        let failing = Failing::Days(days);
        self.alert(occasion, &key, |kind| {
            let again = kind == AlertKind::Updated;
            message::failed(occasion, &what, &failing, again, &self.redactor)
        })
    }

    /// Sorts the roots by their place in the pipeline: which one failed first by the clock changes
    /// from run to run, and the first one names the incident.
    fn in_order<'a>(&self, occasion: &Occasion<'a>, roots: &'a [RootFailure]) -> Vec<Root<'a>> {
        let mut placed: Vec<(usize, Root<'a>)> = roots
            .iter()
            .map(|failure| {
                let (name, item) = split_label(&failure.step);
                let mut steps = occasion.pipeline.all_steps().enumerate();
                let found = steps.find(|(_, s)| s.name.as_str() == name);
                let index = found.map_or(usize::MAX, |(i, _)| i);
                let root = Root {
                    failure,
                    spec: found.map(|(_, spec)| spec),
                    peak: self.peak(occasion.run.id, index, item),
                };
                (index, root)
            })
            .collect();
        placed.sort_by_key(|(index, root)| (*index, root.failure.failure.class));
        placed.into_iter().map(|(_, root)| root).collect()
    }

    /// Returns the peak of a place, or the highest of the step's items if the item isn't a number.
    fn peak(&self, run: RunId, step: usize, item: Option<&str>) -> Option<u64> {
        let step = u32::try_from(step).ok()?;
        let peaks = self.peaks.get(&run)?;
        let slot = match item.map(str::parse) {
            None => Some(Slot::step(step)),
            Some(Ok(item)) => Some(Slot::item(step, item)),
            Some(Err(_)) => None,
        };
        match slot {
            Some(slot) => peaks.get(&slot).copied(),
            None => peaks
                .iter()
                .filter(|(slot, _)| slot.step == step)
                .map(|(_, peak)| *peak)
                .max(),
        }
    }

    fn keep_peak(&mut self, run: RunId, slot: Slot, usage: &Usage) {
        let peaks = self.peaks.entry(run).or_default();
        if usage.peak_memory_bytes > 0 && (peaks.len() < MAX_PEAKS || peaks.contains_key(&slot)) {
            peaks.insert(slot, usage.peak_memory_bytes);
        }
    }

    fn succeeded(&self, occasion: &Occasion<'_>) -> Vec<OutboxRecord> {
        let (run, date) = (occasion.run, occasion.run.date);
        let open = self.open.of(&run.environment, &run.pipeline);
        open.flat_map(|(key, open)| {
            let left = match &open.failing {
                Failing::Days(days) if days.contains(&date) => {
                    Failing::Days(days.iter().copied().filter(|d| *d != date).collect())
                }
                Failing::Days(_) | Failing::Runs(_) => return Vec::new(),
            };
            let (kind, message) = if left.is_empty() {
                (
                    AlertKind::Resolved,
                    message::recovered(occasion, &open.cause),
                )
            } else {
                (
                    AlertKind::Updated,
                    message::less(occasion, &open.cause, &left),
                )
            };
            tell_all(occasion, key, kind, open.destinations.keys(), &message)
        })
        .collect()
    }

    fn unknown(&self, occasion: &Occasion<'_>, slot: Slot) -> Vec<OutboxRecord> {
        let run = occasion.run;
        let Some(spec) = occasion.pipeline.all_steps().nth(slot.step as usize) else {
            return Vec::new();
        };
        let step = spec.name.as_str();
        let (environment, pipeline) = (&run.environment, &run.pipeline);
        let key = incident_key(environment, pipeline, Family::StepUnknown, Some(step), None);
        let mut waiting = match self.open.get(&key).map(|open| &open.failing) {
            Some(Failing::Runs(runs)) => runs.clone(),
            _ => BTreeSet::new(),
        };
        if !waiting.insert(run.id) {
            // Another item of a step that somebody was told of: a lost host takes many at once.
            return Vec::new();
        }
        let label = slot
            .item
            .map_or_else(|| step.to_owned(), |item| format!("{step}[{item}]"));
        let waiting = Failing::Runs(waiting);
        self.alert(occasion, &key, |_| {
            message::unknown(occasion, step, &label, &waiting)
        })
    }

    /// Somebody said how the attempt of a step ended.
    fn resolved(&self, occasion: &Occasion<'_>, slot: Slot) -> Vec<OutboxRecord> {
        let run = occasion.run;
        let spec = occasion.pipeline.all_steps().nth(slot.step as usize);
        let step = spec.map(|s| s.name.as_str());
        let key = incident_key(
            &run.environment,
            &run.pipeline,
            Family::StepUnknown,
            step,
            None,
        );
        self.settled(occasion, |of| *of == key)
    }

    /// The run waits no longer for what those incidents are about.
    fn settled(&self, occasion: &Occasion<'_>, over: impl Fn(&str) -> bool) -> Vec<OutboxRecord> {
        let run = occasion.run;
        let open = self.open.of(&run.environment, &run.pipeline);
        let over = open.filter(|(key, _)| over(key));
        over.flat_map(|(key, open)| {
            let left = match &open.failing {
                Failing::Runs(runs) if runs.contains(&run.id) => {
                    Failing::Runs(runs.iter().copied().filter(|r| *r != run.id).collect())
                }
                Failing::Days(_) | Failing::Runs(_) => return Vec::new(),
            };
            let kind = if left.is_empty() {
                AlertKind::Resolved
            } else {
                AlertKind::Updated
            };
            let message = message::settled(occasion, &open.cause, &left);
            tell_all(occasion, key, kind, open.destinations.keys(), &message)
        })
        .collect()
    }

    /// Opens an incident where nobody was told of it, and updates it where somebody was.
    fn alert(
        &self,
        occasion: &Occasion<'_>,
        key: &str,
        message: impl Fn(AlertKind) -> Message,
    ) -> Vec<OutboxRecord> {
        let open = self.open.get(key);
        let told = open.map(|open| &open.destinations);
        let mut destinations = self.routes.destinations(occasion.pipeline);
        for name in told.into_iter().flat_map(BTreeMap::keys) {
            if !destinations.contains(name) {
                destinations.push(name.clone());
            }
        }
        let (run, seq) = (occasion.run.id, occasion.event.seq);
        let (updates, openings): (Vec<_>, Vec<_>) = destinations.into_iter().partition(|name| {
            // An id that this very event gives: it comes once more, as after a failed commit.
            let opens =
                |id: &String| *id == notification_id(key, run, AlertKind::Opened, seq, name);
            told.and_then(|told| told.get(name))
                .is_some_and(|id| !opens(id))
        });
        [(AlertKind::Opened, openings), (AlertKind::Updated, updates)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .flat_map(|(kind, names)| tell_all(occasion, key, kind, names.iter(), &message(kind)))
            .collect()
    }

    fn remember(&mut self, run: RunId, seq: u64, records: &[OutboxRecord]) {
        if records.is_empty() {
            return;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((run, seq, records.to_vec()));
    }
}

fn tell_all<'a>(
    occasion: &Occasion<'_>,
    key: &str,
    kind: AlertKind,
    destinations: impl Iterator<Item = &'a LogicalName>,
    message: &Message,
) -> Vec<OutboxRecord> {
    destinations
        .map(|name| record(occasion, key, kind, name, message))
        .collect()
}

fn record(
    occasion: &Occasion<'_>,
    key: &str,
    kind: AlertKind,
    destination: &LogicalName,
    message: &Message,
) -> OutboxRecord {
    let (run, event) = (occasion.run, occasion.event);
    let mut notification = Notification::new(
        notification_id(key, run.id, kind, event.seq, destination),
        key.to_owned(),
        kind,
        // One severity for the life of an incident: receivers that file by it find it again.
        Severity::Error,
        message.title.clone(),
        message.body.clone(),
        event.at,
        run.environment.clone(),
        run.pipeline.clone(),
        run.id,
    );
    notification.owner.clone_from(&occasion.pipeline.owner);
    notification.facts.clone_from(&message.facts);
    OutboxRecord::new(destination.clone(), notification)
}

impl Reactor for AlertReactor {
    /// The records say which incidents are open, which days hold them open and whom we told. An
    /// incident whose records are gone is opened anew at its next failure, under the same key.
    fn restore(&mut self, told: &[OutboxRecord]) {
        self.open = Incidents::default();
        self.peaks.clear();
        self.recent.clear();
        let mut told: Vec<&OutboxRecord> = told.iter().collect();
        told.sort_by_key(|r| r.notification.at);
        for record in told {
            self.open.apply(record);
        }
    }

    fn react(&mut self, occasion: &Occasion<'_>) -> Vec<OutboxRecord> {
        let (run, seq) = (occasion.event.run, occasion.event.seq);
        if let Some((.., records)) = self.recent.iter().find(|(r, s, _)| (*r, *s) == (run, seq)) {
            return records.clone();
        }
        let records = match &occasion.event.kind {
            EventKind::AttemptEnded {
                slot,
                end: AttemptEnd::Failed(_),
                usage: Some(usage),
                ..
            } => {
                self.keep_peak(run, *slot, usage);
                Vec::new()
            }
            EventKind::StepUnknown { slot } => self.unknown(occasion, *slot),
            // Of several items one may wait still: those are settled with their run.
            EventKind::StepResolved { slot, .. } if slot.item.is_none() => {
                self.resolved(occasion, *slot)
            }
            EventKind::RunEnded {
                state,
                reason,
                roots,
                blocked,
            } => {
                let mut records = self.settled(occasion, |_| true);
                match state {
                    RunState::Failed => {
                        records.extend(self.failed(occasion, roots, *blocked, reason.as_deref()));
                    }
                    RunState::Succeeded => records.extend(self.succeeded(occasion)),
                    _ => {}
                }
                self.peaks.remove(&run);
                records
            }
            _ => Vec::new(),
        };
        for record in &records {
            self.open.apply(record);
        }
        self.remember(run, seq, &records);
        records
    }
}

impl fmt::Debug for AlertReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertReactor")
            .field("routes", &self.routes)
            .field("redactor", &self.redactor)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

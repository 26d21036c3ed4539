//! What the writer remembers of runs, so that it need not look them up.

use std::collections::HashMap;

use windlass_core::run_store::RunRecord;
use windlass_core::{FencingToken, RunId};

/// What the writer remembers of a run.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) no: i64,
    pub(super) last_seq: u64,
    /// As it was put last.
    pub(super) record: RunRecord,
    /// Its row doesn't say how far it is: its last events do.
    pub(super) is_behind: bool,
    /// The numbers of its next event and next token, which the events that come with them will say.
    pub(super) carried: Option<(u64, FencingToken)>,
}

impl Known {
    /// Takes over how far it is, and returns whether that is all that changed.
    pub(super) fn moves_to(&mut self, run: &RunRecord) -> bool {
        let known = &mut self.record;
        known.next_seq = run.next_seq;
        known.next_token = run.next_token;
        let is_all = known.state == run.state
            && known.cancels == run.cancels
            && known.started_at == run.started_at
            && known.ended_at == run.ended_at
            && known.reason == run.reason;
        if !is_all {
            known.state = run.state;
            known.cancels = run.cancels;
            known.started_at = run.started_at;
            known.ended_at = run.ended_at;
            known.reason.clone_from(&run.reason);
        }
        is_all
    }
}

/// What is known of runs. The rows of a transition are of one run, mostly: it is looked up once.
#[derive(Debug, Default)]
pub(super) struct Runs {
    places: HashMap<RunId, usize>,
    known: Vec<Known>,
    last: Option<(RunId, usize)>,
}

impl Runs {
    /// Returns whether it is known, and makes it the last one if so.
    pub(super) fn has(&mut self, id: RunId) -> bool {
        if self.last.is_none_or(|(last, _)| last != id) {
            self.last = self.places.get(&id).map(|place| (id, *place));
        }
        self.last.is_some()
    }

    pub(super) fn last(&mut self) -> Option<&mut Known> {
        self.known.get_mut(self.last?.1)
    }

    pub(super) fn insert(&mut self, id: RunId, known: Known) {
        let place = self.known.len();
        self.known.push(known);
        self.places.insert(id, place);
        self.last = Some((id, place));
    }

    pub(super) fn remove(&mut self, id: RunId) {
        self.places.remove(&id);
        self.last = None;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

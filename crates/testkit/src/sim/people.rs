//! Those who are told: a reactor that tells of ends, and a notifier that fails and repeats.

use async_trait::async_trait;
use windlass_core::run_store::{EventKind, OutboxRecord};
use windlass_core::{
    AlertKind, LogicalName, Notification, Notifier, NotifyError, Occasion, Reactor, Receipt,
    Severity,
};

use super::line::Line;

/// Tells of every end of a run, and of every step whose end nobody knows.
#[derive(Debug)]
pub(super) struct Teller {
    notifier: LogicalName,
}

impl Teller {
    pub(super) const fn new(notifier: LogicalName) -> Self {
        Self { notifier }
    }

    /// Returns whether an event is told of.
    pub(super) const fn tells(event: &EventKind) -> bool {
        matches!(
            event,
            EventKind::RunEnded { .. } | EventKind::StepUnknown { .. }
        )
    }
}

impl Reactor for Teller {
    fn react(&mut self, occasion: &Occasion<'_>) -> Vec<OutboxRecord> {
        let (run, event) = (occasion.run, occasion.event);
        if !Self::tells(&event.kind) {
            return Vec::new();
        }
        let notification = Notification::new(
            format!("{}/{}", run.id, event.seq),
            format!("wl1:{}", run.pipeline),
            AlertKind::Opened,
            Severity::Error,
            format!("{} is {}", run.key, run.state),
            String::new(),
            event.at,
            run.environment.clone(),
            run.pipeline.clone(),
            run.id,
        );
        vec![OutboxRecord::new(self.notifier.clone(), notification)]
    }

    fn restore(&mut self, _: &[OutboxRecord]) {
        // It tells of each event by itself, whatever came before.
    }
}

/// Receives, and doesn't always say so.
#[derive(Debug)]
pub(super) struct Receiver {
    line: Line,
}

impl Receiver {
    pub(super) const fn new(line: Line) -> Self {
        Self { line }
    }
}

#[async_trait]
impl Notifier for Receiver {
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError> {
        self.line.point().await;
        let answer = {
            let mut state = self.line.lock();
            let chance = state.weather.delivery;
            let (fails, kind) = (
                state.dice.notifier.percent(chance),
                state.dice.notifier.between(0, 3),
            );
            let id = &notification.id;
            let kept = state.books.safe().outbox.values();
            let mut kept = kept.map(|e| &e.notification);
            if !kept.any(|n| n == notification) {
                state.violate(format!("notification {id} was never kept"));
            }
            let heard = !fails || kind == 0;
            if heard {
                *state.arrived.entry(id.clone()).or_default() += 1;
            }
            state.note(format_args!(
                "delivery of {id}: heard {heard}, failed {fails}"
            ));
            match (fails, kind) {
                (false, _) => Ok(Receipt::new(None)),
                (true, 3) => Err(NotifyError::refused("no")),
                (true, _) => Err(NotifyError::unavailable("not now")),
            }
        };
        if answer.is_err() {
            self.line.lock().count("failed deliveries");
        }
        self.line.point().await;
        answer
    }
}

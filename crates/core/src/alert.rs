//! The seam to people: [`Notifier`] delivers, [`Reactor`] decides what is worth telling.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::ids::{LogicalName, PipelineName, RunId};
use crate::run_store::{EventRecord, OutboxRecord, RunRecord};
use crate::spec::PipelineSpec;
use crate::time::Timestamp;

/// How much somebody should hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it in working hours.
    Warning,
    /// A model needs somebody.
    Error,
    /// Wake somebody.
    Critical,
}

/// What a notification says of its incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertKind {
    /// Something is wrong.
    Opened,
    /// It is still wrong, and something changed.
    Updated,
    /// It is well again.
    Resolved,
}

/// What a notifier delivers.
///
/// `id` stays the same over all tries, so a receiver can drop repeats; `incident` stays the same
/// for one pipeline and cause, so a receiver can fold repeats of the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Notification {
    /// Derived from what happened, so that a crash between decision and delivery makes no second one.
    pub id: String,
    /// Key of the incident: `wl1:` and 32 hex digits.
    pub incident: String,
    /// Opened, updated or resolved.
    pub kind: AlertKind,
    /// How much somebody should hurry.
    pub severity: Severity,
    /// One line of at most 120 characters.
    pub title: String,
    /// What failed first, why, what is blocked, what to do; plain text, lines.
    pub body: String,
    /// When it happened.
    pub at: Timestamp,
    /// Name of the environment.
    pub environment: LogicalName,
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The run.
    pub run: RunId,
    /// Team that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Facts by name, for receivers that show tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Notification {
    /// Returns a notification without owner and facts.
    #[expect(
        clippy::too_many_arguments,
        reason = "every one of them is needed in every message"
    )]
    #[must_use]
    pub const fn new(
        id: String,
        incident: String,
        kind: AlertKind,
        severity: Severity,
        title: String,
        body: String,
        at: Timestamp,
        environment: LogicalName,
        pipeline: PipelineName,
        run: RunId,
    ) -> Self {
        Self {
            id,
            incident,
            kind,
            severity,
            title,
            body,
            at,
            environment,
            pipeline,
            run,
            owner: None,
            facts: BTreeMap::new(),
        }
    }
}

/// What the other side said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The other side's id, where it gives one.
    pub external_id: Option<String>,
}

impl Receipt {
    /// Returns a receipt with the other side's id.
    #[must_use]
    pub const fn new(external_id: Option<String>) -> Self {
        Self { external_id }
    }
}

/// What to do about a [`NotifyError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotifyErrorKind {
    /// Can't be reached or asks to wait: try again later.
    Unavailable,
    /// Refuses this message for good: keep it as a dead letter.
    Refused,
}

/// An error of a [`Notifier`]; never holds the destination's address, which may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotifyError {
    kind: NotifyErrorKind,
    message: String,
    retry_after: Option<Duration>,
}

impl NotifyError {
    /// Returns an error after which the delivery is tried again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            kind: NotifyErrorKind::Unavailable,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Returns an error after which it isn't.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            kind: NotifyErrorKind::Refused,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Sets how long the other side asks to wait.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns what to do about it.
    #[must_use]
    pub const fn kind(&self) -> NotifyErrorKind {
        self.kind
    }

    /// Returns how long the other side asks to wait.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Tells somebody: a log, a webhook, a chat, a pager.
///
/// The engine owns retries, order and records; a notifier is a renderer and one request. It must
/// give up by itself within 30 seconds.
///
/// # Cancel safety
/// If the future is dropped, the message may or may not have arrived; it is delivered again with the same id.
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// Delivers a notification; may be called again with the same id after a crash.
    ///
    /// # Errors
    /// [`NotifyErrorKind`] says whether another try may help.
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError>;
}

/// What a [`Reactor`] may look at beside the event.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Occasion<'a> {
    /// The run as it is after the event.
    pub run: &'a RunRecord,
    /// The run's pipeline.
    pub pipeline: &'a PipelineSpec,
    /// What happened.
    pub event: &'a EventRecord,
}

impl<'a> Occasion<'a> {
    /// Returns an occasion.
    #[must_use]
    pub const fn new(
        run: &'a RunRecord,
        pipeline: &'a PipelineSpec,
        event: &'a EventRecord,
    ) -> Self {
        Self {
            run,
            pipeline,
            event,
        }
    }
}

/// Turns events into outbox entries: a pure fold, run inside the transaction that commits the event.
///
/// No I/O, no clock, no randomness: the same events give the same entries, so a crash can neither
/// lose nor invent an alert.
pub trait Reactor: Send + fmt::Debug {
    /// Returns what is to be told about an event.
    fn react(&mut self, occasion: &Occasion<'_>) -> Vec<OutboxRecord>;

    /// Forgets every event, and goes on after what was told before: entries of any state, by the
    /// instant of their notification.
    ///
    /// The engine calls it when it starts, and when its store failed and it doesn't know which of
    /// the last events are in.
    fn restore(&mut self, told: &[OutboxRecord]);
}

//! Alerts: what is worth telling, and whom, and how it is told.
//!
//! [`AlertReactor`] folds the events of runs into outbox records: one message for one cause, the
//! first failure first, to destinations that stay with the incident. [`LogNotifier`] and, with
//! feature `webhook`, [`WebhookNotifier`] deliver them. [`Redactor`] takes secrets out at the last
//! step before text leaves.
//!
//! The crate keeps nothing and retries nothing: records lie in the run store, and the engine
//! delivers them, with a growing wait, until a notifier takes or refuses them.

mod advice;
mod incident;
mod log;
mod message;
mod reactor;
mod redact;
mod routes;
mod text;
#[cfg(feature = "webhook")]
mod webhook;

pub use log::LogNotifier;
pub use reactor::AlertReactor;
pub use redact::Redactor;
pub use routes::Routes;
#[cfg(feature = "webhook")]
pub use webhook::{InvalidWebhook, SigningKey, WebhookBuilder, WebhookNotifier};

#[cfg(all(feature = "webhook", fuzzing))]
#[doc(hidden)]
pub use webhook::fuzzing;

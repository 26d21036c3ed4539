//! Tells the log: the destination that is always there.

use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::{AlertKind, Notification, Notifier, NotifyError, Receipt, Severity};

use crate::incident::kind_word;
use crate::redact::Redactor;

/// Writes each notification as one `tracing` event with target `windlass::alert`.
///
/// Errors and worse are events of level error, warnings of level warn; what is good to know or
/// resolved is of level info. It never fails.
///
/// ```
/// use std::sync::Arc;
/// use windlass_alerts::LogNotifier;
/// use windlass_core::Notifier;
///
/// let notifier: Arc<dyn Notifier> = Arc::new(LogNotifier::new());
/// ```
#[derive(Debug, Clone, Default)]
pub struct LogNotifier {
    redactor: Arc<Redactor>,
}

impl LogNotifier {
    /// Returns a notifier that redacts by patterns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also redacts known values.
    #[must_use]
    pub fn with_redactor(mut self, redactor: Arc<Redactor>) -> Self {
        self.redactor = redactor;
        self
    }
}

#[async_trait]
impl Notifier for LogNotifier {
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError> {
        let n = self.redactor.notification(notification);
        macro_rules! emit {
            ($level:ident) => {
                tracing::$level!(
                    target: "windlass::alert",
                    id = %n.id,
                    incident = %n.incident,
                    kind = kind_word(n.kind),
                    environment = %n.environment,
                    pipeline = %n.pipeline,
                    run = %n.run,
                    owner = n.owner.as_deref().unwrap_or_default(),
                    at = %n.at,
                    body = %n.body,
                    facts = ?n.facts,
                    "{}", n.title
                )
            };
        }
        match (n.kind, n.severity) {
            (AlertKind::Resolved, _) | (_, Severity::Info) => emit!(info),
            (_, Severity::Warning) => emit!(warn),
            // What a later release adds is at least this urgent.
            _ => emit!(error),
        }
        Ok(Receipt::default())
    }
}

//! The log notifier, seen through a real subscriber.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;
use windlass_alerts::{LogNotifier, Redactor};
use windlass_core::{AlertKind, Notifier, Secret, Severity};
use windlass_testkit::conformance::notifier::{self as conformance, notification};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Collects what this thread logs while the guard lives.
fn capture() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn conforms() {
    conformance::any(|setup| {
        let redactor = Redactor::new(setup.secrets.clone());
        Arc::new(LogNotifier::new().with_redactor(Arc::new(redactor)))
    })
    .await;
}

#[tokio::test]
async fn a_notification_is_one_event_with_its_fields() {
    let (lines, _guard) = capture();
    LogNotifier::new()
        .deliver(&notification("wln1_log"))
        .await
        .unwrap();
    let text = lines.text();
    for part in [
        "ERROR windlass::alert: [prod] churn failed: train ran out of memory",
        "id=wln1_log",
        "kind=\"opened\"",
        "pipeline=churn",
        "environment=prod",
        "incident=wl1:",
        "attempts",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn the_level_says_how_much_to_hurry() {
    for (kind, severity, level) in [
        (AlertKind::Opened, Severity::Critical, "ERROR"),
        (AlertKind::Opened, Severity::Error, "ERROR"),
        (AlertKind::Updated, Severity::Warning, "WARN"),
        (AlertKind::Opened, Severity::Info, "INFO"),
        (AlertKind::Resolved, Severity::Critical, "INFO"),
    ] {
        let (lines, _guard) = capture();
        let mut n = notification("wln1_level");
        (n.kind, n.severity) = (kind, severity);
        LogNotifier::new().deliver(&n).await.unwrap();
        assert!(
            lines.text().contains(&format!(" {level} windlass::alert")),
            "{}",
            lines.text()
        );
    }
}

#[tokio::test]
async fn no_canary_reaches_the_log() {
    let (lines, _guard) = capture();
    let redactor = Redactor::new([
        Secret::new("canary-known"),
        Secret::new(""),
        Secret::new("e"),
    ]);
    let notifier = LogNotifier::new().with_redactor(Arc::new(redactor));
    let mut n = notification("wln1_canary");
    n.title = "login canary-known refused".to_owned();
    n.body = "https://u:canary-user@host/?sig=canary-sig\npassword=canary-pass".to_owned();
    n.facts
        .insert("db_password".to_owned(), "canary-fact".to_owned());
    n.owner = Some("canary-known".to_owned());
    notifier.deliver(&n).await.unwrap();
    let text = lines.text();
    assert!(
        !text.replace("wln1_canary", "").contains("canary"),
        "{text}"
    );
    assert!(
        text.contains("login *** refused"),
        "short values change nothing: {text}"
    );
}

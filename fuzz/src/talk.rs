//! What others say to us: the sandbox's helper, the receiver of a webhook, text with secrets.

use std::time::Duration;

use windlass_alerts::Redactor;
use windlass_core::{NotifyErrorKind, Secret, Timestamp};

/// A secret with all that makes one hard to find.
const SECRET: &str = "hunter2 is/long+enough=";
const DAY: Duration = Duration::from_secs(86_400);

/// Frames of the control socket; the first byte says in which pieces they come.
pub fn control(bytes: &[u8]) {
    if let Some((piece, bytes)) = bytes.split_first() {
        windlass_compute::fuzzing::control(bytes, usize::from(*piece));
    }
}

/// An answer: two bytes of status, `Retry-After` up to a line end, body.
pub fn answer(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let status = u16::from_be_bytes(*status);
    let mut parts = rest.splitn(2, |b| *b == b'\n');
    let wait = parts.next().unwrap_or_default();
    let body = parts.next().unwrap_or_default();
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let redactor = Redactor::new([Secret::new(SECRET)]);
    let refusal = windlass_alerts::fuzzing::refusal(status, wait, body, &redactor, now);
    let Some(error) = refusal else { return };
    let text = error.to_string();
    assert!(text.chars().count() < 500, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains(SECRET), "{text}");
    if let Some(wait) = error.retry_after() {
        assert!(wait <= DAY, "{wait:?}");
        assert_eq!(error.kind(), NotifyErrorKind::Unavailable);
    }
}

/// Text from which secrets are taken: none is left, and taking them twice changes nothing more.
pub fn redaction(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // The first line is a secret, too.
    let first = text.lines().next().unwrap_or_default().trim();
    let redactor = Redactor::new([Secret::new(SECRET), Secret::new(first)]);
    let once = redactor.redact(&text);
    // The mask may complete a value that has its character, again and again.
    if !first.contains('*') {
        assert_eq!(
            redactor.redact(&once),
            once,
            "the second time it is another text"
        );
    }
    assert!(!once.contains(SECRET), "{once}");
    if first.chars().count() >= Redactor::SHORTEST && !first.contains('*') {
        assert!(!once.contains(first), "{once}");
    }
}

//! What a webhook makes of an answer, for fuzzing; not part of the API.

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use windlass_core::{NotifyError, Timestamp};

use super::{MAX_ANSWER, answer, shown};
use crate::redact::Redactor;

/// Returns the error of an answer; `None` for what no HTTP client would hand on.
#[must_use]
pub fn refusal(
    status: u16,
    retry_after: &[u8],
    body: &[u8],
    redactor: &Redactor,
    now: Timestamp,
) -> Option<NotifyError> {
    let status = StatusCode::from_u16(status).ok()?;
    let wait = HeaderValue::from_bytes(retry_after).ok()?;
    let headers = HeaderMap::from_iter([(RETRY_AFTER, wait)]);
    let said = shown(redactor, &body[..body.len().min(MAX_ANSWER)]);
    Some(answer::refusal(status, &headers, now, &said))
}

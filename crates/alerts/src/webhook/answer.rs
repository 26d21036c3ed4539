//! What the receiver's answer, or the lack of one, means.

use std::error::Error;
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use windlass_core::{NotifyError, Timestamp};

use super::address::PrivateAddress;

/// Longest wait that a receiver may ask for.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Returns the error of a status other than 2xx; `said` is the start of the answer, redacted.
pub(super) fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    now: Timestamp,
    said: &str,
) -> NotifyError {
    let mut message = format!("the receiver answered {status}");
    if !said.is_empty() {
        message.push_str(&format!(": {said}"));
    }
    let hint = match status.as_u16() {
        301 | 308 => "it has moved: correct the address of the webhook; redirects are not followed",
        300..=399 => "redirects are not followed",
        401 | 403 => "check the address and the signing key of the webhook",
        404 | 410 => "the address is gone: correct it or remove the webhook",
        413 => "the message is too large for it",
        _ => "",
    };
    if !hint.is_empty() {
        message.push_str(&format!("; {hint}"));
    }
    if !is_for_good(status) {
        let error = NotifyError::unavailable(message);
        return match retry_after(headers, now) {
            Some(wait) => error.after(wait),
            None => error,
        };
    }
    NotifyError::refused(message)
}

/// True where the same request would be refused again: the receiver moved for good, or the
/// request is wrong. It isn't where the receiver is only slow, early or busy (408, 425, 429).
fn is_for_good(status: StatusCode) -> bool {
    match status.as_u16() {
        301 | 308 => true,
        408 | 425 | 429 => false,
        code => (400..500).contains(&code),
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3). At most a day.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = DateTimeParser::new().parse_timestamp(text).ok()?;
            Timestamp::from_micros(date.as_microsecond()).since(now)
        }
    };
    Some(wait.min(MAX_WAIT))
}

/// Returns the error of a request without an answer. It is told from the kind of the cause alone:
/// the texts of the client may hold the address.
pub(super) fn failure(error: &reqwest::Error) -> NotifyError {
    if error.is_builder() {
        return NotifyError::refused("the notification's id can't stand in a header");
    }
    let mut io_kind = None;
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<PrivateAddress>() {
            return NotifyError::refused(format!("{PrivateAddress}; {ALLOW_HINT}"));
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            io_kind = Some(io.kind());
            // An error that another one was wrapped into is only reached this way.
            if io
                .get_ref()
                .is_some_and(|inner| inner.is::<PrivateAddress>())
            {
                return NotifyError::refused(format!("{PrivateAddress}; {ALLOW_HINT}"));
            }
        }
        next = cause.source();
    }
    let what = if error.is_connect() {
        "the receiver can't be reached"
    } else {
        "the connection to the receiver broke before it answered"
    };
    NotifyError::unavailable(match io_kind {
        Some(kind) => format!("{what}: {kind}"),
        None => what.to_owned(),
    })
}

/// What to do about a private address.
pub(super) const ALLOW_HINT: &str =
    "allow private addresses for this webhook if the receiver is meant to be inside your network";

#[cfg(test)]
mod tests {
    use windlass_core::NotifyErrorKind;

    use super::*;

    fn kind_of(code: u16) -> NotifyErrorKind {
        let status = StatusCode::from_u16(code).unwrap();
        refusal(status, &HeaderMap::new(), Timestamp::default(), "").kind()
    }

    #[test]
    fn every_status_has_one_meaning() {
        for code in [301, 308, 400, 401, 403, 404, 405, 410, 413, 415, 422] {
            assert_eq!(kind_of(code), NotifyErrorKind::Refused, "{code}");
        }
        for code in [302, 303, 304, 307, 408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(kind_of(code), NotifyErrorKind::Unavailable, "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        for (text, wait) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999", Some(86_400)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(
                retry_after(&headers, now),
                wait.map(Duration::from_secs),
                "{text}"
            );
        }
    }
}

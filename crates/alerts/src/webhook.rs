//! Posts notifications as `CloudEvents`, signed by Standard Webhooks.
//!
//! - The URL is a secret: it stands in no error, log or `Debug` text.
//! - Every try has the same id and body; timestamp and signature are of the try.
//! - One request, no redirect, no proxy of the environment, one time limit over all of it.
//! - It reaches public addresses only, unless told otherwise.
//!
//! It deliberately retries nothing: the engine's outbox does, with the wait that the receiver asked for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Client, Response, Url, redirect};
use windlass_core::{Clock, ClockExt as _, Notification, Notifier, NotifyError, Receipt, Secret};

use crate::redact::Redactor;
use crate::text::one_line;

mod address;
mod answer;
mod event;
#[cfg(fuzzing)]
pub mod fuzzing;
mod sign;

pub use sign::SigningKey;

/// Bytes of an answer that are read, and characters of it that an error shows.
const MAX_ANSWER: usize = 4_096;
const SHOWN_ANSWER: usize = 200;
/// A [`Notifier`] must give up within 30 s; Standard Webhooks advises 15 to 30 s.
const TIME_LIMIT: Duration = Duration::from_secs(20);
const MAX_TIME_LIMIT: Duration = Duration::from_secs(30);

/// A webhook that can't be built; never shows the URL or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhook is not valid: {0}")]
pub struct InvalidWebhook(&'static str);

impl InvalidWebhook {
    const KEY_PREFIX: Self = Self("write its signing key as `whsec_` and base64");
    const KEY_ENCODING: Self = Self("its signing key is no base64 behind `whsec_`");
    const KEY_LENGTH: Self = Self("its signing key must have 24 to 64 bytes");
    const URL: Self = Self("its address is no URL with a host");
    const SCHEME: Self = Self("its address must start with https:// or http://");
    const NO_TLS: Self =
        Self("its address is https, and this build lacks the feature `webhook-tls`");
    const PRIVATE: Self = Self(
        "its address is private; allow private addresses for this webhook if the receiver is meant to be inside your network",
    );
    const CLIENT: Self = Self("its HTTP client can't start; look at the host's TLS roots");
    const LIMIT: Self = Self("its time limit must be above 0 s and at most 30 s");
}

/// Settings of a [`WebhookNotifier`]; see [`WebhookNotifier::builder`].
#[derive(Debug)]
pub struct WebhookBuilder {
    url: Secret,
    clock: Arc<dyn Clock>,
    keys: Vec<SigningKey>,
    redactor: Redactor,
    allow_private: bool,
    time_limit: Duration,
}

impl WebhookBuilder {
    /// Signs with this key, too. While keys are exchanged give both, the new one first.
    ///
    /// Without a key requests carry no signature, and the receiver can't tell who sent them.
    #[must_use]
    pub fn signing_key(mut self, key: SigningKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Also redacts known values; patterns are always redacted.
    #[must_use]
    pub fn redactor(mut self, redactor: Redactor) -> Self {
        self.redactor = redactor;
        self
    }

    /// Lets the webhook reach loopback, private and link-local addresses; default: it doesn't.
    #[must_use]
    pub const fn allow_private(mut self, allow: bool) -> Self {
        self.allow_private = allow;
        self
    }

    /// Limits one delivery, from the lookup of the name to the end of the answer; default 20 s, at most 30 s.
    #[must_use]
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Builds the notifier; reaches out to nobody.
    ///
    /// # Errors
    /// [`InvalidWebhook`] says which setting to correct.
    pub fn build(self) -> Result<WebhookNotifier, InvalidWebhook> {
        let url = Url::parse(self.url.expose().trim()).map_err(|_| InvalidWebhook::URL)?;
        match url.scheme() {
            "http" => {}
            "https" if cfg!(feature = "webhook-tls") => {}
            "https" => return Err(InvalidWebhook::NO_TLS),
            _ => return Err(InvalidWebhook::SCHEME),
        }
        // A URL of these schemes always has a host, and an IPv6 one stands in brackets.
        let host = url.host_str().ok_or(InvalidWebhook::URL)?;
        let literal: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
        if !self.allow_private && literal.is_ok_and(|ip| !address::is_public(ip)) {
            return Err(InvalidWebhook::PRIVATE);
        }
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            return Err(InvalidWebhook::LIMIT);
        }
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false);
        if !self.allow_private {
            client = client.dns_resolver(Arc::new(address::PublicOnly));
        }
        Ok(WebhookNotifier {
            client: client.build().map_err(|_| InvalidWebhook::CLIENT)?,
            answers: self.redactor.clone().and(parts(&url)),
            url,
            clock: self.clock,
            keys: self.keys,
            redactor: self.redactor,
            time_limit: self.time_limit,
        })
    }
}

/// What of the URL may be secret and may come back in an answer.
fn parts(url: &Url) -> Vec<Secret> {
    let path = url.path_segments().into_iter().flatten();
    let mut parts = vec![Secret::new(url.as_str()), Secret::new(url.path())];
    parts.extend(path.map(Secret::new));
    parts.extend(url.query_pairs().map(|(_, value)| Secret::new(value)));
    parts.extend(url.password().map(Secret::new));
    parts
}

/// Posts each notification to one URL.
///
/// The body is a `CloudEvents` 1.0 event (`dev.windlass.incident.opened`, `.updated`, `.resolved`)
/// of at most 20 KB; the headers are `webhook-id` (the notification's id), `webhook-timestamp` and,
/// with keys, `webhook-signature`. A status of 2xx is a delivery. Statuses that would come again
/// (most of 4xx, and 301 and 308) are refused; all else is unavailable, with the wait of `Retry-After`.
///
/// ```
/// # use std::sync::Arc;
/// # use windlass_core::{Clock, Timestamp};
/// use windlass_alerts::{SigningKey, WebhookNotifier};
/// use windlass_core::Secret;
/// # #[derive(Debug)] struct Fixed;
/// # #[async_trait::async_trait] impl Clock for Fixed {
/// #     fn now(&self) -> Timestamp { Timestamp::default() }
/// #     async fn sleep_until(&self, _: Timestamp) {}
/// # }
/// # let clock: Arc<dyn Clock> = Arc::new(Fixed);
///
/// let key = SigningKey::parse(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))?;
/// let notifier = WebhookNotifier::builder(Secret::new("http://incidents.example/hook"), clock)
///     .signing_key(key)
///     .build()?;
/// assert!(!format!("{notifier:?}").contains("incidents.example"));
/// # Ok::<(), windlass_alerts::InvalidWebhook>(())
/// ```
pub struct WebhookNotifier {
    client: Client,
    url: Url,
    clock: Arc<dyn Clock>,
    keys: Vec<SigningKey>,
    redactor: Redactor,
    /// Also knows the parts of the URL.
    answers: Redactor,
    time_limit: Duration,
}

impl WebhookNotifier {
    /// Starts from the URL, which is taken for a secret, and the clock that timestamps and limits.
    #[must_use]
    pub fn builder(url: Secret, clock: Arc<dyn Clock>) -> WebhookBuilder {
        WebhookBuilder {
            url,
            clock,
            keys: Vec::new(),
            redactor: Redactor::patterns(),
            allow_private: false,
            time_limit: TIME_LIMIT,
        }
    }

    async fn post(&self, id: &str, body: Vec<u8>) -> Result<Receipt, NotifyError> {
        let timestamp = self.clock.now().as_micros().div_euclid(1_000_000);
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header(USER_AGENT, concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp);
        if !self.keys.is_empty() {
            let signatures: Vec<String> = self
                .keys
                .iter()
                .map(|key| key.sign(id, timestamp, &body))
                .collect();
            request = request.header("webhook-signature", signatures.join(" "));
        }
        let sent = request.body(body).send().await;
        let mut answer = sent.map_err(|e| answer::failure(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Receipt::default());
        }
        let said = shown(&self.answers, &start_of(&mut answer).await);
        Err(answer::refusal(
            status,
            answer.headers(),
            self.clock.now(),
            &said,
        ))
    }
}

/// Returns what an error may show of the start of an answer.
fn shown(redactor: &Redactor, start: &[u8]) -> String {
    // First one line: a value broken over two would be whole again behind the redactor.
    let line = one_line(&String::from_utf8_lossy(start), usize::MAX);
    one_line(&redactor.redact(&line), SHOWN_ANSWER)
}

/// Reads the start of an answer; one that breaks off is as good as a short one.
async fn start_of(answer: &mut Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    bytes
}

#[async_trait]
impl Notifier for WebhookNotifier {
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError> {
        let clean = self.redactor.notification(notification);
        let body = event::body(&clean).map_err(|e| {
            NotifyError::refused(format!("the notification can't be written as JSON: {e}"))
        })?;
        let post = self.post(&clean.id, body);
        let in_time = self.clock.timeout(self.time_limit, post).await;
        in_time.unwrap_or_else(|| {
            Err(NotifyError::unavailable(format!(
                "the receiver did not answer within {} s",
                self.time_limit.as_secs_f64()
            )))
        })
    }
}

impl fmt::Debug for WebhookNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookNotifier")
            .field("keys", &self.keys.len())
            .field("redactor", &self.redactor)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_with_a_space_is_found_when_the_answer_breaks_it() {
        let redactor = Redactor::new([Secret::new("two words of a key")]);
        for answer in ["two words of a key", "two\twords\n of\u{0} a\r\nkey"] {
            assert_eq!(shown(&redactor, answer.as_bytes()), "***", "{answer:?}");
        }
    }
}

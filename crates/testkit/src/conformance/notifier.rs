//! What every [`Notifier`] must do.
//!
//! [`any`] holds for all of them; [`http`] for those that post to a URL, against a real receiver
//! that the caller brings ([`Receiver`]). A check that doesn't hold panics with the promise that
//! was broken. The clock is the suite's own, so no check waits for real time; a notifier that
//! ignores its clock, and its time limit, hangs in [`http`] until the test runner ends it.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join;
use tokio::sync::watch;
use windlass_core::{
    AlertKind, Clock, LogicalName, Notification, Notifier, NotifyError, NotifyErrorKind,
    PipelineName, RunId, Secret, Severity, Timestamp,
};

/// The longest that a delivery may take.
const LIMIT: Duration = Duration::from_secs(30);
/// A value that the notifier is told is secret.
const KNOWN_SECRET: &str = "canary-known-Zq81vT";
/// Texts that give a secret away by their form, and the secret in them.
const PATTERNS: [(&str, &str); 6] = [
    ("postgres://app:canary-user-7Hd2@db/x", "canary-user-7Hd2"),
    (
        "https://lake/x?sv=1&sig=canary-sig-9Kf3&se=2",
        "canary-sig-9Kf3",
    ),
    (
        "AccountName=a;AccountKey=canary-key-4Jw8==;x=1",
        "canary-key-4Jw8",
    ),
    (
        "Authorization: Bearer canary-bearer-2Ls6",
        "canary-bearer-2Ls6",
    ),
    ("password=canary-pass-5Mb0", "canary-pass-5Mb0"),
    (
        "-----BEGIN PRIVATE KEY-----\ncanary-pem-3Nc9\n-----END PRIVATE KEY-----",
        "canary-pem-3Nc9",
    ),
];

/// One request, as the receiver saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Names in lower case with their values, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Received {
    /// Returns a request.
    #[must_use]
    pub const fn new(headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self { headers, body }
    }

    /// Returns the first header of that name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns everything that arrived as one text, for searches.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{:?}\n{}",
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// What a [`Receiver`] answers to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// A status, headers and a short text.
    Status {
        /// The status.
        code: u16,
        /// Header names and values.
        headers: Vec<(String, String)>,
        /// The body.
        text: String,
    },
    /// None: the connection stays open and silent.
    Never,
}

impl Answer {
    /// Returns an answer without headers and body.
    #[must_use]
    pub const fn status(code: u16) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            text: String::new(),
        }
    }
}

/// A real HTTP receiver on this host.
#[async_trait]
pub trait Receiver: Send + Sync {
    /// Returns its address; its path holds a part that is secret.
    fn url(&self) -> String;

    /// Sets the answer to all requests from now on.
    fn answer(&self, answer: Answer);

    /// Waits for the next request that was not yet returned.
    async fn next(&self) -> Received;
}

/// What a notifier under test is built from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Setup {
    /// Where to post; on loopback, so a notifier that guards addresses must be told to allow it.
    pub url: String,
    /// The clock that timestamps and limits.
    pub clock: Arc<dyn Clock>,
    /// Values to redact.
    pub secrets: Vec<Secret>,
}

/// A clock that stands still until somebody moves it.
pub struct HandClock(watch::Sender<Timestamp>);

impl HandClock {
    /// Returns a clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(watch::Sender::new(now))
    }

    /// Moves it on, and wakes who waits for a time up to there.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.after(by));
    }
}

impl fmt::Debug for HandClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandClock({})", *self.0.borrow())
    }
}

#[async_trait]
impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    async fn sleep_until(&self, at: Timestamp) {
        // The sender lives as long as this borrow of the clock, so the wait ends only in time.
        let mut now = self.0.subscribe();
        if now.wait_for(|now| *now >= at).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns a notification of that id, with a title, a body of two lines and one fact.
///
/// # Panics
/// Never: the names are valid.
#[must_use]
pub fn notification(id: &str) -> Notification {
    let at = start();
    let mut n = Notification::new(
        id.to_owned(),
        "wl1:00112233445566778899aabbccddeeff".to_owned(),
        AlertKind::Opened,
        Severity::Error,
        "[prod] churn failed: train ran out of memory".to_owned(),
        "Failed first:\n- train ran out of memory".to_owned(),
        at,
        LogicalName::new("prod").expect("a valid name"),
        PipelineName::new("churn").expect("a valid name"),
        RunId::from_parts(at, 7),
    );
    n.owner = Some("team-retention".to_owned());
    n.facts.insert("attempts".to_owned(), "3".to_owned());
    n
}

fn start() -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000)
}

/// Checks what holds for every notifier, also one that reaches out to nobody.
///
/// # Panics
/// With the promise that was broken.
pub async fn any(make: impl Fn(&Setup) -> Arc<dyn Notifier>) {
    let setup = Setup {
        url: unreachable_url(),
        clock: Arc::new(HandClock::new(start())),
        secrets: vec![Secret::new(KNOWN_SECRET)],
    };
    let notifier = make(&setup);
    let n = notification("wln1_any");
    let first = notifier.deliver(&n).await.map_err(|e| e.kind());
    let second = notifier.deliver(&n).await.map_err(|e| e.kind());
    assert_eq!(first, second, "the same delivery has the same end");
    let debug = format!("{notifier:?}");
    for secret in [setup.url.as_str(), KNOWN_SECRET] {
        assert!(!debug.contains(secret), "Debug shows a secret: {debug}");
    }
}

/// Checks a notifier that posts to a URL.
///
/// # Panics
/// With the promise that was broken.
pub async fn http(receiver: &dyn Receiver, make: impl Fn(&Setup) -> Arc<dyn Notifier>) {
    let clock = Arc::new(HandClock::new(start()));
    let setup = Setup {
        url: receiver.url(),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        secrets: vec![Secret::new(KNOWN_SECRET)],
    };
    let notifier = make(&setup);
    let notifier = notifier.as_ref();
    delivers_with_one_id(receiver, notifier, &clock).await;
    redacts(receiver, notifier).await;
    sorts_answers(receiver, notifier, &setup).await;
    follows_no_redirect(receiver, notifier).await;
    gives_up_in_time(receiver, notifier, &clock).await;
    let nobody = Setup {
        url: unreachable_url(),
        ..setup
    };
    reports_an_unreachable_receiver(make(&nobody).as_ref(), &nobody).await;
}

async fn delivers_with_one_id(receiver: &dyn Receiver, notifier: &dyn Notifier, clock: &HandClock) {
    receiver.answer(Answer::status(503));
    let n = notification("wln1_same");
    let error = refused(notifier, &n).await;
    assert_eq!(
        error.kind(),
        NotifyErrorKind::Unavailable,
        "a receiver that is down comes back"
    );
    let tried = receiver.next().await;
    clock.advance(Duration::from_secs(5));
    receiver.answer(Answer::status(204));
    accepted(notifier, &n).await;
    let delivered = receiver.next().await;
    assert!(
        tried.text().contains(&n.id),
        "a try carries the id: {}",
        tried.text()
    );
    assert!(delivered.text().contains(&n.id), "and so does the next one");
    assert_eq!(tried.body, delivered.body, "every try has the same body");
    for part in [n.incident.as_str(), "churn", "train ran out of memory"] {
        assert!(delivered.text().contains(part), "{part} arrives");
    }
    accepted(notifier, &notification("wln1_other")).await;
    assert!(
        !receiver.next().await.text().contains(&n.id),
        "another one has its own id"
    );
}

async fn redacts(receiver: &dyn Receiver, notifier: &dyn Notifier) {
    receiver.answer(Answer::status(200));
    let mut secrets = vec![KNOWN_SECRET];
    let mut texts = vec![format!("login {KNOWN_SECRET} failed")];
    for (text, secret) in PATTERNS {
        texts.push(text.to_owned());
        secrets.push(secret);
    }
    let mut n = notification("wln1_redact");
    n.title = texts[..4].join(" ");
    n.body = texts.join("\n");
    for (i, text) in texts.iter().enumerate() {
        n.facts.insert(format!("fact-{i}"), text.clone());
    }
    n.owner = Some(texts[0].clone());
    accepted(notifier, &n).await;
    let arrived = receiver.next().await.text();
    for secret in secrets {
        assert!(
            !arrived.contains(secret),
            "{secret} left the process: {arrived}"
        );
    }
    assert!(
        arrived.contains("login"),
        "the rest of the text stays: {arrived}"
    );
}

async fn sorts_answers(receiver: &dyn Receiver, notifier: &dyn Notifier, setup: &Setup) {
    let n = notification("wln1_answers");
    let url_tail = setup.url.rsplit('/').next().unwrap_or_default();
    for (code, kind) in [
        (400, NotifyErrorKind::Refused),
        (401, NotifyErrorKind::Refused),
        (403, NotifyErrorKind::Refused),
        (404, NotifyErrorKind::Refused),
        (410, NotifyErrorKind::Refused),
        (413, NotifyErrorKind::Refused),
        (429, NotifyErrorKind::Unavailable),
        (500, NotifyErrorKind::Unavailable),
        (502, NotifyErrorKind::Unavailable),
        (503, NotifyErrorKind::Unavailable),
    ] {
        receiver.answer(Answer::Status {
            code,
            headers: vec![("retry-after".to_owned(), "17".to_owned())],
            text: format!("no such hook {url_tail} at {}", setup.url),
        });
        for _ in 0..2 {
            let error = refused(notifier, &n).await;
            receiver.next().await;
            assert_eq!(error.kind(), kind, "status {code}, at every try");
            if kind == NotifyErrorKind::Unavailable {
                let wait = Some(Duration::from_secs(17));
                assert_eq!(error.retry_after(), wait, "status {code} asks to wait");
            }
            says_no_address(&error, setup);
        }
    }
}

async fn follows_no_redirect(receiver: &dyn Receiver, notifier: &dyn Notifier) {
    for code in [301, 302, 307] {
        receiver.answer(Answer::Status {
            code,
            headers: vec![("location".to_owned(), receiver.url())],
            text: String::new(),
        });
        refused(notifier, &notification("wln1_moved")).await;
        receiver.next().await;
    }
    // Had a redirect been followed, its request would be the next one.
    receiver.answer(Answer::status(200));
    accepted(notifier, &notification("wln1_settled")).await;
    let next = receiver.next().await.text();
    assert!(
        next.contains("wln1_settled"),
        "a redirect was followed: {next}"
    );
}

async fn gives_up_in_time(receiver: &dyn Receiver, notifier: &dyn Notifier, clock: &HandClock) {
    receiver.answer(Answer::Never);
    let n = notification("wln1_silent");
    let let_time_pass = async {
        receiver.next().await;
        clock.advance(LIMIT);
    };
    let (end, ()) = join(notifier.deliver(&n), let_time_pass).await;
    let kind = end.map_err(|e| e.kind());
    assert_eq!(
        kind,
        Err(NotifyErrorKind::Unavailable),
        "silence for {LIMIT:?} is worth another try"
    );
    receiver.answer(Answer::status(200));
    accepted(notifier, &n).await;
    receiver.next().await;
}

async fn reports_an_unreachable_receiver(notifier: &dyn Notifier, setup: &Setup) {
    let error = refused(notifier, &notification("wln1_nobody")).await;
    assert_eq!(
        error.kind(),
        NotifyErrorKind::Unavailable,
        "nobody listens: {error}"
    );
    says_no_address(&error, setup);
    let debug = format!("{notifier:?}");
    assert!(
        !debug.contains(&setup.url),
        "Debug shows the address: {debug}"
    );
}

async fn accepted(notifier: &dyn Notifier, n: &Notification) {
    let end = notifier.deliver(n).await;
    assert!(end.is_ok(), "a status of 2xx is a delivery: {end:?}");
}

async fn refused(notifier: &dyn Notifier, n: &Notification) -> NotifyError {
    let end = notifier.deliver(n).await;
    end.expect_err("only a status of 2xx is a delivery")
}

fn says_no_address(error: &NotifyError, setup: &Setup) {
    let said = format!("{error} {error:?}");
    let path = setup.url.rsplit('/').next().unwrap_or_default();
    let host = setup.url.split('/').nth(2).unwrap_or_default();
    for part in [path, host].into_iter().filter(|p| !p.is_empty()) {
        assert!(!said.contains(part), "an error shows the address: {said}");
    }
}

/// Returns the URL of a port that was free just now.
fn unreachable_url() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    let port = listener
        .local_addr()
        .expect("a bound socket has one")
        .port();
    format!("http://127.0.0.1:{port}/canary-url-part-8Rt5")
}

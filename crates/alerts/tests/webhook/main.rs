//! The webhook notifier against a real HTTP receiver, and against the standard's own verifier.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod receiver;

use std::sync::Arc;
use std::time::Duration;

use receiver::LoopbackReceiver;
use serde_json::Value;
use standardwebhooks::Webhook;
use windlass_alerts::{Redactor, SigningKey, WebhookBuilder, WebhookNotifier};
use windlass_core::{AlertKind, Clock, Notifier, NotifyErrorKind, Secret, Timestamp};
use windlass_testkit::conformance::notifier::{
    self as conformance, Answer, HandClock, Received, Receiver, Setup, notification,
};

const NEW_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn key(text: &str) -> SigningKey {
    SigningKey::parse(&Secret::new(text)).unwrap()
}

/// The verifier allows five minutes of difference to the real time, so this clock shows it.
#[expect(
    clippy::disallowed_methods,
    reason = "the verifier reads the real time, too"
)]
fn real_time() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_micros(i64::try_from(since.unwrap().as_micros()).unwrap())
}

fn builder(url: &str) -> WebhookBuilder {
    let clock: Arc<dyn Clock> = Arc::new(HandClock::new(real_time()));
    WebhookNotifier::builder(Secret::new(url), clock).allow_private(true)
}

fn headers(received: &Received) -> axum::http::HeaderMap {
    let pairs = received.headers.iter();
    pairs
        .map(|(n, v)| {
            let name: axum::http::HeaderName = n.parse().unwrap();
            (name, v.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn conforms() {
    let receiver = LoopbackReceiver::start(0).await;
    let make = |setup: &Setup| -> Arc<dyn Notifier> {
        let url = Secret::new(setup.url.clone());
        let notifier = WebhookNotifier::builder(url, Arc::clone(&setup.clock))
            .allow_private(true)
            .redactor(Redactor::new(setup.secrets.clone()))
            .signing_key(key(NEW_KEY))
            .build();
        Arc::new(notifier.unwrap())
    };
    conformance::any(make).await;
    conformance::http(&receiver, make).await;
}

#[tokio::test]
async fn the_standards_verifier_accepts_both_keys_and_no_other() {
    let receiver = LoopbackReceiver::start(0).await;
    let notifier = builder(&receiver.url())
        .signing_key(key(NEW_KEY))
        .signing_key(key(OLD_KEY))
        .build()
        .unwrap();
    notifier
        .deliver(&notification("wln1_signed"))
        .await
        .unwrap();
    let mut received = receiver.next().await;
    let sent = headers(&received);
    for known in [NEW_KEY, OLD_KEY] {
        let verifier = Webhook::new(known).unwrap();
        verifier.verify(&received.body, &sent).unwrap();
    }
    let stranger = Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(stranger.verify(&received.body, &sent).is_err());
    received.body[20] ^= 1;
    let verifier = Webhook::new(NEW_KEY).unwrap();
    assert!(
        verifier.verify(&received.body, &sent).is_err(),
        "a changed body"
    );
}

#[tokio::test]
async fn the_body_is_a_cloud_event() {
    let receiver = LoopbackReceiver::start(0).await;
    let notifier = builder(&receiver.url()).build().unwrap();
    for (kind, word) in [
        (AlertKind::Opened, "opened"),
        (AlertKind::Updated, "updated"),
        (AlertKind::Resolved, "resolved"),
    ] {
        let mut n = notification("wln1_event");
        n.kind = kind;
        notifier.deliver(&n).await.unwrap();
        let received = receiver.next().await;
        let content_type = received.header("content-type").unwrap();
        assert!(content_type.starts_with("application/cloudevents+json"));
        assert_eq!(received.header("webhook-id"), Some("wln1_event"));
        assert_eq!(
            received.header("webhook-signature"),
            None,
            "no key, no signature"
        );
        let event: Value = serde_json::from_slice(&received.body).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], "wln1_event");
        assert_eq!(event["type"], format!("dev.windlass.incident.{word}"));
        assert_eq!(event["source"], "/windlass/prod/churn");
        assert_eq!(event["subject"], n.incident);
        assert_eq!(event["time"].as_str().unwrap().parse(), Ok(n.at));
        assert_eq!(event["datacontenttype"], "application/json");
        assert_eq!(event["data"]["state"], word);
        assert_eq!(event["data"]["severity"], "error");
        assert_eq!(event["data"]["run"], n.run.to_string());
        assert_eq!(event["data"]["facts"]["attempts"], "3");
        assert_eq!(event["data"].get("cut"), None);
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_arrives_cut_and_says_so() {
    let receiver = LoopbackReceiver::start(0).await;
    let notifier = builder(&receiver.url()).build().unwrap();
    let mut n = notification("wln1_large");
    n.body = "\"\u{1}é".repeat(10_000);
    notifier.deliver(&n).await.unwrap();
    let text_cut = receiver.next().await.body;
    n.facts = (0..1_000)
        .map(|i| (format!("fact-{i}"), "x".repeat(100)))
        .collect();
    notifier.deliver(&n).await.unwrap();
    let facts_cut = receiver.next().await.body;
    for body in [&text_cut, &facts_cut] {
        assert!(body.len() <= 20_000, "{}", body.len());
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(event["data"]["cut"], true);
        let text = event["data"]["body"].as_str().unwrap();
        assert!(text.ends_with("bytes cut)"), "{}", &text[text.len() - 40..]);
    }
    let event: Value = serde_json::from_slice(&text_cut).unwrap();
    assert_eq!(
        event["data"]["facts"]["attempts"], "3",
        "facts outlive text"
    );
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_the_same_message() {
    let port = LoopbackReceiver::start(0).await.port();
    let notifier = builder(&format!("http://127.0.0.1:{port}/hook"))
        .build()
        .unwrap();
    let n = notification("wln1_back");
    let error = loop {
        // The first receiver's socket is closed by its task, some time after it was dropped.
        match notifier.deliver(&n).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), NotifyErrorKind::Unavailable, "{error}");
    let receiver = LoopbackReceiver::start(port).await;
    notifier.deliver(&n).await.unwrap();
    assert_eq!(
        receiver.next().await.header("webhook-id"),
        Some("wln1_back")
    );
    assert!(receiver.drain().await.is_empty(), "once");
}

#[tokio::test]
async fn a_connection_that_breaks_is_worth_another_try() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let notifier = builder(&url).build().unwrap();
    let n = notification("wln1_broken");
    let hang_up = async { drop(listener.accept().await.unwrap()) };
    let (end, ()) = tokio::join!(notifier.deliver(&n), hang_up);
    assert_eq!(end.unwrap_err().kind(), NotifyErrorKind::Unavailable);
}

#[tokio::test]
async fn private_addresses_are_refused_unless_allowed() {
    let clock = || -> Arc<dyn Clock> { Arc::new(HandClock::new(real_time())) };
    for url in [
        "http://127.0.0.1/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x",
        "http://[::ffff:10.0.0.1]/x",
        "http://192.168.0.1:8080/x",
    ] {
        let error = WebhookNotifier::builder(Secret::new(url), clock())
            .build()
            .unwrap_err();
        assert!(
            error.to_string().contains("address is private"),
            "{url}: {error}"
        );
    }
    // A name is looked up when it is used: `localhost` leads to loopback on every host.
    let receiver = LoopbackReceiver::start(0).await;
    let url = format!("http://localhost:{}/hook", receiver.port());
    let guarded = WebhookNotifier::builder(Secret::new(url), clock())
        .build()
        .unwrap();
    let error = guarded
        .deliver(&notification("wln1_ssrf"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), NotifyErrorKind::Refused);
    assert!(error.to_string().contains("private address"), "{error}");
    assert!(
        receiver.drain().await.is_empty(),
        "nothing left the process"
    );
}

#[tokio::test]
async fn an_answer_is_shown_without_the_address() {
    let receiver = LoopbackReceiver::start(0).await;
    receiver.answer(Answer::Status {
        code: 403,
        headers: Vec::new(),
        text: "hook T000-canary-path-secret is disabled, token=abcdef".to_owned(),
    });
    let notifier = builder(&receiver.url()).build().unwrap();
    let error = notifier
        .deliver(&notification("wln1_said"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the receiver answered 403 Forbidden: hook *** is disabled, token=***; \
         check the address and the signing key of the webhook"
    );
}

#[test]
fn settings_that_cannot_work_are_refused_without_showing_them() {
    for url in [
        "",
        "incidents.example/canary",
        "ftp://host/canary",
        "http:///",
    ] {
        let error = builder(url).build().unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
    for limit in [Duration::ZERO, Duration::from_secs(31)] {
        assert!(builder("http://host/").time_limit(limit).build().is_err());
    }
    let https = builder("https://host/canary").build();
    assert_eq!(https.is_ok(), cfg!(feature = "webhook-tls"), "{https:?}");
    let all = format!(
        "{:?}",
        builder("http://canary.example/canary").signing_key(key(NEW_KEY))
    );
    assert!(!all.contains("canary") && !all.contains("MfKQ9"), "{all}");
}

//! The body: a `CloudEvents` 1.0 event in structured JSON form, of at most [`MAX_BYTES`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use windlass_core::{Notification, Severity};

use crate::incident::kind_word;
use crate::text::{one_line, prefix};

/// Standard Webhooks advises bodies below 20 KB.
pub(super) const MAX_BYTES: usize = 20_000;
/// Characters of a title and of an owner that came from another reactor than ours.
const MAX_LINE: usize = 200;

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    incident: &'a str,
    state: &'static str,
    severity: Severity,
    title: String,
    body: Cow<'a, str>,
    environment: &'a str,
    pipeline: &'a str,
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    facts: &'a BTreeMap<String, String>,
    /// True if facts were left out, or the body was cut, to stay within the size.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// Returns the body of a notification: the same bytes at every try.
///
/// One that is too large loses the end of its body text first, then its facts.
pub(super) fn body(notification: &Notification) -> Result<Vec<u8>, serde_json::Error> {
    let none = BTreeMap::new();
    let whole = render(notification, notification.body.len(), &notification.facts)?;
    if whole.len() <= MAX_BYTES {
        return Ok(whole);
    }
    for (text, facts) in [
        (6_000, &notification.facts),
        (1_500, &notification.facts),
        (1_500, &none),
        (0, &none),
    ] {
        let smaller = render(notification, text, facts)?;
        if smaller.len() <= MAX_BYTES {
            return Ok(smaller);
        }
    }
    // Ids of another reactor may have any length: the receiver says whether it takes them.
    render(notification, 0, &none)
}

fn render(
    n: &Notification,
    max_text: usize,
    facts: &BTreeMap<String, String>,
) -> Result<Vec<u8>, serde_json::Error> {
    let text = if n.body.len() > max_text {
        let kept = prefix(&n.body, max_text);
        Cow::Owned(format!("{kept}\n({} bytes cut)", n.body.len() - kept.len()))
    } else {
        Cow::Borrowed(n.body.as_str())
    };
    serde_json::to_vec(&Event {
        specversion: "1.0",
        id: &n.id,
        source: format!("/windlass/{}/{}", n.environment, n.pipeline),
        kind: format!("dev.windlass.incident.{}", kind_word(n.kind)),
        subject: &n.incident,
        time: n.at.to_string(),
        datacontenttype: "application/json",
        data: Data {
            incident: &n.incident,
            state: kind_word(n.kind),
            severity: n.severity,
            title: one_line(&n.title, MAX_LINE),
            cut: matches!(text, Cow::Owned(_)) || facts.len() < n.facts.len(),
            body: text,
            environment: n.environment.as_str(),
            pipeline: n.pipeline.as_str(),
            run: n.run.to_string(),
            owner: n.owner.as_ref().map(|o| one_line(o, MAX_LINE)),
            facts,
        },
    })
}

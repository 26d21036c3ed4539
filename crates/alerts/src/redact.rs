//! Takes secrets out of text, at the last step before the text leaves the process.
//!
//! Two sources: values that are known to be secret, and patterns that give a secret away wherever
//! it came from (a URL's user part, `sig=`, `AccountKey=`, `password=`, bearer tokens, PEM blocks,
//! keys of well-known services). Values under [`Redactor::SHORTEST`] characters are skipped:
//! taking out an empty or one-letter value would destroy every text and hide nothing.
//!
//! Redacting is a fold over text without state: the same text gives the same result, and redacting
//! twice changes nothing more (but for a value that begins or ends like the mask). It deliberately
//! knows no file, no environment and no entropy guess: a digest in a message is worth reading.

use std::fmt;

use windlass_core::{Notification, Secret};

mod patterns;

/// How often patterns are looked for: each time that one was found, another may show.
const MOST_PASSES: usize = 16;
/// What stands where a secret was.
const MASK: &str = "***";

/// Takes known secret values, and what looks like a secret, out of text.
///
/// ```
/// use windlass_alerts::Redactor;
/// use windlass_core::Secret;
///
/// let redactor = Redactor::new([Secret::new("hunter2-is-long")]);
/// assert_eq!(redactor.redact("login hunter2-is-long failed"), "login *** failed");
/// assert_eq!(
///     redactor.redact("postgres://app:pa55@db/scores refused"),
///     "postgres://***@db/scores refused",
/// );
/// ```
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another one goes as a whole.
    known: Vec<String>,
}

impl Redactor {
    /// Fewest characters of a known value that is taken out.
    pub const SHORTEST: usize = 6;

    /// Returns a redactor of those values and of all patterns.
    ///
    /// A value is also known in its percent-encoded form, and a value of several lines by each of
    /// its lines, since tools print it that way.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self::default().and(secrets)
    }

    /// Returns a redactor of patterns alone.
    #[must_use]
    pub fn patterns() -> Self {
        Self::default()
    }

    /// Adds values that are known to be secret.
    #[must_use]
    pub fn and(mut self, secrets: impl IntoIterator<Item = Secret>) -> Self {
        for secret in secrets {
            let value = secret.expose().trim();
            for form in [value.to_owned(), percent_encoded(value)] {
                self.learn(&form);
            }
            for line in value.lines() {
                self.learn(line.trim());
            }
        }
        self.known
            .sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.known.dedup();
        self
    }

    fn learn(&mut self, value: &str) {
        if value.chars().count() >= Self::SHORTEST {
            self.known.push(value.to_owned());
        }
    }

    /// Returns the text without secrets; `***` stands where one was.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // What is masked may have hidden a pattern around it, such as a `/` in front of an `@`.
        for _ in 0..MOST_PASSES {
            let masked = patterns::mask(&self.without_known(&text));
            if masked == text {
                break;
            }
            text = masked;
        }
        text
    }

    fn without_known(&self, text: &str) -> String {
        let found = self.known.iter().filter(|v| text.contains(v.as_str()));
        found.fold(text.to_owned(), |text, value| text.replace(value, MASK))
    }

    /// Returns the notification with every free text redacted: title, body, owner and facts.
    ///
    /// Ids and names are left: they are made or checked by Windlass, and receivers fold by them.
    #[must_use]
    pub fn notification(&self, notification: &Notification) -> Notification {
        let mut clean = notification.clone();
        clean.title = self.redact(&clean.title);
        clean.body = self.redact(&clean.body);
        clean.owner = clean.owner.map(|o| self.redact(&o));
        clean.facts = clean
            .facts
            .iter()
            .map(|(name, value)| (self.redact(name), self.redact_fact(name, value)))
            .collect();
        clean
    }

    /// A fact is `name=value` in a table, so its name can give its value away.
    fn redact_fact(&self, name: &str, value: &str) -> String {
        if patterns::names_a_secret(name) && !value.is_empty() {
            MASK.to_owned()
        } else {
            self.redact(value)
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} values)", self.known.len())
    }
}

/// Encodes everything but RFC 3986's unreserved characters.
fn percent_encoded(value: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_and_short_values_change_nothing() {
        let text = "every character of this text stays as it is, even x";
        for secret in ["", " ", "x", "e", "chara", "\n"] {
            assert_eq!(Redactor::new([Secret::new(secret)]).redact(text), text);
        }
    }

    #[test]
    fn a_known_value_goes_in_every_form() {
        let r = Redactor::new([
            Secret::new("p@ss/word one"),
            Secret::new("ab\nline-of-key\n"),
        ]);
        assert_eq!(r.redact("got p@ss/word one."), "got ***.");
        assert_eq!(r.redact("got p%40ss%2Fword%20one."), "got ***.");
        assert_eq!(r.redact("got line-of-key ab"), "got *** ab");
    }

    #[test]
    fn the_longer_of_two_values_goes_as_a_whole() {
        let r = Redactor::new([Secret::new("secret"), Secret::new("secret-longer")]);
        assert_eq!(r.redact("secret-longer, secret"), "***, ***");
    }

    #[test]
    fn a_pattern_that_shows_when_another_is_masked_goes_too() {
        let text = "go://a:pwd=x/y&z@host";
        let once = Redactor::patterns().redact(text);
        assert_eq!(Redactor::patterns().redact(&once), once);
        assert!(!once.contains("z@"), "{once}");
    }

    #[test]
    fn a_value_that_the_mask_completes_goes_too() {
        let r = Redactor::new([Secret::new("*hunter")]);
        let once = r.redact("*hunterhunter2");
        assert_eq!(r.redact(&once), once);
    }

    #[test]
    fn debug_shows_no_value() {
        let r = Redactor::new([Secret::new("canary-value")]);
        assert_eq!(format!("{r:?}"), "Redactor(1 values)");
    }

    proptest! {
        #[test]
        fn redacting_twice_is_redacting_once(text in ".{0,200}", secret in ".{6,20}") {
            let r = Redactor::new([Secret::new(secret)]);
            let once = r.redact(&text);
            prop_assert_eq!(r.redact(&once), once);
        }

        #[test]
        fn a_known_value_never_survives(head in ".{0,40}", tail in ".{0,40}", secret in "[a-zA-Z0-9/+=:@&;-]{6,40}") {
            let r = Redactor::new([Secret::new(secret.clone())]);
            let out = r.redact(&format!("{head}{secret}{tail}"));
            prop_assert!(!out.contains(secret.as_str()), "{}", out);
        }
    }
}

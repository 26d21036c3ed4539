//! What looks like a secret: one pass over the text, no regular expressions, linear in its length.
//!
//! Each matcher looks at one position and says which bytes to keep and which to mask. A match
//! masks rather too much than too little: a lost word costs less than a lost key.

use super::MASK;

/// Bytes to copy as they are, then bytes to mask, counted from the position.
struct Hit {
    keep: usize,
    mask: usize,
}

/// Keys whose value is a secret after `=` or `:`. Compared without case, `-` and `_` alike.
const KEYS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "accountkey",
    "account_key",
    "sharedaccesskey",
    "sharedaccesssignature",
    "client_secret",
    "secret_access_key",
    "secretaccesskey",
    "secret_key",
    "access_token",
    "refresh_token",
    "session_token",
    "security_token",
    "auth_token",
    "api_key",
    "apikey",
    "private_key",
    "x_amz_signature",
    "x_api_key",
];

/// Keys that are also plain words or very short: only after `=`, or quoted as in JSON.
const WEAK_KEYS: &[&str] = &["sig", "token", "secret", "credential", "signature"];

/// Starts of tokens that say themselves what they are, with the fewest characters that follow.
const TOKENS: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("whsec_", 16),
    ("eyJ", 30),
];

/// Returns the text with everything masked that looks like a secret.
pub(super) fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let before = text[..at].chars().next_back();
        match may_start(c).then(|| find(before, &text[at..])).flatten() {
            Some(Hit { keep, mask }) => {
                out.push_str(&text[at..at + keep]);
                out.push_str(MASK);
                at += keep + mask;
            }
            None => {
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    out
}

/// True for the first characters of all patterns; most of a text is passed over by it.
const fn may_start(c: char) -> bool {
    matches!(c, ':' | '-')
        || matches!(
            c.to_ascii_lowercase(),
            'a' | 'b' | 'c' | 'e' | 'g' | 'p' | 'r' | 's' | 't' | 'w' | 'x'
        )
}

/// Returns true if a value under that name is a secret: `password`, `db_password`, `API-Key`.
pub(super) fn names_a_secret(name: &str) -> bool {
    KEYS.iter().chain(WEAK_KEYS).any(|key| {
        let start = name.len().wrapping_sub(key.len());
        name.get(start..)
            .is_some_and(|end| starts_with_key(end, key).is_some())
    })
}

fn find(before: Option<char>, rest: &str) -> Option<Hit> {
    match rest.as_bytes().first()? {
        b':' => url_user(rest),
        b'-' => pem(rest),
        b'a'..=b'z' | b'A'..=b'Z' => {
            let starts_word = !before.is_some_and(char::is_alphanumeric);
            // `DB_PASSWORD` and `dbPassword` name a password, too; `sig` and `token` must stand alone.
            assignment(rest, starts_word)
                .or_else(|| starts_word.then(|| authorization(rest)).flatten())
                .or_else(|| {
                    (starts_word && before != Some('_'))
                        .then(|| token(rest))
                        .flatten()
                })
        }
        _ => None,
    }
}

/// `://user:password@host`: the user part goes (RFC 3986, section 3.2.1).
fn url_user(rest: &str) -> Option<Hit> {
    let authority = rest.strip_prefix("://")?;
    let end = authority
        .find(|c: char| c.is_whitespace() || "/?#\"'<>`\\".contains(c))
        .unwrap_or(authority.len());
    let user = authority[..end].rfind('@')?;
    hit(3, user)
}

/// A PEM block (RFC 7468) goes from its first line to its last, or to the end of a cut text.
fn pem(rest: &str) -> Option<Hit> {
    const END: &str = "-----END ";
    let body = rest.strip_prefix("-----BEGIN ")?;
    let start = rest.len() - body.len();
    let end = body.find(END).map_or(rest.len(), |at| {
        let tail = start + at + END.len();
        rest[tail..]
            .find("-----")
            .map_or(rest.len(), |dashes| tail + dashes + "-----".len())
    });
    hit(0, end)
}

/// `key=value`, `key: value`, `"key": "value"`.
fn assignment(rest: &str, starts_word: bool) -> Option<Hit> {
    let strong = KEYS
        .iter()
        .filter_map(|key| starts_with_key(rest, key))
        .max();
    let weak = || {
        WEAK_KEYS
            .iter()
            .filter(|_| starts_word)
            .filter_map(|key| starts_with_key(rest, key))
            .max()
    };
    let (key, is_strong) = match strong {
        Some(key) => (key, true),
        None => (weak()?, false),
    };
    let after = &rest[key..];
    let unquoted = after
        .strip_prefix("\\\"")
        .or_else(|| after.strip_prefix(['"', '\'']))
        .unwrap_or(after);
    let was_quoted = unquoted.len() < after.len();
    let spaced = unquoted.trim_start_matches([' ', '\t']);
    let value = spaced.strip_prefix('=').or_else(|| {
        (is_strong || was_quoted)
            .then(|| spaced.strip_prefix(':'))
            .flatten()
    })?;
    let value = value.trim_start_matches([' ', '\t']);
    let (open, end) = value_extent(value);
    hit(rest.len() - value.len() + open, end - open)
}

/// Returns where a value begins behind its quote, and where it ends.
fn value_extent(value: &str) -> (usize, usize) {
    for quote in ["\\\"", "\"", "'"] {
        if let Some(inner) = value.strip_prefix(quote) {
            return (quote.len(), quote.len() + quoted_end(inner, quote));
        }
    }
    let end = value
        .find(|c: char| c.is_whitespace() || "&;\"'<>`".contains(c))
        .unwrap_or(value.len());
    (0, end)
}

/// The closing quote, or the end of the line where a cut text has none.
fn quoted_end(inner: &str, quote: &str) -> usize {
    let mut from = 0;
    while let Some(found) = inner[from..].find(quote) {
        let at = from + found;
        // A backslash before the quote escapes it, unless the quote is itself the escaped kind.
        if quote.len() > 1 || !inner[..at].ends_with('\\') {
            return at;
        }
        from = at + quote.len();
    }
    inner.find('\n').unwrap_or(inner.len())
}

/// `Authorization: Scheme credentials` goes up to the end of the line or quote; `Bearer x` anywhere.
fn authorization(rest: &str) -> Option<Hit> {
    if let Some(len) = starts_with_key(rest, "authorization") {
        let value = rest[len..].trim_start_matches(['"', '\'', ' ', '\\']);
        let value = value.strip_prefix([':', '='])?;
        let value = value.trim_start_matches(['"', '\'', ' ', '\\']);
        let end = value
            .find(|c: char| "\"'\r\n".contains(c))
            .unwrap_or(value.len());
        return hit(rest.len() - value.len(), end);
    }
    let len = starts_with_key(rest, "bearer")?;
    let value = rest[len..].trim_start_matches(' ');
    let end = token_len(value);
    (value.len() < rest.len() - len && end >= 6)
        .then(|| hit(rest.len() - value.len(), end))
        .flatten()
}

/// A token whose first letters give it away.
fn token(rest: &str) -> Option<Hit> {
    TOKENS.iter().find_map(|(start, least)| {
        let tail = rest.strip_prefix(start)?;
        let len = token_len(tail);
        (len >= *least).then(|| hit(0, start.len() + len)).flatten()
    })
}

/// Length of what may stand in a bearer token (RFC 6750, section 2.1).
fn token_len(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/=".contains(c)))
        .unwrap_or(text.len())
}

/// Returns the length of the key at the start of the text, if it is there.
fn starts_with_key(text: &str, key: &str) -> Option<usize> {
    let head = text.as_bytes().get(..key.len())?;
    let same = |(a, b): (&u8, u8)| {
        let a = if *a == b'-' {
            b'_'
        } else {
            a.to_ascii_lowercase()
        };
        a == b
    };
    head.iter().zip(key.bytes()).all(same).then_some(key.len())
}

/// An empty secret is no hit.
fn hit(keep: usize, mask: usize) -> Option<Hit> {
    (mask > 0).then_some(Hit { keep, mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_masks_its_secret_and_nothing_else() {
        for (text, clean) in [
            (
                "at https://app:s3cr3t@db.example:5432/x?y=1",
                "at https://***@db.example:5432/x?y=1",
            ),
            ("redis://:s3cr3t@cache", "redis://***@cache"),
            (
                "https://x.example/b?sv=1&sig=abc%2Bdef&se=2",
                "https://x.example/b?sv=1&sig=***&se=2",
            ),
            (
                "AccountName=lake;AccountKey=abc+/==;Suffix=x",
                "AccountName=lake;AccountKey=***;Suffix=x",
            ),
            ("DB_PASSWORD=hunter2 next", "DB_PASSWORD=*** next"),
            ("password: hunter2", "password: ***"),
            ("password = 'two words' left", "password = '***' left"),
            (
                r#"{"password": "a\"b", "user": "u"}"#,
                r#"{"password": "***", "user": "u"}"#,
            ),
            (r#"{\"token\": \"abcdef\"}"#, r#"{\"token\": \"***\"}"#),
            (
                "Authorization: Basic dXNlcjpwYXNz\nnext",
                "Authorization: ***\nnext",
            ),
            ("sent Bearer abc.def-123 to it", "sent Bearer *** to it"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
            (
                "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG",
                "aws_secret_access_key=***",
            ),
            ("X-Amz-Signature=deadbeef&x=1", "X-Amz-Signature=***&x=1"),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter",
                "***\nafter",
            ),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIE cut", "***"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "***"),
        ] {
            assert_eq!(mask(text), clean, "{text}");
        }
    }

    #[test]
    fn every_pattern_passes_the_first_look() {
        let firsts = KEYS.iter().chain(WEAK_KEYS).copied();
        let firsts = firsts.chain(TOKENS.iter().map(|(start, _)| *start));
        for start in firsts.chain(["authorization", "bearer", "://", "-----"]) {
            assert!(start.starts_with(may_start), "{start}");
        }
    }

    #[test]
    fn plain_words_stay() {
        for text in [
            "unexpected token: `}` at line 3",
            "the bearer of bad news",
            "password must have 12 characters",
            "see https://example.com/@team/page and user@example.com",
            "config=1 design=2 sigma=0.3",
            "sha256:9f86d081884c7d659a2feaa0c55ad015",
            "wl1:0123456789abcdef0123456789abcdef",
            "1/2 -- -----",
            "",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    #[test]
    fn a_name_can_give_its_value_away() {
        assert!(names_a_secret("password") && names_a_secret("API-Key"));
        assert!(names_a_secret("db_password") && names_a_secret("hook-token"));
        assert!(!names_a_secret("step") && !names_a_secret("password_age"));
    }
}

//! Signatures of Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`, symmetric keys only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use windlass_core::Secret;

use super::InvalidWebhook;

/// A key that webhooks are signed with, written `whsec_` and base64 of 24 to 64 bytes.
///
/// ```
/// use windlass_alerts::SigningKey;
/// use windlass_core::Secret;
///
/// let key = SigningKey::parse(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
/// assert!(key.is_ok());
/// assert!(SigningKey::parse(&Secret::new("whsec_c2hvcnQ=")).is_err());
/// ```
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`InvalidWebhook`] if the prefix, the encoding or the length is wrong; it never shows the key.
    pub fn parse(secret: &Secret) -> Result<Self, InvalidWebhook> {
        let text = secret.expose().trim();
        let encoded = text
            .strip_prefix("whsec_")
            .ok_or(InvalidWebhook::KEY_PREFIX)?;
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| InvalidWebhook::KEY_ENCODING)?;
        if (24..=64).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(InvalidWebhook::KEY_LENGTH)
        }
    }

    /// Returns `v1,` and the base64 of the signature.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            // HMAC takes keys of every length (RFC 2104), so this is never reached; an empty
            // signature would only be refused by the receiver.
            return String::new();
        };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_example_of_the_standard() {
        // The example in the text of Standard Webhooks, "Webhook signature".
        let key = SigningKey::parse(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        let signature = key.unwrap().sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn keys_of_another_form_are_refused_without_showing_them() {
        for bad in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_%%%",
            "whsec_",
        ] {
            let error = SigningKey::parse(&Secret::new(bad)).unwrap_err();
            assert!(bad.len() < 7 || !error.to_string().contains(bad), "{error}");
        }
    }
}

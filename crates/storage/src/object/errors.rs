//! What `object_store` said, in the words of [`StorageError`].

use object_store::Error;
use windlass_core::{ObjectKey, StorageError, StorageErrorKind};

use crate::reserved;

pub(super) fn convert(key: &ObjectKey, e: Error) -> StorageError {
    let (kind, what) = match &e {
        Error::NotFound { .. } => return reserved::not_found(key).with_source(e),
        Error::AlreadyExists { .. } => return reserved::already_exists(key).with_source(e),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            return reserved::conflict(key).with_source(e);
        }
        Error::PermissionDenied { .. } => (
            StorageErrorKind::Denied,
            "the service refused access: check the grants of these credentials",
        ),
        Error::Unauthenticated { .. } => (
            StorageErrorKind::Denied,
            "the service refused the credentials",
        ),
        Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            (StorageErrorKind::Unsupported, "the service can't do that")
        }
        Error::InvalidPath { .. } => (
            StorageErrorKind::Unsupported,
            "the service can't hold such a key",
        ),
        Error::UnknownConfigurationKey { .. } => (
            StorageErrorKind::Unsupported,
            "the storage has no such option",
        ),
        Error::Generic { .. } => generic(&e),
        _ => (StorageErrorKind::Internal, "the storage failed"),
    };
    StorageError::new(kind, format!("{what} key=`{key}`")).with_source(e)
}

/// Tells apart what `object_store` has no variant for.
///
/// Its error with the status of the answer can't be named from outside, so the status is read from
/// the text; a text that changed makes an error `Unavailable`, which is tried again and then told.
fn generic(e: &Error) -> (StorageErrorKind, &'static str) {
    let text = windlass_core::error_chain(e);
    let status = text
        .split_once("status code: ")
        .and_then(|(_, rest)| rest.get(..3))
        .and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(408 | 429 | 500..) | None => (
            StorageErrorKind::Unavailable,
            "the service can't be reached or is too busy",
        ),
        Some(_) => (
            StorageErrorKind::Unsupported,
            "the service refused the request as wrong",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_whether_to_try_again() {
        for (text, kind) in [
            (
                "Server returned non-2xx status code: 503 Slow Down: x",
                StorageErrorKind::Unavailable,
            ),
            (
                "Server returned non-2xx status code: 400 Bad Request: x",
                StorageErrorKind::Unsupported,
            ),
            ("connection refused", StorageErrorKind::Unavailable),
        ] {
            let e = Error::Generic {
                store: "S3",
                source: text.into(),
            };
            assert_eq!(convert(&ObjectKey::root(), e).kind(), kind, "{text}");
        }
    }
}

//! Names that a storage keeps for itself, in every implementation, so that what is written to one
//! can be copied to any other.
//!
//! A part `.windlass` holds locks and scratch objects; a part that starts with `.windlass-` is an
//! object that is still being written. Neither is ever listed, read or written through the trait.

use windlass_core::{ObjectKey, StorageError};

/// The folder of locks and scratch objects.
pub(crate) const OWN: &str = ".windlass";
/// How the name of an unfinished object starts.
pub(crate) const STAGING: &str = ".windlass-";

pub(crate) fn is_reserved(key: &str) -> bool {
    key.split('/')
        .any(|part| part == OWN || part.starts_with(STAGING))
}

/// Refuses keys that name no object: the root, and reserved ones.
pub(crate) fn check_object(key: &ObjectKey) -> Result<(), StorageError> {
    if key.as_str().is_empty() {
        return Err(StorageError::unsupported(
            "the root of a storage is no object: name one below it",
        ));
    }
    if is_reserved(key.as_str()) {
        return Err(StorageError::unsupported(format!(
            "names `{OWN}` and `{STAGING}…` are reserved by the storage: choose another key=`{key}`"
        )));
    }
    Ok(())
}

pub(crate) fn not_found(key: &ObjectKey) -> StorageError {
    StorageError::not_found(format!("no object there key=`{key}`"))
}

pub(crate) fn already_exists(key: &ObjectKey) -> StorageError {
    StorageError::already_exists(format!("an object is there already key=`{key}`"))
}

pub(crate) fn conflict(key: &ObjectKey) -> StorageError {
    StorageError::conflict(format!(
        "the object changed since it was read: read it again key=`{key}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_reserved() {
        for (key, reserved) in [
            (".windlass/locks/00", true),
            ("a/.windlass", true),
            ("a/.windlass-1-2.part", true),
            ("a/.windlasses", false),
            ("windlass", false),
            ("a/b", false),
        ] {
            assert_eq!(is_reserved(key), reserved, "{key}");
        }
        assert!(check_object(&ObjectKey::root()).is_err());
    }
}

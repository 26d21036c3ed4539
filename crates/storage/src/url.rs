//! From a URL to the storage that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::{Storage, StorageError};

use crate::{MemoryStorage, ObjectStorage};

/// Opens the storage that `url` names: `file:///PATH` or a plain path, `memory://`, or what
/// [`ObjectStorage::open`] takes, with its options.
///
/// # Errors
/// [`windlass_core::StorageErrorKind::Unsupported`] says what is wrong with the URL or an option, or which feature is
/// missing; otherwise as the storage's own `open`.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_storage::open_url;
/// let storage = open_url("memory://", &Default::default()).await?;
/// assert!(storage.capabilities().compare_and_swap);
/// let wrong = open_url("ftp://somewhere/x", &Default::default()).await;
/// assert!(wrong.unwrap_err().to_string().contains("scheme=`ftp`"));
/// # Ok(()) }
/// ```
pub async fn open_url(
    url: &str,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn Storage>, StorageError> {
    match url.split_once("://") {
        None => local(url, options),
        Some(("file", path)) => match path.strip_prefix("localhost").unwrap_or(path) {
            path if path.starts_with('/') => local(path, options),
            _ => Err(StorageError::unsupported(format!(
                "a file URL names an absolute path of this host: write file:///PATH, or a relative path without file:// url=`{url}`"
            ))),
        },
        Some(("memory", "" | "/")) => {
            refuse_options(options)?;
            Ok(Arc::new(MemoryStorage::new()))
        }
        Some(_) => Ok(Arc::new(ObjectStorage::open(url, options).await?)),
    }
}

fn refuse_options(options: &BTreeMap<String, String>) -> Result<(), StorageError> {
    match options.keys().next() {
        None => Ok(()),
        Some(name) => Err(StorageError::unsupported(format!(
            "the storage has no such option option=`{name}`"
        ))),
    }
}

#[cfg(all(feature = "local", unix))]
fn local(path: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn Storage>, StorageError> {
    if path.is_empty() {
        return Err(StorageError::unsupported(
            "the storage's path is empty: write `.` for the current folder",
        ));
    }
    refuse_options(options)?;
    Ok(Arc::new(crate::LocalStorage::open(path)?))
}

#[cfg(not(all(feature = "local", unix)))]
fn local(
    _path: &str,
    _options: &BTreeMap<String, String>,
) -> Result<Arc<dyn Storage>, StorageError> {
    Err(StorageError::unsupported(
        "this program was built without local storage: build it on Unix with the feature `local` of windlass-storage",
    ))
}

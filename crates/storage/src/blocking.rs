//! Blocking work on tokio's blocking pool.

use windlass_core::StorageError;

/// Runs `work` where it may block.
///
/// # Cancel safety
/// If the future is dropped, `work` still runs to its end; what it returns is dropped.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, StorageError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StorageError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| StorageError::internal("blocking work did not end").with_source(e))?
}

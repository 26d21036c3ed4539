//! What the tests do with every store that is a file.

use std::path::Path;

use windlass_core::run_store::{RunStore, StoreError};
use windlass_state::SqliteStore;

pub(crate) trait FileStore: RunStore + Sized + 'static {
    /// What a child is told to open.
    const NAME: &'static str;

    fn open_at(path: &Path) -> impl Future<Output = Result<Self, StoreError>> + Send;

    fn close_it(self) -> impl Future<Output = ()> + Send;

    /// Returns what is wrong with the file, as far as the store can tell.
    fn problems(&self) -> impl Future<Output = Vec<String>> + Send;
}

impl FileStore for SqliteStore {
    const NAME: &'static str = "sqlite";

    async fn open_at(path: &Path) -> Result<Self, StoreError> {
        Self::open(path).await
    }

    async fn close_it(self) {
        self.close().await;
    }

    async fn problems(&self) -> Vec<String> {
        self.check().await.unwrap()
    }
}

#[cfg(feature = "redb")]
impl FileStore for windlass_state::RedbStore {
    const NAME: &'static str = "redb";

    async fn open_at(path: &Path) -> Result<Self, StoreError> {
        Self::open(path).await
    }

    async fn close_it(self) {
        self.close().await;
    }

    async fn problems(&self) -> Vec<String> {
        // Opening it after a crash has walked the whole file.
        Vec::new()
    }
}

//! A notifier that appends each notification to a file, one JSON object a line.
//!
//! It deliberately keeps repeats: a reader drops those whose id it has seen.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::{fs::OpenOptions, io::AsyncWriteExt};
use windlass::{Notification, Notifier, NotifyError, Receipt, Redactor};

/// Appends to a file.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    redactor: Redactor,
}

impl JsonLines {
    pub(crate) fn new(path: impl Into<PathBuf>, redactor: Redactor) -> Self {
        Self {
            path: path.into(),
            redactor,
        }
    }
}

#[async_trait]
impl Notifier for JsonLines {
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError> {
        let safe = self.redactor.notification(notification);
        let mut line =
            serde_json::to_string(&safe).map_err(|e| NotifyError::refused(e.to_string()))?;
        line.push('\n');
        // One write for a whole line, so that two notifications never mix; delivered is on disk.
        let append = async {
            let open = OpenOptions::new().append(true).create(true).clone();
            let mut file = open.open(&self.path).await?;
            file.write_all(line.as_bytes()).await?;
            file.sync_data().await
        };
        // A disk that is full now may have room later.
        let appended: std::io::Result<()> = append.await;
        appended.map_err(|e| NotifyError::unavailable(e.to_string()))?;
        Ok(Receipt::default())
    }
}

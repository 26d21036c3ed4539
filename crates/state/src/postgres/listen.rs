//! Waits for what other hosts and callers say: LISTEN on a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::Either;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;
use windlass_core::run_store::StoreError;

use super::PostgresOptions;
use super::connect::{Purpose, Server, set_up};

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens from the first wait on, until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    ear: Ear,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone)]
struct Ear {
    server: Server,
    options: PostgresOptions,
    host: String,
    heard: Arc<Notify>,
}

impl Listener {
    pub(super) fn new(server: Server, options: PostgresOptions, host: String) -> Self {
        let heard = Arc::new(Notify::new());
        Self {
            ear: Ear {
                server,
                options,
                host,
                heard,
            },
            task: Mutex::new(None),
        }
    }

    pub(super) async fn woken(&self) {
        self.start();
        // What came in before is kept as one.
        self.ear.heard.notified().await;
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(tokio::spawn(self.ear.clone().listen()));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl Ear {
    async fn listen(self) {
        loop {
            if let Err(error) = self.until_it_ends().await {
                tracing::debug!(%error, "no news from the database for now");
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "a real network is waited for in real time; a simulation has no such store"
            )]
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until_it_ends(&self) -> Result<(), StoreError> {
        let (client, mut messages) = self.server.dial(Purpose::Listen).await?;
        let schema = &self.options.schema;
        let set_up = async {
            set_up(&client, &self.options, Purpose::Listen).await?;
            let listen = format!("LISTEN \"windlass:{schema}\"");
            let listening = client.batch_execute(&listen).await;
            listening.map_err(|e| super::error::failed("listen", e))?;
            // What was said while nobody listened is not said again.
            self.heard.notify_one();
            // The connection ends with the client.
            std::future::pending::<Result<(), StoreError>>().await
        };
        let hear = async {
            while let Some(message) = messages.next().await {
                let ended = |e| super::error::failed("send news", e);
                match message.map_err(ended)? {
                    AsyncMessage::Notification(news) if news.payload() != self.host => {
                        self.heard.notify_one();
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        let (set_up, hear) = (std::pin::pin!(set_up), std::pin::pin!(hear));
        match futures::future::select(set_up, hear).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    }
}

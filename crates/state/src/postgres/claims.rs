//! Rights that one host has at a time: advisory locks of a session of its own.
//!
//! The server gives them up with the session, so a host that died holds none, and nothing of them is
//! written. The session is made at the first claim. One whose lock can't be given back is ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Client;
use windlass_core::run_store::StoreError;
use windlass_core::{Claim, Digest};

use super::PostgresOptions;
use super::connect::{PATIENCE, Purpose, Server, in_time, open};
use super::error::failed;

/// The way to the session.
#[derive(Debug)]
pub(super) struct Claims {
    server: Server,
    options: PostgresOptions,
    session: Mutex<Option<Session>>,
}

/// Ends when nobody can claim by it any more, and everything that was claimed by it is given back.
#[derive(Debug)]
struct Session {
    client: Arc<Client>,
    returns: mpsc::UnboundedSender<i64>,
}

/// A lock that is held.
#[derive(Debug)]
struct Lock {
    number: i64,
    returns: mpsc::UnboundedSender<i64>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nobody takes it when the session has ended, and the lock with it.
        self.returns.send(self.number).ok();
    }
}

impl Claims {
    pub(super) const fn new(server: Server, options: PostgresOptions) -> Self {
        Self {
            server,
            options,
            session: Mutex::const_new(None),
        }
    }

    /// Claims it. Whoever waits for the answer may stop: a lock that comes then is given back.
    pub(super) async fn claim(self: &Arc<Self>, key: &Digest) -> Result<Option<Claim>, StoreError> {
        let (me, number) = (Arc::clone(self), number(&self.options.schema, key));
        let asked = tokio::spawn(async move { me.claim_lock(number).await });
        asked.await.unwrap_or_else(|e| {
            Err(StoreError::unavailable("a claim was given up: try again").with_source(e))
        })
    }

    async fn claim_lock(&self, number: i64) -> Result<Option<Claim>, StoreError> {
        let mut kept = self.session.lock().await;
        let patience = (self.options.lease_ttl / 3).max(Duration::from_millis(250));
        #[expect(
            clippy::disallowed_methods,
            reason = "a real network is waited for in real time; a simulation has no such store"
        )]
        let asked = tokio::time::timeout(patience, self.ask(&mut kept, number)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(StoreError::unavailable(format!(
                "the database did not answer a claim in time: try again waited=`{patience:?}`"
            )))
        });
        if answer.is_err() {
            // It may have got the lock.
            *kept = None;
        }
        answer
    }

    async fn ask(
        &self,
        kept: &mut Option<Session>,
        number: i64,
    ) -> Result<Option<Claim>, StoreError> {
        if kept.as_ref().is_none_or(|s| s.client.is_closed()) {
            let connection = open(&self.server, &self.options, Purpose::Claim).await?;
            *kept = Some(Session::begin(connection.client));
        }
        let Some(session) = kept else {
            return Err(StoreError::unavailable("there is no connection"));
        };
        let sql = "SELECT pg_try_advisory_lock($1)";
        let rows = session.client.query(sql, &[&number]).await;
        let rows = rows.map_err(|e| failed("claim a result", e))?;
        let has = rows.first().and_then(|row| row.try_get(0).ok());
        let has: bool = has.ok_or_else(|| {
            StoreError::corrupt("the database answered a claim with something else")
        })?;
        Ok(has.then(|| {
            Claim::new(Lock {
                number,
                returns: session.returns.clone(),
            })
        }))
    }
}

impl Session {
    fn begin(client: Client) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "at most one message a lock that is held"
        )]
        let (returns, mut returned) = mpsc::unbounded_channel();
        let client = Arc::new(client);
        let session = Self {
            client: Arc::clone(&client),
            returns,
        };
        tokio::spawn(async move {
            while let Some(number) = returned.recv().await {
                let sql = "SELECT pg_advisory_unlock($1)";
                let unlocked = in_time(PATIENCE, client.query(sql, &[&number])).await;
                if !matches!(unlocked, Some(Ok(_))) {
                    tracing::debug!("a claim could not be given back; its connection ends");
                    return;
                }
            }
        });
        session
    }
}

/// Returns the number of a lock. Locks are of the whole database: a store's are apart by its schema.
fn number(schema: &str, key: &Digest) -> i64 {
    let digest = Digest::of(format!("windlass {schema} {key}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    i64::from_be_bytes(first)
}

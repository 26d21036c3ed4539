//! How a writer begins: after everything that an earlier one of this host may have sent is settled.
//!
//! A commit that got no answer may lie in a socket, or run on in the server. Its connection is ended,
//! and then the host's row in `writer` is changed: a commit that got as far as its fence has locked the
//! row, so the change waits until it is in or not; one that gets there later finds another session, and
//! fails. After that nothing of the earlier connection can appear.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio_postgres::{Client, Error};
use windlass_core::run_store::StoreError;

use super::connect::{Purpose, Server, open};
use super::error::failed;
use super::pool::Pool;
use super::write::{self, Request, Writer};
use super::{PostgresOptions, lease};

/// Commits that may wait, before whoever asks must wait.
const QUEUE: usize = 4_096;

/// Names a connection on the server's side.
#[derive(Debug, Clone)]
struct Backend {
    pid: i32,
    /// Numbers of processes are used again.
    started: String,
}

/// A writer at work, and the way to it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) requests: mpsc::Sender<Request>,
    /// Why it stopped, once it did.
    pub(super) stopped: Arc<OnceLock<String>>,
    backend: Backend,
}

impl Session {
    pub(super) fn stop_error(&self) -> StoreError {
        let why = self.stopped.get().map(String::as_str);
        write::stop_error(why.unwrap_or("its task ended"))
    }
}

/// Begins to write, after `before` if there was one.
pub(super) async fn begin(
    server: &Server,
    options: &PostgresOptions,
    share: &lease::Share,
    pool: &Pool,
    before: Option<&Session>,
) -> Result<Session, StoreError> {
    let db = open(server, options, Purpose::Write).await?;
    if let Some(before) = before {
        end(&db.client, &before.backend)
            .await
            .map_err(|e| failed("end an earlier connection", e))?;
        pool.forget();
    }
    let taken = take_over(&db.client, share).await;
    let (session, backend) = taken.map_err(|e| failed("begin to write", e))?;
    let held = Arc::clone(&share.held);
    let writer = Writer::new(db, share.host.clone(), session, held, options).await;
    let writer = writer.map_err(|e| failed("prepare its statements", e))?;
    let (requests, received) = mpsc::channel(QUEUE);
    let stopped = Arc::new(OnceLock::new());
    tokio::spawn(write::run(writer, received, Arc::clone(&stopped)));
    Ok(Session {
        requests,
        stopped,
        backend,
    })
}

async fn end(db: &Client, backend: &Backend) -> Result<(), Error> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE pid = $1 AND backend_start::text = $2 AND pid <> pg_backend_pid()";
    db.query(sql, &[&backend.pid, &backend.started]).await?;
    Ok(())
}

/// Makes this connection the only one that commits for the host.
async fn take_over(db: &Client, share: &lease::Share) -> Result<(i64, Backend), Error> {
    let (host, name) = (&share.host, &share.name);
    let known = "INSERT INTO host (id, name, seen_at, expires_at, draining) \
        SELECT $1, $2, at, at, false FROM now_micros() AS at ON CONFLICT (id) DO NOTHING";
    db.execute(known, &[host, name]).await?;
    let sql = "INSERT INTO writer AS mine (host, session) VALUES ($1, now_micros()) \
        ON CONFLICT (host) DO UPDATE SET session = greatest(mine.session + 1, now_micros()) RETURNING session";
    let session = db.query_one(sql, &[host]).await?.try_get(0)?;
    let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let row = db.query_one(sql, &[]).await?;
    let backend = Backend {
        pid: row.try_get(0)?,
        started: row.try_get(1)?,
    };
    Ok((session, backend))
}

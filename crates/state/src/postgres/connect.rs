//! One connection: how it is made, what it is set to, and statements that go out together.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::future::{MaybeDone, maybe_done};
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Row, Statement};
use windlass_core::run_store::StoreError;

use super::PostgresOptions;
use super::error::failed;

/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long what was sent may stay without an answer of the network.
const UNANSWERED: Duration = Duration::from_secs(15);

/// How long the server may take over anything before its connection counts as lost; it gives up by
/// itself earlier, unless it stands still.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Waits as long as that; `None` if nothing came.
pub(super) async fn in_time<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a real network is waited for in real time; a simulation has no such store"
    )]
    let done = tokio::time::timeout(patience, work).await;
    done.ok()
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
    Lease,
    Listen,
    Claim,
    Migrate,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "windlass read",
            Self::Write => "windlass write",
            Self::Lease => "windlass lease",
            Self::Listen => "windlass listen",
            Self::Claim => "windlass claim",
            Self::Migrate => "windlass migrate",
        }
    }
}

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Server {
    config: Config,
    /// `None` where it is spoken to in the clear.
    #[cfg(feature = "postgres-tls")]
    tls: Option<tokio_postgres_rustls::MakeRustlsConnect>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts();
        f.debug_tuple("Server").field(&hosts).finish()
    }
}

impl Server {
    /// Reads the connection string, which may hold a password and so never enters a message.
    pub(super) fn of(options: &PostgresOptions) -> Result<Self, StoreError> {
        // More than libpq's `require` is always checked.
        let url = options
            .url
            .replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = url.parse().map_err(|e: Error| {
            let why = std::error::Error::source(&e).map(ToString::to_string);
            StoreError::incompatible(format!(
                "the connection string can't be read: write postgres://USER:PASSWORD@HOST:PORT/DATABASE why=`{}`",
                why.unwrap_or_default()
            ))
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(UNANSWERED);
        }
        config.keepalives_idle(UNANSWERED);
        let secure = wants_tls(&config);
        config.ssl_mode(if secure {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        #[cfg(not(feature = "postgres-tls"))]
        if secure {
            return Err(StoreError::incompatible(
                "the server asks for TLS, which this build can't speak: build it with the feature `postgres-tls`, or write sslmode=disable where the network is trusted",
            ));
        }
        Ok(Self {
            config,
            #[cfg(feature = "postgres-tls")]
            tls: secure.then(|| super::tls::connector(options)).transpose()?,
        })
    }

    /// Opens a connection that is set up by whoever moves its messages.
    pub(super) async fn dial(&self, purpose: Purpose) -> Result<(Client, Messages), StoreError> {
        let mut config = self.config.clone();
        config.application_name(purpose.name());
        let failed = |e| failed("accept a connection", e);
        // A handshake is large, and rare: on the heap it takes nothing of its caller's stack.
        #[cfg(feature = "postgres-tls")]
        if let Some(tls) = self.tls.clone() {
            let connected = Box::pin(config.connect(tls)).await;
            let (client, driver) = connected.map_err(failed)?;
            return Ok((client, messages(driver)));
        }
        let connected = Box::pin(config.connect(NoTls)).await;
        let (client, driver) = connected.map_err(failed)?;
        Ok((client, messages(driver)))
    }
}

/// Without a wish, what leaves this machine is encrypted.
fn wants_tls(config: &Config) -> bool {
    let here = |host: &Host| match host {
        Host::Tcp(name) => {
            let address = name.parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|a| a.is_loopback())
        }
        Host::Unix(_) => true,
    };
    match config.get_ssl_mode() {
        SslMode::Disable => false,
        SslMode::Prefer => !config.get_hosts().iter().all(here),
        _ => true,
    }
}

/// What the server sends by itself, until the connection ends; nothing moves unless somebody takes it.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, Error>> + Send>>;

fn messages<S, T>(mut driver: tokio_postgres::Connection<S, T>) -> Messages
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(futures::stream::poll_fn(move |cx| driver.poll_message(cx)))
}

/// Opens a connection whose messages nobody wants.
pub(super) async fn open(
    server: &Server,
    options: &PostgresOptions,
    purpose: Purpose,
) -> Result<Connection, StoreError> {
    let opened = Box::pin(async {
        let (client, mut messages) = server.dial(purpose).await?;
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Err(error) = message {
                    tracing::debug!(%error, "a connection to the database ended");
                    // Whoever waits for an answer is told when this is dropped.
                    return;
                }
            }
        });
        set_up(&client, options, purpose).await?;
        Ok(Connection::new(client))
    });
    in_time(PATIENCE, opened).await.unwrap_or_else(|| {
        Err(StoreError::unavailable(format!(
            "the database accepted no connection: try again waited=`{PATIENCE:?}`"
        )))
    })
}

/// Sets what must not depend on how the server or the role is set.
pub(super) async fn set_up(
    client: &Client,
    options: &PostgresOptions,
    purpose: Purpose,
) -> Result<(), StoreError> {
    let set = client.batch_execute(&settings(options, purpose)).await;
    set.map_err(|e| failed("set up a connection", e))
}

/// How long a host may stand still in the middle of a transaction: it must not hold up whoever takes over.
pub(super) fn idle(options: &PostgresOptions) -> u128 {
    (options.lease_ttl / 3).as_millis().max(100)
}

pub(super) fn settings(options: &PostgresOptions, purpose: Purpose) -> String {
    // What an effect makes for its session only must not stand in front of the store's tables.
    let mut sql = format!(
        "SET search_path TO \"{}\", pg_temp; SET client_min_messages TO warning; SET jit TO off; \
         SET lock_timeout TO '10s'; SET idle_in_transaction_session_timeout TO {}; ",
        options.schema,
        idle(options)
    );
    if purpose != Purpose::Migrate {
        sql.push_str("SET statement_timeout TO '60s'; ");
    }
    // Each statement finds its rows by an index that is there for it, in the order that it wants, whatever
    // the server knows of the tables so far: their statistics may be hours behind.
    for other_way in ["seqscan", "bitmapscan", "hashjoin", "mergejoin", "sort"] {
        sql.push_str(&format!("SET enable_{other_way} TO off; "));
    }
    sql.push_str("SET max_parallel_workers_per_gather TO 0; ");
    if purpose == Purpose::Write {
        sql.push_str("SET plan_cache_mode TO force_generic_plan; ");
    }
    // A server that doesn't sync by itself is told to; one that waits for more than its disk keeps that.
    sql.push_str(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    );
    sql
}

/// Refuses a server that can't keep what it acknowledges.
pub(super) async fn check_server(
    client: &Client,
    options: &PostgresOptions,
) -> Result<(), StoreError> {
    let sql = "SELECT current_setting('fsync') = 'on', current_setting('server_encoding')";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|e| failed("say how it is set", e))?;
    if !row.get::<_, bool>(0) && !options.force_unsynced {
        return Err(StoreError::incompatible(
            "the server runs with fsync=off, so a crash may lose or tear what was acknowledged: turn it on, or force it for runs that may be lost",
        ));
    }
    match row.get(1) {
        "UTF8" => Ok(()),
        other => Err(StoreError::incompatible(format!(
            "the database can't hold all text: make one with ENCODING 'UTF8' encoding=`{other}`"
        ))),
    }
}

/// A client and the statements that it has prepared.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    statements: HashMap<String, Statement>,
}

impl Connection {
    fn new(client: Client) -> Self {
        Self {
            client,
            statements: HashMap::new(),
        }
    }

    /// Prepares a statement the first time.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(
        &mut self,
        sql: &str,
        args: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        self.client.query(&statement, args).await
    }
}

type Answer<'c> = Pin<Box<dyn Future<Output = Result<Vec<Row>, Error>> + Send + 'c>>;

/// Statements that are sent one behind the other, without waiting for the answers in between.
pub(super) struct Pipeline<'c> {
    client: &'c Client,
    sent: Vec<MaybeDone<Answer<'c>>>,
}

impl<'c> Pipeline<'c> {
    pub(super) const fn new(client: &'c Client) -> Self {
        Self {
            client,
            sent: Vec::new(),
        }
    }

    async fn send(&mut self, answer: Answer<'c>) {
        let mut answer = maybe_done(answer);
        // The first look at it sends it; the order of looks is the order on the wire.
        let _sent = futures::poll!(&mut answer);
        self.sent.push(answer);
    }

    /// Sends text without arguments and without rows.
    pub(super) async fn text(&mut self, sql: &'c str) {
        let client = self.client;
        let answer = async move { client.batch_execute(sql).await.map(|()| Vec::new()) };
        self.send(Box::pin(answer)).await;
    }

    /// Sends a statement.
    pub(super) async fn statement(
        &mut self,
        statement: &'c Statement,
        args: &'c [&'c (dyn ToSql + Sync)],
    ) {
        let client = self.client;
        self.send(Box::pin(client.query(statement, args))).await;
    }

    /// Waits for all answers, and returns the rows of each statement or the first error.
    pub(super) async fn answers(self) -> Result<Vec<Vec<Row>>, Error> {
        let mut rows = Vec::with_capacity(self.sent.len());
        let mut first = None;
        for mut answer in self.sent {
            (&mut answer).await;
            match Pin::new(&mut answer).take_output() {
                Some(Ok(found)) => rows.push(found),
                // What follows an error in a transaction fails for that alone.
                Some(Err(e)) => first = first.or(Some(e)),
                None => {}
            }
        }
        first.map_or(Ok(rows), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wish_what_leaves_this_machine_is_encrypted() {
        let wants = |url: &str| wants_tls(&url.parse().unwrap());
        for here in [
            "localhost",
            "127.0.0.1",
            "127.8.0.1",
            "[::1]",
            "%2Frun%2Fpostgresql",
        ] {
            assert!(!wants(&format!("postgres://u@{here}/d")), "{here}");
            assert!(
                wants(&format!("postgres://u@{here}/d?sslmode=require")),
                "{here}"
            );
        }
        for away in [
            "db.example",
            "10.0.0.7",
            "localhost,db.example",
            "localhost.example",
        ] {
            assert!(wants(&format!("postgres://u@{away}/d")), "{away}");
            assert!(
                !wants(&format!("postgres://u@{away}/d?sslmode=disable")),
                "{away}"
            );
        }
    }
}

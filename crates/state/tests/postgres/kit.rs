//! A database of a test's own, on the server that `tests/servers/servers.py` started.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, Config, NoTls};
use windlass_state::{PostgresOptions, PostgresStore};

#[expect(
    clippy::disallowed_methods,
    reason = "servers are where the caller started them"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns where the server is; says so if the test does not run for want of one.
fn server(test: &str) -> Option<String> {
    let url = variable("WINDLASS_TEST_POSTGRES");
    if url.is_none() {
        eprintln!("NOT RUN: {test} needs WINDLASS_TEST_POSTGRES, see tests/servers/servers.py");
    }
    url
}

pub(crate) async fn admin(config: &Config) -> Client {
    let (client, driver) = config.connect(NoTls).await.expect("the server accepts");
    tokio::spawn(driver);
    client
}

/// A database that is dropped with [`Self::end`].
pub(crate) struct Database {
    server: Config,
    url: String,
    name: String,
    schemas: AtomicU32,
}

impl Database {
    /// Makes a database for that test; `None` without a server.
    pub(crate) async fn of(test: &str) -> Option<Self> {
        let server = server(test)?;
        Some(Self::on(&server, test).await)
    }

    pub(crate) async fn on(server: &str, test: &str) -> Self {
        let name = format!("wt_{}_{test}", std::process::id());
        let name = name[..name.len().min(60)].to_owned();
        let config: Config = server.parse().expect("a connection string");
        let client = admin(&config).await;
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
        client
            .batch_execute(&sql)
            .await
            .expect("it makes databases");
        let (start, _) = server.rsplit_once('/').expect("an URL with a database");
        Self {
            url: format!("{start}/{name}"),
            server: config,
            name,
            schemas: AtomicU32::new(0),
        }
    }

    /// Returns options for a schema that nobody used yet.
    pub(crate) fn options(&self) -> PostgresOptions {
        let number = self.schemas.fetch_add(1, Ordering::Relaxed);
        PostgresOptions {
            schema: format!("s{number}"),
            ..PostgresOptions::new(&self.url)
        }
    }

    /// Returns options for a schema that is made.
    pub(crate) async fn migrated(&self) -> PostgresOptions {
        let options = self.options();
        PostgresStore::migrate(&options).await.expect("it migrates");
        options
    }

    pub(crate) async fn end(self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let client = admin(&self.server).await;
        client
            .batch_execute(&sql)
            .await
            .expect("it drops databases");
    }
}

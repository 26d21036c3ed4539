//! A database of a test's own, on the server that `tests/servers/servers.py` started.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};
use windlass_core::run_store::RunStore;
use windlass_core::{Lease, ShardSet};
use windlass_state::{PostgresOptions, PostgresStore};

use crate::proxy::Proxy;

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

    pub(crate) async fn client(&self) -> Client {
        admin(&self.url.parse().expect("a connection string")).await
    }

    /// Returns a client whose names are those of a schema.
    pub(crate) async fn inside(&self, options: &PostgresOptions) -> Client {
        let client = self.client().await;
        let path = format!("SET search_path TO {}", options.schema);
        client.batch_execute(&path).await.expect("a schema");
        client
    }

    /// Returns a wire to the server.
    pub(crate) async fn proxy(&self) -> Proxy {
        let [Host::Tcp(host)] = self.server.get_hosts() else {
            unreachable!("the server is named by one host");
        };
        let port = self.server.get_ports().first().copied();
        Proxy::to(host, port.unwrap_or(5_432)).await
    }

    /// Returns the URL of the database by that wire.
    pub(crate) fn url_by(&self, proxy: &Proxy) -> String {
        let (start, database) = self.url.rsplit_once('/').expect("an URL with a database");
        let role = start.rsplit_once('@').expect("an URL with a role").0;
        format!("{role}@127.0.0.1:{}/{database}", proxy.port())
    }

    /// Returns the URL of the database for another role.
    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        let host = self.url.rsplit_once('@').expect("an URL with a role").1;
        format!("postgres://{role}:{password}@{host}")
    }

    /// Drops the database; returns the server.
    pub(crate) async fn end(self) -> Config {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let client = admin(&self.server).await;
        client
            .batch_execute(&sql)
            .await
            .expect("it drops databases");
        self.server
    }
}

/// Connects a host.
pub(crate) async fn join(options: &PostgresOptions) -> PostgresStore {
    let store = PostgresStore::connect(options.clone()).await;
    store.expect("it connects")
}

/// Says that the host lives.
pub(crate) async fn renew(host: &PostgresStore) -> Lease {
    let sharing = host.sharing().expect("it is shared");
    sharing.renew(ShardSet::NONE).await.expect("it renews")
}

/// A server of a test's own, to be stopped, killed and filled. It ends with the test.
pub(crate) struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    settings: String,
}

impl Cluster {
    /// Starts a server; `None` where there is no PostgreSQL.
    pub(crate) fn of(test: &str) -> Option<Self> {
        Self::set(test, "")
    }

    /// Starts a server with more settings, as `-c NAME=VALUE`.
    pub(crate) fn set(test: &str, settings: &str) -> Option<Self> {
        Self::prepared(test, |_| settings.to_owned())
    }

    /// Starts a server with settings that may need files, which are made in its folder.
    pub(crate) fn prepared(test: &str, prepare: impl FnOnce(&Path) -> String) -> Option<Self> {
        server(test)?;
        let folder = tempfile::tempdir().expect("a folder");
        // The server's own user must get to its data.
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).expect("its own folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let cluster = Self {
            programs: programs(),
            settings: prepare(folder.path()),
            folder,
            port: port.expect("a free port").port(),
        };
        let data = cluster.data();
        let how = [
            "--username",
            "windlass",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--pgdata",
        ];
        let made = cluster.run("initdb", &[&how, [data.as_str()].as_slice()].concat());
        assert!(made, "initdb failed");
        for file in std::fs::read_dir(cluster.folder()).expect("its own folder") {
            cluster.own(&file.expect("a file").path());
        }
        cluster.start();
        Some(cluster)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a folder the server's own.
    pub(crate) fn own(&self, folder: &Path) {
        let data = std::fs::metadata(self.data()).expect("its data");
        std::os::unix::fs::chown(folder, Some(data.uid()), Some(data.gid())).expect("may be given");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://windlass@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Starts the server and waits until it accepts connections.
    pub(crate) fn start(&self) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= {}",
            self.port, self.settings
        );
        let (data, log) = (self.data(), format!("{}.log", self.data()));
        let started = self.run(
            "pg_ctl",
            &["-D", &data, "-l", &log, "-w", "-o", &options, "start"],
        );
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(started, "the server doesn't start:\n{log}");
    }

    /// Kills the server: nothing of what it had in memory is written.
    pub(crate) fn kill(&self) {
        let killed = self.run(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "stop"],
        );
        assert!(killed, "the server doesn't stop");
    }

    /// Runs a program as the server's user, who isn't root.
    fn run(&self, program: &str, args: &[&str]) -> bool {
        let program = self.programs.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let output = std::process::Stdio::null;
        command.args(args).current_dir("/");
        command.stdin(output()).stdout(output()).stderr(output());
        command.status().expect("a program of the server").success()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-m", "immediate", "-w", "stop"],
        );
    }
}

/// Returns the newest of Debian's folders of programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("Debian's PostgreSQL");
    let versions = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.max_by_key(number).expect("some version");
    newest.join("bin")
}

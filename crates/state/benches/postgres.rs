//! Durable steps a second on a PostgreSQL server, beside bare group commit of one-row records on it.
//!
//! `cargo bench -p windlass-state --features postgres --bench postgres -- postgres://USER@HOST:PORT/DATABASE`
//! makes schemas of its own and drops them; with `history` behind it, it measures stores with up to
//! 1,000,000 finished runs instead, which takes minutes. A step is one synced commit, as the engine writes in a chain:
//! the run, the step's end, the attempt's end, the next step's and attempt's start, and three events. CPU
//! is of this process, callers included, not of the server; compare within one run of this program only.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark measures real time, prints, and stops at the first surprise"
)]

mod steps;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls};
use windlass_core::ShardSet;
use windlass_core::run_store::{Durability, RunQuery, RunStore};
use windlass_state::{PostgresOptions, PostgresStore};

use self::steps::{Meter, PERIOD, chains, first, hop, new_run, version};

const CROWDS: [u32; 4] = [1, 16, 256, 1_000];

fn main() {
    let Some(url) = std::env::args().skip(1).find(|a| a.contains("://")) else {
        println!("NOT RUN: name a server, postgres://USER@HOST:PORT/DATABASE");
        return;
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(&url));
}

/// Schemas on the server, which are dropped at the end.
struct Server {
    url: String,
    client: Client,
    schemas: Vec<String>,
}

impl Server {
    async fn store(&mut self) -> Arc<PostgresStore> {
        let schema = format!("bench_{}_{}", std::process::id(), self.schemas.len());
        self.schemas.push(schema.clone());
        let options = PostgresOptions {
            schema,
            ..PostgresOptions::new(&self.url)
        };
        PostgresStore::migrate(&options).await.unwrap();
        let store = PostgresStore::connect(options).await.unwrap();
        let lease = store.sharing().unwrap().renew(ShardSet::NONE).await;
        assert_eq!(lease.unwrap().held, ShardSet::ALL);
        Arc::new(store)
    }
}

async fn measure(url: &str) {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(driver);
    let mut server = Server {
        url: url.to_owned(),
        client,
        schemas: Vec::new(),
    };
    if std::env::args().any(|a| a == "history") {
        for finished in [0, 100_000, 1_000_000] {
            history(&mut server, finished).await;
        }
    } else {
        speed(&mut server).await;
    }
    for schema in server.schemas {
        let drop_it = format!("DROP SCHEMA {schema} CASCADE");
        server.client.batch_execute(&drop_it).await.unwrap();
    }
}

async fn speed(server: &mut Server) {
    for crowd in CROWDS {
        bare(server, crowd).await;
    }
    thousand_runs(server.store().await).await;
    for crowd in CROWDS {
        let store = server.store().await;
        chains("postgres, synced", store, crowd, Durability::Synced).await;
    }
    let store = server.store().await;
    chains("postgres, lazy", store, 16, Durability::Lazy).await;
    restart(server).await;
}

/// 1,000 runs of ten steps at the same time.
async fn thousand_runs(store: Arc<PostgresStore>) {
    let version = version();
    let meter = Meter::start();
    let runs = (0..1_000).map(|n| {
        let (store, version) = (Arc::clone(&store), version.clone());
        tokio::spawn(async move {
            let mut run = new_run(n, &version);
            let mut next = first(&mut run, &version);
            for step in 0..=10 {
                store.commit(vec![next], Durability::Synced).await.unwrap();
                next = hop(&mut run, step);
            }
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
    meter.print("postgres, 1,000 runs x 10 steps", 10_000, "steps");
}

/// What a restart reads: 1,000 unfinished runs with 11 steps each.
async fn restart(server: &mut Server) {
    let store = server.store().await;
    let version = version();
    for n in 0..1_000 {
        let mut run = new_run(n, &version);
        let mut batch = vec![first(&mut run, &version)];
        batch.extend((0..10).map(|step| hop(&mut run, step)));
        store.commit(batch, Durability::Lazy).await.unwrap();
    }
    let meter = Meter::start();
    let runs = store.runs(&RunQuery::unfinished()).await.unwrap();
    let mut steps = 0;
    for run in &runs {
        steps += store.snapshot(run.id).await.unwrap().unwrap().steps.len();
    }
    assert_eq!((runs.len(), steps), (1_000, 11_000));
    meter.print("read 1,000 x 11 steps", 1_000, "runs");
}

/// Runs that ended, as an engine would have left them.
const FINISHED: &str = "
    INSERT INTO run (id, run_key, pipeline, environment, version, date, created_at, params)
        SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
            'old-' || n, 'p' || n % 50, 'dev', decode(repeat('00', 32), 'hex'), '2026-01-01', n, '{}' FROM generate_series(1, $N::bigint) AS n;
    INSERT INTO run_state SELECT id, 3, 0, created_at, created_at, 11, 33, NULL FROM run;
    INSERT INTO step SELECT id, s, -1, 6, 1, 1, 0, 0, 1, NULL, 2 FROM run, generate_series(0, 2) AS s;
    INSERT INTO event SELECT id, 33, '[]' FROM run;";

/// What a start, and lists for people, take in a store with that many finished runs.
async fn history(server: &mut Server, finished: u32) {
    let store = server.store().await;
    if finished > 0 {
        let schema = server.schemas.last().unwrap();
        let fill = FINISHED.replace("$N", &finished.to_string());
        let fill = format!("SET search_path TO {schema}; {fill} RESET search_path");
        server.client.batch_execute(&fill).await.unwrap();
    }
    let version = version();
    let mut starts = Vec::new();
    for n in 0..500 {
        let mut run = new_run(n, &version);
        let start = vec![first(&mut run, &version)];
        let began = Instant::now();
        store.commit(start, Durability::Synced).await.unwrap();
        starts.push(began.elapsed());
    }
    starts.sort();
    let mut queries = [
        RunQuery::unfinished(),
        RunQuery::default(),
        RunQuery::default(),
    ];
    queries[2] = queries[2].clone().of("p7".parse().unwrap());
    let mut lists = Vec::new();
    for query in &queries {
        // The first one plans.
        store.runs(query).await.unwrap();
        let began = Instant::now();
        store.runs(query).await.unwrap();
        lists.push(began.elapsed());
    }
    println!(
        "{finished:>9} finished runs: start p50 {:?}, p99 {:?}; 500 unfinished {:?}, latest 100 {:?}, of a pipeline {:?}",
        starts[250], starts[495], lists[0], lists[1], lists[2]
    );
}

/// The limit: a connection that commits 200-byte rows in groups, one row an acknowledgement.
async fn bare(server: &mut Server, crowd: u32) {
    let schema = format!("bench_{}_bare_{crowd}", std::process::id());
    let (client, driver) = tokio_postgres::connect(&server.url, NoTls).await.unwrap();
    tokio::spawn(driver);
    let sql = format!(
        "CREATE SCHEMA {schema}; SET search_path TO {schema}; \
         CREATE TABLE record (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea)"
    );
    client.batch_execute(&sql).await.unwrap();
    server.schemas.push(schema);
    let put = "INSERT INTO record (body) SELECT unnest($1::bytea[])";
    let put = client.prepare(put).await.unwrap();
    let (rows, mut received) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(1_024);
    let writer = tokio::spawn(async move {
        while let Some((body, done)) = received.recv().await {
            let (mut bodies, mut waiting) = (vec![body], vec![done]);
            while let Ok((body, done)) = received.try_recv() {
                bodies.push(body);
                waiting.push(done);
            }
            client.execute(&put, &[&bodies]).await.unwrap();
            for done in waiting {
                done.send(()).unwrap();
            }
        }
    });
    let meter = Meter::start();
    let stop = meter.wall + PERIOD;
    let callers = (0..crowd).map(|_| {
        let rows = rows.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < stop {
                let (done, written) = oneshot::channel();
                rows.send((vec![7; 200], done)).await.unwrap();
                written.await.unwrap();
                count += 1;
            }
            count
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await.unwrap();
    }
    drop(rows);
    writer.await.unwrap();
    meter.print(&format!("bare rows, {crowd} callers"), count, "rows");
}

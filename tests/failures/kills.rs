//! Hosts as processes of their own, killed with SIGKILL at random moments: one on SQLite, one to three
//! on PostgreSQL. Each step notes in a file that it was launched, before it does anything else.
//!
//! `WINDLASS_KILLS` makes more kills of each, `WINDLASS_SEED` the same ones again, as far as processes
//! let themselves be timed.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "real processes are killed at real moments; the seed is printed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use windlass::run_store::{RunQuery, RunStore};
use windlass::{
    ClockExt, Engine, Pipeline, PostgresOptions, PostgresStore, RunRequest, SqliteStore,
    StepContext, StepError, SystemClock,
};

use crate::kit::check;

/// Kills of each kind of store where nobody says how many.
const KILLS: u64 = 12;
/// Kills that runs must outlive; the next ones are of other runs. A step that dies with its host ten
/// times is given up on purpose.
const KILLS_OF_A_RUN: u64 = 6;
const RUNS: u32 = 20;
const TTL: Duration = Duration::from_secs(2);
/// Where a host finds what it is to do.
const PLACE: &str = "WINDLASS_TEST_KILLS_PLACE";

/// What a host is told: a file of an SQLite store or the schema of a PostgreSQL one, the file for
/// launches, and the first key.
#[derive(Debug, Clone)]
struct Place {
    store: String,
    launches: String,
    round: u64,
}

impl Place {
    fn text(&self) -> String {
        format!("{}\n{}\n{}", self.store, self.launches, self.round)
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap();
        Self {
            store: next(),
            launches: next(),
            round: next().parse().unwrap(),
        }
    }

    fn key(&self, number: u32) -> String {
        format!("kills-{}-{number}", self.round)
    }

    fn postgres(&self) -> Option<PostgresOptions> {
        let schema = self.store.strip_prefix("schema ")?;
        let mut options = PostgresOptions::new(variable("WINDLASS_TEST_POSTGRES").unwrap());
        options.schema = schema.to_owned();
        options.lease_ttl = TTL;
        Some(options)
    }

    /// Opens the store to read beside hosts.
    async fn reader(&self) -> Arc<dyn RunStore> {
        match self.postgres() {
            Some(mut options) => {
                options.observe = true;
                Arc::new(PostgresStore::connect(options).await.unwrap())
            }
            None => Arc::new(SqliteStore::open_read_only(&self.store).await.unwrap()),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

/// A chain, a map's worth of steps side by side, and a step that joins them.
fn pipeline(launches: &Path) -> Pipeline {
    async fn body(file: std::path::PathBuf, cx: StepContext) -> Result<u64, StepError> {
        let line = format!("{} {} {}\n", cx.run().run, cx.step(), cx.token());
        let mut file = std::fs::File::options().append(true).open(file).unwrap();
        // One write of a line: appended whole, whoever else writes.
        file.write_all(line.as_bytes()).unwrap();
        SystemClock::new().sleep(Duration::from_millis(25)).await;
        Ok(1)
    }
    let mut p = Pipeline::builder("kills");
    let step = |file: &Path| {
        let file = file.to_owned();
        move |cx| body(file.clone(), cx)
    };
    let mut last = p.add("first", step(launches));
    for name in ["second", "third"] {
        let code = step(launches);
        last = p.add_with(name, last, move |cx, _: u64| code(cx));
    }
    let mut side = Vec::new();
    for i in 0..6 {
        let code = step(launches);
        let name = format!("side-{i}");
        side.push(p.add_with(&name, last.clone(), move |cx, _: u64| code(cx)));
    }
    let code = step(launches);
    p.add_with("join", side, move |cx, _: Vec<u64>| code(cx));
    p.build().unwrap()
}

/// The host: starts every run of its round, whoever else does, and goes on until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_to_be_killed() {
    let Some(text) = variable(PLACE) else {
        // Nobody wants it: this is the test run itself.
        return;
    };
    let place = Place::parse(&text);
    let builder = match place.postgres() {
        Some(options) => Engine::builder(PostgresStore::connect(options).await.unwrap()),
        None => Engine::builder(SqliteStore::open(&place.store).await.unwrap()),
    };
    let engine = builder.build().await.unwrap();
    engine
        .deploy(pipeline(Path::new(&place.launches)))
        .await
        .unwrap();
    for number in 0..RUNS {
        let request = RunRequest::new("kills", "2026-11-03".parse().unwrap());
        engine.start(request.key(place.key(number))).await.unwrap();
    }
    std::future::pending::<()>().await;
}

fn spawn(place: &Place) -> Child {
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args(["--exact", "kills::a_host_that_is_to_be_killed"])
        .env(PLACE, place.text())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    host.spawn().unwrap()
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = number("WINDLASS_SEED");
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
        println!("WINDLASS_SEED={seed}");
        Self(seed.max(1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Waits until every run of the round ended, and checks each against its launches.
async fn settle(place: &Place) {
    let store = place.reader().await;
    let clock = SystemClock::new();
    let keys: BTreeSet<String> = (0..RUNS).map(|n| place.key(n)).collect();
    let runs = loop {
        let all = RunQuery::default().limit(u32::MAX);
        let mut runs = store.runs(&all).await.unwrap();
        runs.retain(|r| keys.contains(r.key.as_str()));
        if runs.len() == keys.len() && runs.iter().all(|r| r.state.is_final()) {
            break runs;
        }
        clock.sleep(Duration::from_millis(50)).await;
    };
    let mut launches: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in std::fs::read_to_string(&place.launches).unwrap().lines() {
        let (run, rest) = line.split_once(' ').unwrap();
        let token = rest.rsplit_once(' ').unwrap().1.to_owned();
        let first = launches.entry(run.to_owned()).or_default().insert(token);
        assert!(first, "one token was launched twice: {line}");
    }
    for run in runs {
        let found = check(&*store, run.id).await;
        let intents: BTreeSet<String> =
            found.attempts.iter().map(|a| a.token.to_string()).collect();
        let launched = &launches[&run.id.to_string()];
        assert!(launched.is_subset(&intents), "a launch without an intent");
    }
}

/// Kills hosts, so many at work at a time, until that many kills are done.
async fn kill(mut place: Place, kills: u64, hosts: impl Fn(&mut Random) -> u64) {
    let mut random = Random::new();
    let mut done = 0;
    while done < kills {
        place.round += 1;
        std::fs::write(&place.launches, "").unwrap();
        let many = hosts(&mut random);
        let mut at_work: Vec<Child> = (0..many).map(|_| spawn(&place)).collect();
        for _ in 0..KILLS_OF_A_RUN.min(kills - done) {
            let wait = Duration::from_millis(random.below(900));
            SystemClock::new().sleep(wait).await;
            let which = usize::try_from(random.below(many)).unwrap();
            at_work[which].kill().unwrap();
            at_work[which].wait().unwrap();
            at_work[which] = spawn(&place);
            done += 1;
        }
        settle(&place).await;
        for mut host in at_work {
            host.kill().unwrap();
            host.wait().unwrap();
        }
    }
    println!("{done} kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_on_sqlite_that_is_killed_again_and_again_loses_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let place = Place {
        store: file("runs.db"),
        launches: file("launches"),
        round: 0,
    };
    SqliteStore::open(&place.store).await.unwrap().close().await;
    let kills = number("WINDLASS_KILLS").unwrap_or(KILLS);
    kill(place, kills, |_| 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_on_postgresql_that_are_killed_again_and_again_lose_and_repeat_nothing() {
    if variable("WINDLASS_TEST_POSTGRES").is_none() {
        let required = variable("WINDLASS_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "no PostgreSQL server is named");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let launches = folder.path().join("launches");
    let place = Place {
        store: format!("schema kills_{}", std::process::id()),
        launches: launches.to_str().unwrap().to_owned(),
        round: 0,
    };
    PostgresStore::migrate(&place.postgres().unwrap())
        .await
        .unwrap();
    let kills = number("WINDLASS_KILLS").unwrap_or(KILLS);
    kill(place, kills, |random| 1 + random.below(3)).await;
}

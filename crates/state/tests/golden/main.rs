//! Files of every schema there was open with today's code, are upgraded after a copy, and hold what
//! was written into them. `README.md` here says how they were made.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test that can't go on has failed; who makes a file names it by the environment"
)]

mod content;
mod kept;
mod progress;
mod signals;
mod tried;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use windlass_core::run_store::{
    Durability, OutboxState, RunQuery, RunStore, StoreErrorKind, Transition, Verdict,
};
use windlass_core::{CacheQuery, error_chain};
use windlass_state::SqliteStore;

use self::content::Rows;

fn golden(schema: i64) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(format!("v{schema}.db"))
}

/// Returns a copy of a golden file: even a look at a store leaves files beside it.
fn copied(schema: i64, to: &Path) -> PathBuf {
    let path = to.join(format!("{schema}.db"));
    std::fs::copy(golden(schema), &path).unwrap();
    path
}

fn transitions(schema: i64) -> Vec<Transition> {
    let mut all = content::transitions();
    if schema >= 2 {
        all.extend(signals::transitions());
    }
    if schema >= 5 {
        all.extend(kept::transitions());
    }
    if schema >= 6 {
        all.extend(progress::transitions());
    }
    if schema >= 7 {
        all.extend(tried::transitions());
    }
    all
}

fn runs(schema: i64) -> Vec<Rows> {
    let mut all = content::runs();
    if schema >= 2 {
        all.push(signals::rerun());
    }
    if schema >= 5 {
        all.push(kept::fresh());
    }
    if schema >= 6 {
        all.push(progress::moved());
    }
    if schema >= 7 {
        all.push(tried::submitted());
    }
    all
}

/// Opens a file behind the store's back, changing nothing.
fn look(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn schema_of(path: &Path) -> i64 {
    let version = look(path).query_row("PRAGMA user_version", [], |r| r.get(0));
    version.unwrap()
}

/// Returns what the tables and indexes of a file are.
fn tables(path: &Path) -> Vec<(String, Option<String>)> {
    let db = look(path);
    let sql = "SELECT name, sql FROM sqlite_schema ORDER BY name";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)));
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// Makes a file of today's schema with all that belongs in it, and returns that schema's number.
async fn make(path: &Path) -> i64 {
    let store = SqliteStore::open(path).await.unwrap();
    store.close().await;
    let schema = schema_of(path);
    let store = SqliteStore::open(path).await.unwrap();
    for transition in transitions(schema) {
        let batch = vec![transition];
        let verdicts = store.commit(batch, Durability::Synced).await.unwrap();
        assert_eq!(verdicts, [Verdict::Applied]);
    }
    store.close().await;
    schema
}

async fn holds(store: &SqliteStore, schema: i64) {
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let expected = runs(schema);
    for rows in &expected {
        let found = store.snapshot(rows.run.id).await.unwrap().unwrap();
        assert_eq!(found.run, rows.run);
        assert_eq!(found.steps, rows.steps);
        assert_eq!(found.attempts, rows.attempts);
        let events = store.events(rows.run.id, 0, u32::MAX).await.unwrap();
        assert_eq!(events, rows.events);
        let names = found.version.spec.all_steps().map(|s| s.name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), content::STEPS);
    }
    let listed = store.runs(&RunQuery::default()).await.unwrap();
    assert_eq!(listed.len(), expected.len());
    let unfinished = store.runs(&RunQuery::unfinished()).await.unwrap();
    let open = expected.iter().filter(|r| !r.run.state.is_final());
    assert_eq!(unfinished.len(), open.count());
    let of_state = |state| {
        let entries = content::outbox().into_iter();
        entries
            .filter(move |e| e.state == state)
            .collect::<Vec<_>>()
    };
    let pending = store.outbox(100).await.unwrap();
    assert_eq!(pending, of_state(OutboxState::Pending));
    let dead = store.dead_letters(100).await.unwrap();
    assert_eq!(dead, of_state(OutboxState::Dead));
    let left = if schema >= 2 {
        signals::signals()
    } else {
        Vec::new()
    };
    assert_eq!(store.signals(100).await.unwrap(), left);
    let kept = if schema >= 5 {
        kept::results()
    } else {
        Vec::new()
    };
    let all = CacheQuery::Behind {
        last: None,
        limit: 9,
    };
    assert_eq!(store.cache(&all).await.unwrap(), kept);
}

/// Makes the file that is then kept here: see `README.md`.
#[tokio::test]
#[ignore = "it makes a file, of which there is one for each schema"]
async fn make_a_golden_file() {
    let path = std::env::var("GOLDEN").expect("GOLDEN names the file to make");
    make(Path::new(&path)).await;
    std::fs::remove_file(format!("{path}.lock")).unwrap();
}

#[tokio::test]
async fn every_schema_has_a_golden_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let today = make(&path).await;
    for schema in 1..=today {
        let file = golden(schema);
        assert!(
            file.is_file(),
            "a migration needs a golden file: see tests/golden/README.md file=`{}`",
            file.display()
        );
        assert_eq!(schema_of(&copied(schema, dir.path())), schema);
        assert!(std::fs::metadata(&file).unwrap().len() < 200 << 10);
    }
    assert!(!golden(today + 1).exists(), "there is no such schema");
    // A migration that is out there is never changed: today's file is made as the kept one was.
    assert_eq!(tables(&copied(today, dir.path())), tables(&path));
}

#[tokio::test]
async fn a_file_of_any_older_schema_is_upgraded_after_a_copy_and_holds_all() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new.db");
    let today = make(&new).await;
    for schema in 1..=today {
        let path = copied(schema, dir.path());
        let before = tables(&path);
        if schema < today {
            let refused = SqliteStore::open_read_only(&path).await.unwrap_err();
            assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
            assert!(refused.to_string().contains("older release"), "{refused}");
        }
        let store = SqliteStore::open(&path).await.unwrap();
        holds(&store, schema).await;
        // It goes on as any other.
        let next = Rows::new(99, windlass_core::RunState::Queued);
        let batch = vec![next.write()];
        store.commit(batch, Durability::Synced).await.unwrap();
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        store.close().await;
        assert_eq!(schema_of(&path), today);
        assert_eq!(tables(&path), tables(&new), "upgraded from {schema}");
        let backup = dir.path().join(format!("{schema}.db.v{schema}.bak"));
        assert_eq!(backup.exists(), schema < today);
        if backup.exists() {
            assert_eq!((schema_of(&backup), tables(&backup)), (schema, before));
            // The copy is a store of that release, whole: it opens, upgraded, with all that it held.
            let again = SqliteStore::open(&backup).await.unwrap();
            holds(&again, schema).await;
        }
    }
}

#[tokio::test]
async fn a_file_of_a_newer_schema_is_refused_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let today = make(&path).await;
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", today + 1).unwrap();
    drop(db);
    for opened in [
        SqliteStore::open(&path).await,
        SqliteStore::open_read_only(&path).await,
    ] {
        let refused = opened.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
        let text = error_chain(&refused);
        for part in [
            "newer release",
            "runs.db",
            &format!("version=`{}`", today + 1),
            &format!("known=`{today}`"),
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
    assert_eq!(schema_of(&path), today + 1, "it was left alone");
}

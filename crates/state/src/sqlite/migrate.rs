//! Forward-only migrations: the number of the last one is the file's `user_version`.
//!
//! All that are missing go in as one transaction, after a copy of the file as it was. A file with
//! a larger number is of a newer release, and refused: nothing is known about what its rows mean.

use std::path::Path;

use rusqlite::Connection;
use windlass_core::run_store::StoreError;

use super::open::cannot;
use crate::disk::{beside, sync_folder_of};

pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_records.sql"),
    include_str!("../migrations/0002_signals.sql"),
    include_str!("../migrations/0003_told.sql"),
    include_str!("../migrations/0004_events.sql"),
    include_str!("../migrations/0005_cache.sql"),
    include_str!("../migrations/0006_progress.sql"),
    include_str!("../migrations/0007_steps.sql"),
];

/// Marks a file as ours (`PRAGMA application_id`): "WNDL".
const APPLICATION: i64 = 0x574e_444c;

fn number(db: &Connection, sql: &str) -> Result<i64, rusqlite::Error> {
    db.query_row(sql, [], |r| r.get(0))
}

/// Returns how many of `known` migrations the file has.
pub(super) fn version(db: &Connection, path: &Path, known: usize) -> Result<usize, StoreError> {
    // As of one instant: an engine may be making the file meanwhile.
    let tx = db
        .unchecked_transaction()
        .map_err(|e| cannot("read", path, e))?;
    let read = |sql| number(&tx, sql).map_err(|e| cannot("read", path, e));
    let version = read("PRAGMA user_version")?;
    if read("PRAGMA application_id")? != APPLICATION
        && (version != 0 || read("SELECT count(*) FROM sqlite_schema")? != 0)
    {
        return Err(StoreError::incompatible(format!(
            "the file is a database of another program, not a store path=`{}`",
            path.display()
        )));
    }
    usize::try_from(version).ok().filter(|v| *v <= known).ok_or_else(|| {
        StoreError::incompatible(format!(
            "the store was written by a newer release, which this one can't read: use that release, or open a copy from before its upgrade path=`{}` version=`{version}` known=`{known}`",
            path.display()
        ))
    })
}

/// Brings the file to the last of `migrations`; `new_id` names a file that is new.
pub(super) fn migrate(
    db: &mut Connection,
    path: &Path,
    migrations: &[&str],
    new_id: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    let from = version(db, path, migrations.len())?;
    if from == migrations.len() {
        return Ok(());
    }
    if from > 0 {
        keep_copy(db, path, from)?;
    }
    let failed = |e| cannot("migrate", path, e);
    let tx = db.transaction().map_err(failed)?;
    for migration in &migrations[from..] {
        tx.execute_batch(migration).map_err(failed)?;
    }
    if from == 0 {
        tx.pragma_update(None, "application_id", APPLICATION)
            .and_then(|()| {
                let sql = "INSERT INTO meta (key, value) VALUES ('store_id', ?1), ('barrier', 0)";
                tx.execute(sql, [new_id()])
            })
            .map_err(failed)?;
    }
    let version = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    tx.pragma_update(None, "user_version", version)
        .and_then(|()| tx.commit())
        .map_err(failed)?;
    tracing::info!(path = %path.display(), from, to = version, "migrated the store");
    Ok(())
}

/// Keeps the file as it is beside itself, as `PATH.vN.bak`; an older attempt's copy is replaced.
fn keep_copy(db: &Connection, path: &Path, from: usize) -> Result<(), StoreError> {
    copy(db, &beside(path, &format!("v{from}.bak")), true)
}

/// Writes a consistent copy to `to`, which appears whole and synced or not at all.
pub(super) fn copy(db: &Connection, to: &Path, replace: bool) -> Result<(), StoreError> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        StoreError::unavailable(format!("can't write the copy path=`{}`", to.display()))
            .with_source(e)
    };
    let partial = beside(to, "partial");
    let io = |e: std::io::Error| failed(e.into());
    match std::fs::remove_file(&partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let name = partial
        .to_str()
        .ok_or_else(|| failed("the path is no UTF-8".into()))?;
    db.execute("VACUUM INTO ?1", [name])
        .map_err(|e| failed(e.into()))?;
    std::fs::File::open(&partial)
        .and_then(|f| f.sync_all())
        .map_err(io)?;
    if replace {
        std::fs::rename(&partial, to).map_err(io)?;
    } else {
        // A link never replaces what is there.
        std::fs::hard_link(&partial, to)
            .and_then(|()| std::fs::remove_file(&partial))
            .inspect_err(|_| drop(std::fs::remove_file(&partial)))
            .map_err(io)?;
    }
    sync_folder_of(to).map_err(io)
}

#[cfg(test)]
mod tests {
    use windlass_core::run_store::StoreErrorKind;

    use super::super::open::{Access, connect};
    use super::*;

    const FIRST: &str = "CREATE TABLE meta (key TEXT, value ANY); CREATE TABLE a (x INTEGER);";
    const SECOND: &str = "ALTER TABLE a ADD COLUMN y INTEGER;";
    const THIRD: &str = "ALTER TABLE a ADD COLUMN z INTEGER;";
    const BROKEN: &str = "UPDATE a SET x = 2; ALTER TABLE nothing ADD COLUMN z INTEGER;";

    fn at(db: &Connection) -> (i64, i64) {
        let columns = "SELECT count(*) FROM pragma_table_info('a')";
        let version = number(db, "PRAGMA user_version").unwrap();
        (version, number(db, columns).unwrap())
    }

    #[test]
    fn an_older_file_is_upgraded_in_one_go_after_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let mut db = connect(&path, Access::Make).unwrap();
        migrate(&mut db, &path, &[FIRST], || "one".to_owned()).unwrap();
        db.execute_batch("INSERT INTO a VALUES (1)").unwrap();
        assert!(
            !dir.path().join("runs.db.v0.bak").exists(),
            "a new file needs no copy"
        );
        migrate(&mut db, &path, &[FIRST, SECOND, THIRD], || "two".to_owned()).unwrap();
        assert_eq!(at(&db), (3, 3));
        let id = db.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |r| {
            r.get(0)
        });
        assert_eq!(id, Ok("one".to_owned()), "it keeps its name");
        let copy = Connection::open(dir.path().join("runs.db.v1.bak")).unwrap();
        assert_eq!(at(&copy), (1, 1));
        assert_eq!(number(&copy, "SELECT x FROM a"), Ok(1));
        assert_eq!(number(&copy, "PRAGMA application_id"), Ok(APPLICATION));
    }

    #[test]
    fn an_upgrade_that_fails_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let mut db = connect(&path, Access::Make).unwrap();
        migrate(&mut db, &path, &[FIRST], || "one".to_owned()).unwrap();
        db.execute_batch("INSERT INTO a VALUES (1)").unwrap();
        for _ in 0..2 {
            let failed = migrate(&mut db, &path, &[FIRST, SECOND, BROKEN], String::new);
            assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Unavailable);
            assert_eq!(at(&db), (1, 1));
            assert_eq!(number(&db, "SELECT x FROM a"), Ok(1));
        }
        migrate(&mut db, &path, &[FIRST, SECOND], String::new).unwrap();
        assert_eq!(at(&db), (2, 2));
    }
}

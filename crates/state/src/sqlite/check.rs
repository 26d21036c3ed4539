//! What must hold between the rows of a file, looked at one by one.

use rusqlite::Connection;
use windlass_core::run_store::StoreError;

use super::effect::own_names;

/// A query that finds what is wrong, each as a sentence, at most a hundred.
const RULES: &[&str] = &[
    "SELECT 'run ' || lower(hex(id)) || ' has no state' FROM run WHERE no NOT IN (SELECT run FROM run_state)",
    "SELECT 'run ' || lower(hex(id)) || ' names a version that is not there' FROM run \
     WHERE version NOT IN (SELECT digest FROM pipeline_version)",
    "SELECT 'the events of run ' || lower(hex(id)) || ' have a gap: ' || found || ' of ' || last FROM \
     (SELECT run, max(last) AS last, sum(json_array_length(body)) AS found FROM event GROUP BY run) \
     JOIN run ON run = no WHERE found <> last",
    "SELECT 'run ' || lower(hex(id)) || ' counts its events wrong: ' || next_seq || ' is next after ' || found FROM \
     (SELECT p.run, next_seq, (SELECT coalesce(max(last), 0) FROM event WHERE event.run = p.run) AS found \
      FROM run_progress AS p) JOIN run ON run = no WHERE next_seq <> found + 1",
    "SELECT 'attempt ' || attempt || ' of step ' || step || ' item ' || item || ' of run ' || lower(hex(id)) || ' has no step' \
     FROM attempt_list AS a JOIN run ON run = no \
     WHERE NOT EXISTS (SELECT 1 FROM step AS s WHERE s.run = a.run AND s.step = a.step AND s.item = a.item)",
    "SELECT 'attempt ' || attempt || ' of step ' || step || ' item ' || item || ' of run ' || lower(hex(id)) || ' has a token of the future' \
     FROM attempt_list JOIN run ON run = no JOIN run_progress USING (run) WHERE token >= next_token",
    "SELECT 'two attempts of run ' || lower(hex(id)) || ' have token ' || token FROM attempt_list JOIN run ON run = no \
     GROUP BY run, token HAVING count(*) > 1",
    "SELECT 'run ' || lower(hex(id)) || ' has ended, and its step ' || step || ' item ' || item || ' has an attempt that has not' \
     FROM attempt_list JOIN run ON run = no JOIN run_state USING (run) WHERE state >= 3 AND ending IS NULL",
];

/// Returns what is wrong, each as a sentence; nothing if all is well.
pub(super) fn check(db: &Connection) -> Result<Vec<String>, StoreError> {
    let found = || -> Result<Vec<String>, rusqlite::Error> {
        // One transaction, so that the rules look at the same rows while an engine writes.
        let tx = db.unchecked_transaction()?;
        let mut wrong = texts(&tx, "PRAGMA integrity_check(100)")?;
        wrong.retain(|line| line != "ok");
        // Of the store's own tables: those of the host may name what they like.
        let orphans = "SELECT DISTINCT 'a row of ' || \"table\" || ' is for a run that is not there' FROM pragma_foreign_key_check(?1)";
        let own = own_names()?;
        let tables = texts(&tx, "SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        for name in tables.iter().filter(|name| own.contains(*name)) {
            let mut found = tx.prepare(orphans)?;
            let found = found.query_map([name], |r| r.get(0))?;
            wrong.extend(found.collect::<Result<Vec<String>, _>>()?);
        }
        for rule in RULES {
            wrong.extend(texts(&tx, &format!("{rule} LIMIT 100"))?);
        }
        Ok(wrong)
    };
    found().map_err(|e| {
        let what = "the store can't be checked";
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::corrupt(what),
            _ => StoreError::unavailable(what),
        }
        .with_source(e)
    })
}

fn texts(db: &Connection, sql: &str) -> Result<Vec<String>, rusqlite::Error> {
    db.prepare(sql)?.query_map([], |r| r.get(0))?.collect()
}

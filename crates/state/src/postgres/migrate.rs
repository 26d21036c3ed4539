//! Forward-only migrations: `meta` says how many a schema has.
//!
//! Each goes in as one transaction, one process at a time. An engine never runs one by itself: its
//! role needs no right to change tables, and several hosts of two releases may be at work.

use tokio_postgres::Client;
use windlass_core::run_store::StoreError;

use super::error::failed;

pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/postgres/0001_records.sql"),
    include_str!("../migrations/postgres/0002_cache.sql"),
];

/// How far a schema is.
pub(super) enum Found {
    /// It has all migrations that this release knows; its name.
    Current(String),
    /// It has only so many; 0 where nothing is there.
    Older(usize),
}

/// Returns how far the schema is.
pub(super) async fn look(client: &Client, schema: &str) -> Result<Found, StoreError> {
    let read = |e| failed("read the version of the schema", e);
    let table = format!("\"{schema}\".meta");
    let there = "SELECT to_regclass($1) IS NOT NULL";
    let there = client.query_one(there, &[&table]).await.map_err(read)?;
    if !there.get::<_, bool>(0) {
        return Ok(Found::Older(0));
    }
    let sql = format!("SELECT key, value FROM {table} WHERE key IN ('migrations', 'store_id')");
    let rows = client.query(&sql, &[]).await.map_err(read)?;
    let value = |key: &str| {
        let row = rows.iter().find(|row| row.get::<_, &str>(0) == key);
        row.map(|row| row.get::<_, String>(1))
    };
    let count = value("migrations").and_then(|n| n.parse::<usize>().ok());
    let (Some(count), Some(id)) = (count, value("store_id")) else {
        return Err(StoreError::incompatible(format!(
            "the schema is of another program, not a store: name another one schema=`{schema}`"
        )));
    };
    match count {
        n if n == MIGRATIONS.len() => Ok(Found::Current(id)),
        n if n < MIGRATIONS.len() => Ok(Found::Older(n)),
        n => Err(StoreError::incompatible(format!(
            "the schema was written by a newer release, which this one can't read: use that release schema=`{schema}` version=`{n}` known=`{}`",
            MIGRATIONS.len()
        ))),
    }
}

/// Brings the schema to the last migration; `new_id` names a store that is new.
pub(super) async fn migrate(client: &Client, schema: &str, new_id: &str) -> Result<(), StoreError> {
    let write = |e| failed("migrate the schema", e);
    let lock = "SELECT pg_advisory_lock(hashtext('windlass migrations'), hashtext($1))";
    client.execute(lock, &[&schema]).await.map_err(write)?;
    let there = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let there = client.query_one(there, &[&schema]).await.map_err(write)?;
    if !there.get::<_, bool>(0) {
        let create = format!("CREATE SCHEMA \"{schema}\"");
        client.batch_execute(&create).await.map_err(write)?;
    }
    let Found::Older(from) = look(client, schema).await? else {
        return Ok(());
    };
    for (number, migration) in (from + 1..).zip(&MIGRATIONS[from..]) {
        let name = if number == 1 {
            format!(
                "INSERT INTO meta (key, value) VALUES ('store_id', '{new_id}'), ('migrations', '0');"
            )
        } else {
            String::new()
        };
        let count = format!("UPDATE meta SET value = '{number}' WHERE key = 'migrations';");
        let sql = format!("BEGIN; {migration} {name} {count} COMMIT");
        client.batch_execute(&sql).await.map_err(write)?;
        tracing::info!(schema, number, "migrated the store");
    }
    Ok(())
}

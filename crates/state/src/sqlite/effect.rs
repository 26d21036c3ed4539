//! Effects of steps: code of the host within the writer's transaction.
//!
//! An effect is applied in a savepoint, so one that fails takes back what it did and nothing else. It can't
//! end the transaction, change settings or reach the store's own tables: an authorizer looks at each
//! statement that it prepares, and lets through what is on its list. What SQLite ends by itself (`OR
//! ROLLBACK`, `RAISE(ROLLBACK)`) is noticed, and the group is written again without that effect; what the
//! effect does from there on would be a transaction of its own, which a hook keeps from being committed.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, Params, Row, Statement};
use windlass_core::run_store::StoreError;
use windlass_core::{Effect, EffectKind, Failure, FailureClass, StepError, StoreEffect};

use super::migrate::MIGRATIONS;
use super::rows::Refused;

type Body = dyn Fn(&SqliteTx<'_>) -> Result<(), SqliteEffectError> + Send + Sync;

/// What a [`windlass_core::TxStep`] does in the transaction of a [`SqliteStore`](super::SqliteStore) that
/// keeps the step's completion.
///
/// The closure runs on the store's one writing thread: while it does, nothing else is written, so it should
/// take milliseconds. It may be called again where the transaction had to be written anew; only what the
/// last call did is ever in. A panic is caught and is a permanent failure of the attempt.
///
/// Tables are made by effects, or by any connection while no engine runs. Their names should have a prefix
/// of their own, since a later release may make tables, too.
///
/// ```
/// use windlass_core::Pipeline;
/// use windlass_state::SqliteEffect;
/// let mut p = Pipeline::builder("scores");
/// p.add_tx("score", |_| async {
///     let score = 42_i64; // The work is done here, outside of any transaction.
///     let effect = SqliteEffect::new(move |tx| {
///         tx.execute("CREATE TABLE IF NOT EXISTS app_score (score INTEGER NOT NULL)", [])?;
///         tx.execute("INSERT INTO app_score (score) VALUES (?1)", [score])?;
///         Ok(())
///     });
///     Ok((score, effect))
/// });
/// p.build().unwrap();
/// ```
pub struct SqliteEffect(Box<Body>);

impl SqliteEffect {
    /// Makes an effect of a closure.
    #[must_use]
    pub fn new<F>(apply: F) -> Self
    where
        F: Fn(&SqliteTx<'_>) -> Result<(), SqliteEffectError> + Send + Sync + 'static,
    {
        Self(Box::new(apply))
    }
}

impl fmt::Debug for SqliteEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteEffect")
    }
}

impl StoreEffect for SqliteEffect {
    const KIND: EffectKind = EffectKind::new("sqlite");
}

/// Why an effect failed: made of an error of SQLite, or of a [`StepError`] where that should say whether a
/// retry may help.
///
/// ```
/// use windlass_core::StepError;
/// use windlass_state::SqliteEffectError;
/// let error = SqliteEffectError::from(StepError::permanent("no such customer"));
/// assert_eq!(error.to_string(), "no such customer");
/// ```
#[derive(Debug)]
pub struct SqliteEffectError(Cause);

#[derive(Debug)]
enum Cause {
    Step(StepError),
    Sql(rusqlite::Error),
}

impl fmt::Display for SqliteEffectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Step(e) => e.fmt(f),
            Cause::Sql(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for SqliteEffectError {}

impl From<rusqlite::Error> for SqliteEffectError {
    /// An error of the file itself (a full disk, damage) is one of the store, not of the step.
    fn from(e: rusqlite::Error) -> Self {
        Self(Cause::Sql(e))
    }
}

impl From<StepError> for SqliteEffectError {
    fn from(e: StepError) -> Self {
        Self(Cause::Step(e))
    }
}

/// The transaction that an effect is part of, as far as it is the effect's.
///
/// It can't be ended from here, and the store's own tables can't be read or written: such statements are
/// `not authorized`, as are `PRAGMA`, `ATTACH`, `SAVEPOINT`, virtual and temporary tables.
///
/// ```
/// # use windlass_state::SqliteEffect;
/// SqliteEffect::new(|tx| {
///     let known: i64 = tx.query_row("SELECT count(*) FROM app_score", [], |row| row.get(0))?;
///     if known < 10 {
///         tx.execute("INSERT INTO app_score (score) VALUES (?1)", [known])?;
///     }
///     Ok(())
/// });
/// ```
#[derive(Debug)]
pub struct SqliteTx<'db> {
    db: &'db Connection,
}

impl SqliteTx<'_> {
    /// Runs a statement that returns no rows, and returns how many it changed.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, rusqlite::Error> {
        self.db.execute(sql, params)
    }

    /// Prepares a statement, to be run more than once.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn prepare(&self, sql: &str) -> Result<Statement<'_>, rusqlite::Error> {
        self.db.prepare(sql)
    }

    /// Reads one row.
    ///
    /// # Errors
    /// Those of SQLite and of `read`; `QueryReturnedNoRows` if there is none.
    pub fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, rusqlite::Error> {
        self.db.query_row(sql, params, read)
    }

    /// Reads all rows.
    ///
    /// # Errors
    /// Those of SQLite and of `read`.
    pub fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<Vec<T>, rusqlite::Error> {
        self.db.prepare(sql)?.query_map(params, read)?.collect()
    }

    /// Returns the number of the row that was inserted last.
    #[must_use]
    pub fn last_insert_rowid(&self) -> i64 {
        self.db.last_insert_rowid()
    }
}

/// Applies effects on a connection, and watches their statements.
#[derive(Debug)]
pub(super) struct Effects {
    /// True while one is being applied.
    watching: Arc<AtomicBool>,
}

impl Effects {
    /// Sets the authorizer and the commit hook of a connection, which let everything through while no effect
    /// is applied. Once, before anything is prepared: each setting makes SQLite prepare all statements anew.
    pub(super) fn watch(db: &mut Connection) -> Result<Self, rusqlite::Error> {
        let own = own_names()?;
        let watching = Arc::new(AtomicBool::new(false));
        let on = Arc::clone(&watching);
        let authorize = move |cx: AuthContext<'_>| {
            if !on.load(Ordering::Relaxed) || is_allowed(&cx, own) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        };
        db.authorizer(Some(authorize)).done()?;
        let on = Arc::clone(&watching);
        // True makes it a rollback.
        db.commit_hook(Some(move || on.load(Ordering::Relaxed)))
            .done()?;
        Ok(Self { watching })
    }

    /// Applies effects in the transaction, all of them or none, and returns how one failed, if it did.
    pub(super) fn apply(
        &self,
        db: &Connection,
        effects: &[&Effect],
    ) -> Result<Option<Failure>, Refused> {
        db.execute_batch("SAVEPOINT windlass_effect")?;
        let tx = SqliteTx { db };
        let ended = || Failure::permanent("its effect rolled the whole transaction back");
        let failed = effects.iter().try_for_each(|effect| {
            self.apply_one(&tx, effect)?;
            if db.is_autocommit() {
                return Err(Refused::Effect(ended()));
            }
            Ok(())
        });
        let failure = match failed {
            Ok(()) => None,
            Err(Refused::Effect(failure)) if db.is_autocommit() => {
                return Err(Refused::Effect(failure));
            }
            Err(Refused::Effect(failure)) => Some(failure),
            Err(other) => return Err(other),
        };
        db.execute_batch(match failure {
            None => "RELEASE windlass_effect",
            Some(_) => "ROLLBACK TO windlass_effect; RELEASE windlass_effect",
        })?;
        Ok(failure)
    }

    fn apply_one(&self, tx: &SqliteTx<'_>, effect: &Effect) -> Result<(), Refused> {
        let Some(SqliteEffect(apply)) = effect.downcast() else {
            let what = format!("this store can't apply an effect of another one: {effect:?}");
            return Err(Refused::Broken(StoreError::incompatible(what)));
        };
        self.watching.store(true, Ordering::Relaxed);
        // What it leaves behind is taken back with its savepoint.
        let applied = catch_unwind(AssertUnwindSafe(|| apply(tx)));
        self.watching.store(false, Ordering::Relaxed);
        match applied {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SqliteEffectError(Cause::Sql(e)))) if is_of_file(&e) => Err(Refused::Failed(e)),
            Ok(Err(SqliteEffectError(Cause::Sql(e)))) => Err(Refused::Effect(Failure::new(
                FailureClass::User,
                // Its source is the bare code.
                format!("its effect failed: {e}"),
            ))),
            Ok(Err(SqliteEffectError(Cause::Step(e)))) => {
                let cancelled = || Failure::permanent("its effect was cancelled");
                Err(Refused::Effect(e.into_failure().unwrap_or_else(cancelled)))
            }
            Err(panic) => Err(Refused::Effect(Failure::permanent(format!(
                "its effect panicked: {}",
                text_of(&*panic)
            )))),
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message")
}

/// Returns whether the file can't be written, whoever writes to it.
fn is_of_file(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
        )
    )
}

/// Returns the names of the store's tables, indexes and views, as its migrations make them.
pub(super) fn own_names() -> Result<&'static HashSet<String>, rusqlite::Error> {
    static NAMES: OnceLock<HashSet<String>> = OnceLock::new();
    if let Some(names) = NAMES.get() {
        return Ok(names);
    }
    let db = Connection::open_in_memory()?;
    for migration in MIGRATIONS {
        db.execute_batch(migration)?;
    }
    let mut schema = db.prepare("SELECT lower(name) FROM sqlite_schema")?;
    let names = schema.query_map([], |row| row.get(0))?;
    let names = names.collect::<Result<_, rusqlite::Error>>()?;
    Ok(NAMES.get_or_init(|| names))
}

/// Reads and writes of tables that aren't the store's, and making, changing and dropping them.
fn is_allowed(cx: &AuthContext<'_>, own: &HashSet<String>) -> bool {
    let free = |name: &str| !own.contains(&name.to_ascii_lowercase());
    let main = cx.database_name.is_none_or(|name| name == "main");
    // ALTER TABLE looks there, too; nothing is in it, and nothing can be put there by its name.
    if let AuthAction::Read { table_name, .. } | AuthAction::Update { table_name, .. } = &cx.action
        && *table_name == "sqlite_temp_master"
    {
        return true;
    }
    main && match &cx.action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => *function_name != "load_extension",
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::CreateTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropTable { table_name } => free(table_name),
        AuthAction::CreateIndex {
            index_name,
            table_name,
        }
        | AuthAction::DropIndex {
            index_name,
            table_name,
        } => free(index_name) && free(table_name),
        AuthAction::CreateTrigger {
            trigger_name,
            table_name,
        }
        | AuthAction::DropTrigger {
            trigger_name,
            table_name,
        } => free(trigger_name) && free(table_name),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => {
            free(view_name)
        }
        // CREATE INDEX fills the index of a table, which `CreateIndex` is asked about.
        AuthAction::Reindex { index_name } => free(index_name),
        // ALTER TABLE looks over the rows like this.
        AuthAction::Pragma {
            pragma_name: "quick_check",
            pragma_value: Some(table),
        } => free(table),
        _ => false,
    }
}

/// What setting an authorizer returns: nothing in older releases of rusqlite, a result in newer ones.
trait Set {
    fn done(self) -> Result<(), rusqlite::Error>;
}

impl Set for () {
    fn done(self) -> Result<(), rusqlite::Error> {
        Ok(())
    }
}

impl Set for Result<(), rusqlite::Error> {
    fn done(self) -> Self {
        self
    }
}

//! Effects of steps: code of the host within the writer's transaction.
//!
//! They come first in it: each transition's in a savepoint, then the rows of all transitions whose effects
//! are in, the fence, and COMMIT. So an effect that fails takes back what it did and nothing else, one of a
//! host that is fenced goes with the whole transaction, and no row that other hosts wait for is locked
//! while an effect runs.
//!
//! Each statement is sent by itself as one that may have parameters, where the server takes one command
//! only, and its first word says which: none that ends a transaction is let through. A table that was used
//! is locked until the transaction ends, so the server's list of locks shows whether an effect came near
//! the store's own. Settings are those of the role and the database while an effect runs, and the store's
//! again behind it, whatever it set.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures::FutureExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};
use windlass_core::run_store::{Change, Transition};
use windlass_core::{EffectKind, Failure, FailureClass, StepError, StoreEffect, error_chain};

use super::PostgresOptions;
use super::connect::{Connection, Pipeline, Purpose, idle, in_time, settings};
use super::error::{Trouble, trouble};
use super::write::Rejected;

/// What an effect's closure returns: `Box::pin(async move { … })`.
pub type PostgresEffectFuture<'tx> =
    Pin<Box<dyn Future<Output = Result<(), PostgresEffectError>> + Send + 'tx>>;

type Body = dyn for<'tx> Fn(&'tx PostgresTx<'tx>) -> PostgresEffectFuture<'tx> + Send + Sync;

/// What a [`windlass_core::TxStep`] does in the transaction of a [`PostgresStore`](super::PostgresStore)
/// that keeps the step's completion.
///
/// It runs on the store's one connection that writes: while it does, this host writes nothing else, so it
/// should take milliseconds. After a quarter of [`PostgresOptions::lease_ttl`] it has failed as timed out;
/// it must not block its thread. It may be called again where the transaction had to be sent anew; only
/// what the last call did is ever in. A panic is caught and is a permanent failure of the attempt.
///
/// Tables are found as the role's and the database's `search_path` says, not in the store's schema.
///
/// ```
/// use windlass_core::Pipeline;
/// use windlass_state::PostgresEffect;
/// let mut p = Pipeline::builder("scores");
/// p.add_tx("score", |_| async {
///     let score = 42_i64; // The work is done here, outside of any transaction.
///     let effect = PostgresEffect::new(move |tx| {
///         Box::pin(async move {
///             tx.execute("INSERT INTO app.score (score) VALUES ($1)", &[&score]).await?;
///             Ok(())
///         })
///     });
///     Ok((score, effect))
/// });
/// p.build().unwrap();
/// ```
pub struct PostgresEffect(Box<Body>);

impl PostgresEffect {
    /// Makes an effect of a closure.
    #[must_use]
    pub fn new<F>(apply: F) -> Self
    where
        F: for<'tx> Fn(&'tx PostgresTx<'tx>) -> PostgresEffectFuture<'tx> + Send + Sync + 'static,
    {
        Self(Box::new(apply))
    }
}

impl fmt::Debug for PostgresEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresEffect")
    }
}

impl StoreEffect for PostgresEffect {
    const KIND: EffectKind = EffectKind::new("postgres");
}

/// Why an effect failed: made of an error of a statement, or of a [`StepError`] where that should say
/// whether a retry may help.
///
/// ```
/// use windlass_core::StepError;
/// use windlass_state::PostgresEffectError;
/// let error = PostgresEffectError::from(StepError::permanent("no such customer"));
/// assert_eq!(error.to_string(), "no such customer");
/// assert!(error.sql().is_none());
/// ```
#[derive(Debug)]
pub struct PostgresEffectError(Cause);

#[derive(Debug)]
enum Cause {
    Step(StepError),
    Sql(Error),
    /// The statement was not sent.
    Refused(String),
}

impl PostgresEffectError {
    /// Returns the error of the statement, if it is one, to look at its code. What the transaction can do
    /// is over by then: all that is left is to say how the effect failed.
    #[must_use]
    pub const fn sql(&self) -> Option<&Error> {
        match &self.0 {
            Cause::Sql(e) => Some(e),
            Cause::Step(_) | Cause::Refused(_) => None,
        }
    }
}

impl fmt::Display for PostgresEffectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Step(e) => e.fmt(f),
            Cause::Sql(e) => f.write_str(&told(e)),
            Cause::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PostgresEffectError {}

impl From<Error> for PostgresEffectError {
    fn from(e: Error) -> Self {
        Self(Cause::Sql(e))
    }
}

impl From<StepError> for PostgresEffectError {
    fn from(e: StepError) -> Self {
        Self(Cause::Step(e))
    }
}

/// The first words of statements that an effect may send.
const VERBS: [&str; 16] = [
    "SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "LOCK",
    "REFRESH", "CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE",
];

/// Returns whether the one command that the server takes of a text is let through.
fn is_allowed(sql: &str) -> bool {
    let sql = sql.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    let end = sql.find(|c: char| !c.is_ascii_alphabetic());
    let verb = &sql[..end.unwrap_or(sql.len())];
    VERBS.iter().any(|known| verb.eq_ignore_ascii_case(known))
}

/// The transaction that an effect is part of, as far as it is the effect's.
///
/// It can't be ended from here: a statement is one command that begins, without a comment before it, with
/// `SELECT`, `WITH`, `VALUES`, `INSERT`, `UPDATE`, `DELETE`, `MERGE`, `TRUNCATE`, `LOCK`, `REFRESH`, `CREATE`,
/// `ALTER`, `DROP`, `COMMENT`, `GRANT` or `REVOKE`, and no other one is sent. After an error of the server
/// every further statement fails, and so has the effect, whatever it returns.
///
/// ```
/// # use windlass_state::PostgresEffect;
/// PostgresEffect::new(|tx| {
///     Box::pin(async move {
///         let row = tx.query_one("SELECT count(*) FROM app.score", &[]).await?;
///         let known: i64 = row.try_get(0)?;
///         if known < 10 {
///             tx.execute("INSERT INTO app.score (score) VALUES ($1)", &[&known]).await?;
///         }
///         Ok(())
///     })
/// });
/// ```
pub struct PostgresTx<'tx> {
    client: &'tx Client,
    /// The first error of the server, also where the effect keeps it to itself.
    first: OnceLock<(Trouble, Failure)>,
}

impl fmt::Debug for PostgresTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresTx")
    }
}

impl PostgresTx<'_> {
    /// Runs a statement, and returns how many rows it changed.
    ///
    /// # Errors
    /// Those of PostgreSQL, and that the statement isn't one that an effect may send.
    pub async fn execute(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, PostgresEffectError> {
        check(sql)?;
        self.noted(self.client.execute(sql, params).await)
    }

    /// Runs a statement, and returns its rows.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresEffectError> {
        check(sql)?;
        self.noted(self.client.query(sql, params).await)
    }

    /// Runs a statement, and returns its one row.
    ///
    /// # Errors
    /// As [`Self::execute`], and that there are none or several.
    pub async fn query_one(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresEffectError> {
        check(sql)?;
        self.noted(self.client.query_one(sql, params).await)
    }

    fn noted<T>(&self, answer: Result<T, Error>) -> Result<T, PostgresEffectError> {
        answer.map_err(|e| {
            if e.code().is_some() {
                self.first.get_or_init(|| (trouble(&e), failure_of(&e)));
            }
            PostgresEffectError(Cause::Sql(e))
        })
    }
}

fn check(sql: &str) -> Result<(), PostgresEffectError> {
    if is_allowed(sql) {
        return Ok(());
    }
    let verb: String = sql.chars().take(20).collect();
    Err(PostgresEffectError(Cause::Refused(format!(
        "an effect can't send such a statement: begin it with one of {} statement=`{verb}`",
        VERBS.join(", ")
    ))))
}

/// What the server said, or why nothing was sent to it.
fn told(e: &Error) -> String {
    let told = e.as_db_error().map(|e| e.message().to_owned());
    told.unwrap_or_else(|| error_chain(e))
}

fn failure_of(e: &Error) -> Failure {
    let class = if e.code() == Some(&SqlState::QUERY_CANCELED) {
        FailureClass::TimedOut
    } else {
        FailureClass::User
    };
    Failure::new(class, format!("its effect failed: {}", told(e)))
}

/// What surrounds each effect on one connection.
#[derive(Debug)]
pub(super) struct Frame {
    open: String,
    close: String,
    /// Names one of the store's own relations that the transaction has used.
    used: Statement,
    own: Vec<u32>,
    limit: Duration,
}

impl Frame {
    pub(super) async fn prepare(db: &Connection, options: &PostgresOptions) -> Result<Self, Error> {
        let own = "SELECT oid FROM pg_class WHERE relnamespace = $1::text::regnamespace";
        let own = db.client.query(own, &[&options.schema]).await?;
        let own: Result<_, _> = own.iter().map(|row| row.try_get(0)).collect();
        let used = "SELECT relation::regclass::text FROM pg_locks \
            WHERE locktype = 'relation' AND pid = pg_backend_pid() AND relation = ANY ($1::oid[]) \
            ORDER BY relation LIMIT 1";
        // Before a client that does nothing meanwhile loses its connection.
        let limit = options.lease_ttl / 4;
        Ok(Self {
            open: format!(
                "SAVEPOINT windlass_effect; RESET ALL; SET LOCAL statement_timeout TO {}; \
                 SET LOCAL idle_in_transaction_session_timeout TO {}",
                limit.as_millis().max(1),
                idle(options)
            ),
            // Deferred constraints are looked at where it is known whose rows they are about, and are
            // deferred again for the next effect.
            close: format!(
                "SAVEPOINT windlass_check; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO windlass_check; \
                 RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; {}",
                settings(options, Purpose::Write)
            ),
            used: db.client.prepare(used).await?,
            own: own?,
            limit,
        })
    }

    /// How long the effects of some transitions may take: each until it is given up, and the last
    /// statement of each until the server gives it up.
    pub(super) fn patience(&self, transitions: usize) -> Duration {
        let count = u32::try_from(transitions).unwrap_or(u32::MAX);
        self.limit.saturating_mul(2).saturating_mul(count)
    }
}

fn of(transition: &Transition) -> impl Iterator<Item = &PostgresEffect> {
    let changes = transition.changes.iter();
    changes.filter_map(|change| match change {
        // One of another kind is refused with the rows of its transition.
        Change::Effect(effect) => effect.downcast(),
        _ => None,
    })
}

/// Returns whether something is to be applied before the rows of a transition.
pub(super) fn is_in(transition: &Transition) -> bool {
    of(transition).next().is_some()
}

/// The effects of a group, in its transaction.
#[derive(Debug)]
pub(super) struct Effects<'w> {
    client: &'w Client,
    frame: &'w Frame,
    /// A deadlock is the effect's failure from now on.
    last: bool,
    /// Whether the transaction has begun.
    pub(super) begun: bool,
}

impl<'w> Effects<'w> {
    pub(super) const fn new(client: &'w Client, frame: &'w Frame, last: bool) -> Self {
        Self {
            client,
            frame,
            last,
            begun: false,
        }
    }

    /// Applies the effects of a transition, all of them or none, and returns how one failed, if it did.
    pub(super) async fn apply(
        &mut self,
        transition: &Transition,
    ) -> Result<Option<Failure>, Rejected> {
        if !is_in(transition) {
            return Ok(None);
        }
        if !self.begun {
            self.begun = true;
            self.client.batch_execute(super::write::BEGIN).await?;
        }
        self.client.batch_execute(&self.frame.open).await?;
        let failure = match self.call(transition).await? {
            None => self.close().await?,
            failed => failed,
        };
        self.client
            .batch_execute(match failure {
                None => "RELEASE windlass_effect",
                Some(_) => "ROLLBACK TO windlass_effect; RELEASE windlass_effect",
            })
            .await?;
        Ok(failure)
    }

    /// Takes the transaction back, if it has begun; an error of that is known by the one before.
    pub(super) async fn roll_back(self) {
        if self.begun {
            self.client.batch_execute("ROLLBACK").await.ok();
        }
    }

    async fn call(&self, transition: &Transition) -> Result<Option<Failure>, Rejected> {
        let tx = PostgresTx {
            client: self.client,
            first: OnceLock::new(),
        };
        let all = async {
            for PostgresEffect(apply) in of(transition) {
                apply(&tx).await?;
            }
            Ok(())
        };
        // What it leaves behind is taken back with its savepoint. What it sent and didn't wait for is
        // before that, as all goes by one wire.
        let called = in_time(self.frame.limit, AssertUnwindSafe(all).catch_unwind()).await;
        let first = tx.first.into_inner();
        if let Some((trouble, failure)) = &first {
            self.of_all(*trouble, failure)?;
        }
        let Some(called) = called else {
            let limit = self.frame.limit;
            let message = format!("its effect took longer than {limit:?}");
            return Ok(Some(Failure::new(FailureClass::TimedOut, message)));
        };
        Ok(match called {
            Ok(Ok(())) => first.map(|(_, failure)| failure),
            Ok(Err(PostgresEffectError(Cause::Sql(e)))) => Some(failure_of(&e)),
            Ok(Err(PostgresEffectError(Cause::Refused(why)))) => Some(Failure::permanent(why)),
            Ok(Err(PostgresEffectError(Cause::Step(e)))) => {
                let cancelled = || Failure::permanent("its effect was cancelled");
                Some(e.into_failure().unwrap_or_else(cancelled))
            }
            Err(panic) => Some(Failure::permanent(format!(
                "its effect panicked: {}",
                text_of(&*panic)
            ))),
        })
    }

    /// Looks at what the effects did, and makes the connection what it was.
    async fn close(&self) -> Result<Option<Failure>, Rejected> {
        let args: [&(dyn ToSql + Sync); 1] = [&self.frame.own];
        let mut all = Pipeline::new(self.client);
        all.text(&self.frame.close).await;
        all.statement(&self.frame.used, &args).await;
        let answers = match all.answers().await {
            Ok(answers) => answers,
            Err(e) => {
                let failure = failure_of(&e);
                self.of_all(trouble(&e), &failure)?;
                return Ok(Some(failure));
            }
        };
        let Some(row) = answers.last().and_then(|rows| rows.first()) else {
            return Ok(None);
        };
        let name: &str = row.try_get(0)?;
        Ok(Some(Failure::permanent(format!(
            "its effect used a table of the store: leave them to the engine name=`{name}`"
        ))))
    }

    /// Refuses the whole group for an error that is not the effect's own. A connection that is lost shows
    /// with the next statement.
    fn of_all(&self, trouble: Trouble, failure: &Failure) -> Result<(), Rejected> {
        match trouble {
            Trouble::Again if !self.last => Err(Rejected::Again),
            Trouble::Full => Err(Rejected::Failed(trouble, failure.message.clone())),
            _ => Ok(()),
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_transaction_is_not_let_through_however_it_is_written() {
        for sql in [
            "COMMIT",
            " \n\tcommit and chain",
            "END",
            "ABORT",
            "ROLLBACK",
            "BEGIN",
            "START TRANSACTION",
            "PREPARE TRANSACTION 'x'",
            "SAVEPOINT mine",
            "RELEASE windlass_effect",
            "SET ROLE other",
            "RESET ALL",
            "DISCARD ALL",
            "CALL mine()",
            "DO $$ BEGIN COMMIT; END $$",
            "EXECUTE s1",
            "LISTEN news",
            "COPY app FROM STDIN",
            ";COMMIT",
            "/* SELECT */ COMMIT",
            "/* /* */ SELECT */ COMMIT",
            "-- SELECT\nCOMMIT",
            "(SELECT 1)",
            "SELECTED",
            "é",
            "",
        ] {
            assert!(!is_allowed(sql), "{sql}");
        }
        for sql in [
            "select 1",
            "\r\n INSERT INTO app VALUES (1)",
            "WITH x AS",
            "With(x)",
        ] {
            assert!(is_allowed(sql), "{sql}");
        }
    }
}

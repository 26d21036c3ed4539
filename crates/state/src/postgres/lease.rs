//! Which shards this host holds, and how it says that it lives.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;
use tokio_postgres::types::ToSql;
use windlass_core::run_store::StoreError;
use windlass_core::{Claim, Digest, HostRecord, Lease, Shard, ShardSet, Sharing};

use super::claims::Claims;
use super::connect::{Connection, Purpose, Server, open};
use super::error::failed;
use super::listen::Listener;
use super::pool::Pool;
use super::{PostgresOptions, observing, read};

/// The shards of this host with their epochs, as far as it was told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epochs {
    /// By shard; 0 where it isn't held.
    epochs: [i64; Shard::COUNT as usize],
    /// Grows when a shard is taken: what was known of its runs may be old.
    pub(super) takes: u64,
}

impl Epochs {
    pub(super) fn shards(&self) -> ShardSet {
        let all = ShardSet::ALL.iter();
        all.filter(|s| self.of(*s) != 0).collect()
    }

    /// Returns the arguments of the fence.
    pub(super) fn asserted(&self, shards: ShardSet) -> (Vec<i16>, Vec<i64>) {
        let epochs = shards.iter().map(|s| self.of(s)).collect();
        (read::numbers(shards), epochs)
    }

    fn of(&self, shard: Shard) -> i64 {
        self.epochs[usize::from(shard.number())]
    }

    /// Forgets shards that were lost while this was so.
    fn lose(&mut self, shards: ShardSet, when: &Self) {
        for shard in shards.iter() {
            if self.of(shard) == when.of(shard) {
                self.epochs[usize::from(shard.number())] = 0;
            }
        }
    }

    /// Remembers an answer, and returns the shards in it that were not held, or not without a break.
    fn set(&mut self, answer: &[(Shard, i64)]) -> ShardSet {
        let before = std::mem::replace(&mut self.epochs, [0; Shard::COUNT as usize]);
        let mut taken = ShardSet::NONE;
        for (shard, epoch) in answer {
            let place = usize::from(shard.number());
            self.epochs[place] = *epoch;
            if before[place] != *epoch {
                taken.insert(*shard);
            }
        }
        self.takes += u64::from(!taken.is_empty());
        taken
    }
}

#[derive(Debug)]
pub(super) struct Held(Mutex<Epochs>);

impl Held {
    pub(super) const fn none() -> Self {
        Self(Mutex::new(Epochs {
            epochs: [0; Shard::COUNT as usize],
            takes: 0,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Epochs> {
        // Each change is a few assignments, none of which panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Epochs {
        *self.lock()
    }

    pub(super) fn lose(&self, shards: ShardSet, when: &Epochs) {
        self.lock().lose(shards, when);
    }
}

/// This host among the others.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) host: String,
    pub(super) held: std::sync::Arc<Held>,
    pub(super) name: String,
    server: Server,
    options: PostgresOptions,
    /// Its own, so that a busy writer never holds up that this host lives.
    connection: AsyncMutex<Option<Connection>>,
    pool: std::sync::Arc<Pool>,
    listener: Listener,
    claims: std::sync::Arc<Claims>,
}

impl Share {
    pub(super) fn new(
        host: String,
        server: Server,
        options: PostgresOptions,
        pool: std::sync::Arc<Pool>,
    ) -> Self {
        let name = options.host_name.clone().unwrap_or_else(host_name);
        let listener = Listener::new(server.clone(), options.clone(), host.clone());
        let claims = std::sync::Arc::new(Claims::new(server.clone(), options.clone()));
        Self {
            host,
            held: std::sync::Arc::new(Held::none()),
            name,
            server,
            options,
            connection: AsyncMutex::new(None),
            pool,
            listener,
            claims,
        }
    }

    /// Asks in one statement, which is in or not; a call that gets no answer in time is given up with
    /// its connection.
    async fn ask(
        &self,
        kept: &mut Option<Connection>,
        sql: &str,
        args: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        if kept.as_ref().is_none_or(|c| c.client.is_closed()) {
            *kept = Some(open(&self.server, &self.options, Purpose::Lease).await?);
        }
        let Some(connection) = kept else {
            return Err(StoreError::unavailable("there is no connection"));
        };
        match connection.query(sql, args).await {
            Ok(rows) => Ok(rows),
            Err(e) => {
                *kept = None;
                Err(failed("renew the lease of this host", e))
            }
        }
    }

    async fn ask_in_time(
        &self,
        sql: &str,
        args: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let mut kept = self.connection.lock().await;
        let patience = (self.options.lease_ttl / 3).max(Duration::from_millis(250));
        #[expect(
            clippy::disallowed_methods,
            reason = "a real network is waited for in real time; a simulation has no such store"
        )]
        let asked = tokio::time::timeout(patience, self.ask(&mut kept, sql, args)).await;
        asked.unwrap_or_else(|_| {
            *kept = None;
            Err(StoreError::unavailable(format!(
                "the database did not renew the lease of this host in time: try again waited=`{patience:?}`"
            )))
        })
    }
}

fn host_name() -> String {
    let system = rustix::system::uname();
    let machine = system.nodename().to_string_lossy();
    format!("{machine}:{}", std::process::id())
}

#[async_trait]
impl Sharing for Share {
    fn host(&self) -> &str {
        &self.host
    }

    async fn renew(&self, give: ShardSet) -> Result<Lease, StoreError> {
        if self.options.observe {
            return Err(observing());
        }
        // From here on nothing is written to them, whatever becomes of the call.
        self.held.lose(give, &self.held.now());
        let ttl = i64::try_from(self.options.lease_ttl.as_micros()).unwrap_or(i64::MAX / 2);
        let give = read::numbers(give);
        let sql = "SELECT shards, epochs, surplus FROM renew($1, $2, $3, $4)";
        let args: [&(dyn ToSql + Sync); 4] = [&self.host, &self.name, &ttl, &give];
        let rows = self.ask_in_time(sql, &args).await?;
        let wrong = || StoreError::corrupt("the database answered a renewal with something else");
        let row = rows.first().ok_or_else(wrong)?;
        let shards = row.try_get::<_, Option<Vec<i16>>>(0).map_err(|_| wrong())?;
        let epochs = row.try_get::<_, Option<Vec<i64>>>(1).map_err(|_| wrong())?;
        let surplus = row.try_get::<_, i64>(2).map_err(|_| wrong())?;
        let known = |(shard, epoch)| Some((read::shard(shard)?, epoch));
        let pairs = shards
            .into_iter()
            .flatten()
            .zip(epochs.into_iter().flatten());
        let answer: Vec<_> = pairs.filter_map(known).collect();
        let taken = self.held.lock().set(&answer);
        let held = answer.iter().map(|(shard, _)| *shard).collect();
        let surplus = u32::try_from(surplus).unwrap_or(0);
        Ok(Lease::new(held, taken, surplus, self.options.lease_ttl))
    }

    async fn hand_over(&self) -> Result<(), StoreError> {
        if self.options.observe {
            return Ok(());
        }
        self.held.lose(ShardSet::ALL, &self.held.now());
        let args: [&(dyn ToSql + Sync); 2] = [&self.host, &self.name];
        self.ask_in_time("SELECT hand_over($1, $2)", &args).await?;
        Ok(())
    }

    async fn woken(&self) {
        self.listener.woken().await;
    }

    async fn claim(&self, key: &Digest) -> Result<Option<Claim>, StoreError> {
        self.claims.claim(key).await
    }

    async fn hosts(&self) -> Result<Vec<HostRecord>, StoreError> {
        self.pool.read(read::hosts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(n: u8) -> Shard {
        Shard::new(n).unwrap()
    }

    #[test]
    fn a_shard_that_changed_hands_in_between_is_taken() {
        let held = Held::none();
        let taken = held.lock().set(&[(shard(1), 3), (shard(2), 5)]);
        assert_eq!(taken, [shard(1), shard(2)].into_iter().collect());
        let taken = held.lock().set(&[(shard(1), 3), (shard(2), 7)]);
        assert_eq!(taken, [shard(2)].into_iter().collect());
        assert_eq!(held.lock().set(&[(shard(2), 7)]), ShardSet::NONE);
        assert_eq!(held.now().shards(), [shard(2)].into_iter().collect());
        assert_eq!(held.now().takes, 2);
    }

    #[test]
    fn a_shard_that_was_taken_again_is_not_lost_by_old_news() {
        let held = Held::none();
        held.lock().set(&[(shard(1), 3), (shard(2), 5)]);
        let before = held.now();
        held.lock().set(&[(shard(1), 4), (shard(2), 5)]);
        held.lose(ShardSet::ALL, &before);
        assert_eq!(held.now().shards(), [shard(1)].into_iter().collect());
        assert_eq!(held.now().asserted(ShardSet::ALL).1[1], 4);
    }
}

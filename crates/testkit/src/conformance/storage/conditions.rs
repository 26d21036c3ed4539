//! Promises about puts with conditions.

use bytes::Bytes;
use futures::future::join_all;
use windlass_core::{ObjectKey, ObjectMeta, PutMode, StorageErrorKind, StorageExt};

use super::{Broken, Found, Place, fails_with, that};

/// Creates, and counters, that race.
const RACERS: usize = 16;
const COUNTERS: usize = 4;
const COUNTS: usize = 5;
/// Conflicts that one count may meet: every one means that another count went through, twice over.
const TRIES: usize = 2 * COUNTERS * COUNTS;

pub(super) async fn a_create_never_replaces(p: &Place<'_>) -> Found {
    let key = p.key("x")?;
    p.storage.put(&key, "first".into(), PutMode::Create).await?;
    let second = p.storage.put(&key, "second".into(), PutMode::Create).await;
    fails_with(second, StorageErrorKind::AlreadyExists, "second create")?;
    that(p.text(&key).await? == "first", || {
        "the second create replaced".to_owned()
    })?;
    p.storage.delete(&key).await?;
    p.storage.put(&key, "third".into(), PutMode::Create).await?;
    Ok(())
}

pub(super) async fn of_racing_creates_one_wins(p: &Place<'_>) -> Found {
    for round in 0..3 {
        let key = p.key(&format!("deep/{round}/x"))?;
        let races = (0..RACERS).map(|i| {
            let key = &key;
            async move {
                let data = Bytes::from(i.to_string().repeat(1_000));
                (i, p.storage.put(key, data, PutMode::Create).await)
            }
        });
        let mut winners = Vec::new();
        for (i, result) in join_all(races).await {
            match result {
                Ok(_) => winners.push(i),
                Err(e) => fails_with(Err::<(), _>(e), StorageErrorKind::AlreadyExists, "loser")?,
            }
        }
        that(winners.len() == 1, || format!("winners: {winners:?}"))?;
        let text = p.text(&key).await?;
        that(text == winners[0].to_string().repeat(1_000), || {
            "not the winner's content".to_owned()
        })?;
    }
    Ok(())
}

pub(super) async fn an_update_needs_the_version_that_is_there(p: &Place<'_>) -> Found {
    let key = p.key("x")?;
    let one = p.put(&key, "1").await?;
    let update = |data: &'static str, m: &ObjectMeta| {
        let mode = PutMode::Update(m.version.clone());
        let key = key.clone();
        async move { p.storage.put(&key, data.into(), mode).await }
    };
    let two = update("2", &one).await?;
    that(one.version != two.version, || {
        "both contents have one version".to_owned()
    })?;
    fails_with(
        update("3", &one).await,
        StorageErrorKind::Conflict,
        "update of an old version",
    )?;
    that(p.text(&key).await? == "2", || {
        "the refused update was written".to_owned()
    })?;
    // What each way of looking says is good for an update.
    let head = p.storage.head(&key).await?;
    update("4", &head).await?;
    let (got, _) = p.storage.get(&key, 9).await?;
    update("5", &got).await?;
    p.storage.delete(&key).await?;
    fails_with(
        update("6", &got).await,
        StorageErrorKind::Conflict,
        "update of nothing",
    )?;
    fails_with(
        p.storage.head(&key).await,
        StorageErrorKind::NotFound,
        "head",
    )
}

pub(super) async fn no_update_is_lost(p: &Place<'_>) -> Found {
    let key = p.key("counter")?;
    p.put(&key, "0").await?;
    let counters = (0..COUNTERS).map(|_| async {
        for _ in 0..COUNTS {
            count(p, &key).await?;
        }
        Ok::<_, Broken>(())
    });
    join_all(counters).await.into_iter().collect::<Found>()?;
    let (counted, expected) = (p.text(&key).await?, (COUNTERS * COUNTS).to_string());
    that(counted == expected, || {
        format!("{expected} updates counted {counted}")
    })
}

async fn count(p: &Place<'_>, key: &ObjectKey) -> Found {
    for _ in 0..TRIES {
        let (meta, data) = p.storage.get(key, 100).await?;
        let number: usize = String::from_utf8_lossy(&data)
            .parse()
            .map_err(|e| Broken(format!("the counter is {data:?}: {e}")))?;
        // Lets the others read the same number, also where nothing ever waits.
        stand_back().await;
        let next = (number + 1).to_string().into();
        match p
            .storage
            .put(key, next, PutMode::Update(meta.version))
            .await
        {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == StorageErrorKind::Conflict => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Broken(format!("{TRIES} conflicts in a row")))
}

/// Lets every other future run once.
async fn stand_back() {
    let mut stood = false;
    std::future::poll_fn(|cx| {
        if stood {
            return std::task::Poll::Ready(());
        }
        stood = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

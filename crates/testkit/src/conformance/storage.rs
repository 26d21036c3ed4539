//! What every [`Storage`] must do.
//!
//! [`check`] tries each promise of the trait below a folder of the caller's, which it leaves empty
//! where the storage deletes, and says which promises hold. What a storage says it can't do
//! ([`windlass_core::StorageCapabilities`]) is skipped and named: it is not passed.

mod conditions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;

use bytes::Bytes;
use futures::future::join;
use futures::stream::{self, StreamExt, TryStreamExt};
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageError, StorageErrorKind, StorageExt,
};

use conditions::{
    a_create_never_replaces, an_update_needs_the_version_that_is_there, no_update_is_lost,
    of_racing_creates_one_wins,
};

/// Larger than any adapter should hold of a stream before it writes.
const LARGE: usize = (20 << 20) + 3;
/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Promises that hold.
    pub held: Vec<&'static str>,
    /// Promises about what the storage says it can't do.
    pub skipped: Vec<&'static str>,
    /// Promises that are broken, and how.
    pub broken: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, skipped) = (self.held.len(), self.skipped.join(", "));
        write!(f, "{held} hold, skipped: [{skipped}]")?;
        self.broken
            .iter()
            .try_for_each(|(promise, how)| write!(f, "\n  {promise}: {how}"))
    }
}

/// How a promise came out; an error says how it is broken.
type Found = Result<(), Broken>;

/// How a promise is broken.
struct Broken(String);

impl From<StorageError> for Broken {
    fn from(e: StorageError) -> Self {
        Self(format!(
            "{:?}: {}",
            e.kind(),
            windlass_core::error_chain(&e)
        ))
    }
}

impl From<windlass_core::InvalidKey> for Broken {
    fn from(e: windlass_core::InvalidKey) -> Self {
        Self(e.to_string())
    }
}

fn that(holds: bool, otherwise: impl FnOnce() -> String) -> Found {
    if holds {
        Ok(())
    } else {
        Err(Broken(otherwise()))
    }
}

fn fails_with<T>(result: Result<T, StorageError>, kind: StorageErrorKind, what: &str) -> Found {
    match result {
        Ok(_) => Err(Broken(format!("{what} succeeded instead of {kind:?}"))),
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) => {
            let found = Broken::from(e).0;
            Err(Broken(format!(
                "{what} failed with {found} instead of {kind:?}"
            )))
        }
    }
}

/// The storage, and a folder for one promise.
struct Place<'a> {
    storage: &'a dyn Storage,
    folder: ObjectKey,
}

impl Place<'_> {
    fn key(&self, below: &str) -> Result<ObjectKey, Broken> {
        Ok(self.folder.join(below)?)
    }

    async fn put(&self, key: &ObjectKey, data: &str) -> Result<ObjectMeta, Broken> {
        let data = Bytes::from(data.to_owned());
        Ok(self.storage.put(key, data, PutMode::Overwrite).await?)
    }

    async fn text(&self, key: &ObjectKey) -> Result<String, Broken> {
        let (_, data) = self.storage.get(key, u64::MAX).await?;
        Ok(String::from_utf8_lossy(&data).into_owned())
    }

    async fn range(&self, key: &ObjectKey, from: u64, to: u64) -> Result<String, Broken> {
        let (_, data) = self.storage.get_stream(key, Some(from..to)).await?;
        let parts: Vec<Bytes> = data.try_collect().await?;
        Ok(String::from_utf8_lossy(&parts.concat()).into_owned())
    }

    async fn names(&self, folder: &ObjectKey) -> Result<Vec<String>, Broken> {
        let all = self.storage.list_sorted(folder).await?;
        let below = all.iter().map(|m| m.key.below(folder));
        Ok(below.map(|b| b.unwrap_or("(outside)").to_owned()).collect())
    }
}

/// Bytes that differ everywhere, cut into pieces of uneven sizes.
fn pattern(size: usize) -> (Bytes, ByteStream) {
    let all: Bytes = (0..size)
        .map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8)
        .collect();
    let (mut rest, mut pieces) = (all.clone(), Vec::new());
    let mut length = 1;
    while !rest.is_empty() {
        pieces.push(Ok(rest.split_to(length.min(rest.len()))));
        length = length * 3 % 700_001 + 1;
    }
    (all, stream::iter(pieces).boxed())
}

/// A stream that gives the pattern and then fails.
fn broken_stream(size: usize) -> ByteStream {
    let error = stream::iter([Err(StorageError::internal("the source broke"))]);
    pattern(size).1.chain(error).boxed()
}

async fn an_object_reads_back_as_it_was_put(p: &Place<'_>) -> Found {
    for size in [0, 1, 70_000, LARGE] {
        let (key, (all, data)) = (p.key(&format!("size-{size}"))?, pattern(size));
        let put = p.storage.put_stream(&key, data, PutMode::Overwrite).await?;
        that(put.size == size as u64 && put.key == key, || {
            format!("put of {size} returned {put:?}")
        })?;
        let (meta, read) = p.storage.get(&key, u64::MAX).await?;
        that(read == all, || {
            format!("{size} bytes came back different, as {}", read.len())
        })?;
        that(meta.size == size as u64, || {
            format!("{size} bytes, but get says {meta:?}")
        })?;
    }
    Ok(())
}

async fn put_get_head_and_list_agree(p: &Place<'_>) -> Found {
    let key = p.key("x")?;
    let put = p.put(&key, "some bytes").await?;
    let head = p.storage.head(&key).await?;
    let (get, _) = p.storage.get(&key, 100).await?;
    let list = p.storage.list_sorted(&p.folder).await?;
    for (what, meta) in [
        ("head", Some(&head)),
        ("get", Some(&get)),
        ("list", list.first()),
    ] {
        that(
            meta.is_some_and(|m| m.key == key && m.size == 10 && m.version == put.version),
            || format!("put returned {put:?}, but {what} says {meta:?}"),
        )?;
    }
    Ok(())
}

async fn a_range_is_cut_at_the_end(p: &Place<'_>) -> Found {
    let key = p.key("digits")?;
    p.put(&key, "0123456789").await?;
    p.put(&p.key("empty")?, "").await?;
    for (from, to, expected) in [
        (0, 10, "0123456789"),
        (3, 5, "34"),
        (8, 100, "89"),
        (9, u64::MAX, "9"),
        (10, 20, ""),
        (50, 60, ""),
        (4, 4, ""),
    ] {
        let read = p.range(&key, from, to).await?;
        that(read == expected, || {
            format!("{from}..{to} of ten digits is {read:?}")
        })?;
    }
    let read = p.range(&p.key("empty")?, 0, 5).await?;
    that(read.is_empty(), || format!("0..5 of nothing is {read:?}"))
}

async fn a_range_of_a_large_object_is_its_bytes(p: &Place<'_>) -> Found {
    let (key, (all, data)) = (p.key("large")?, pattern(LARGE));
    p.storage.put_stream(&key, data, PutMode::Overwrite).await?;
    for (from, to) in [
        (1_048_575, 1_048_577),
        (5_000_001, 14_000_000),
        (LARGE - 9, LARGE + 9),
    ] {
        let (meta, data) = p
            .storage
            .get_stream(&key, Some(from as u64..to as u64))
            .await?;
        let parts: Vec<Bytes> = data.try_collect().await?;
        that(parts.concat() == all[from..to.min(LARGE)], || {
            format!("{from}..{to} differs")
        })?;
        that(meta.size == LARGE as u64, || {
            format!("size of the whole is {}", meta.size)
        })?;
    }
    Ok(())
}

async fn what_is_not_there_is_not_found(p: &Place<'_>) -> Found {
    let (none, to) = (p.key("none")?, p.key("to")?);
    let kind = StorageErrorKind::NotFound;
    fails_with(p.storage.head(&none).await, kind, "head")?;
    fails_with(p.storage.get(&none, 1).await, kind, "get")?;
    fails_with(
        p.storage.get_stream(&none, Some(0..9)).await,
        kind,
        "ranged get",
    )?;
    fails_with(p.storage.copy(&none, &to).await, kind, "copy")?;
    p.put(&p.key("folder/x")?, "x").await?;
    fails_with(
        p.storage.head(&p.key("folder")?).await,
        kind,
        "head of a folder",
    )?;
    fails_with(
        p.storage.head(&p.key("folder/x/y")?).await,
        kind,
        "head below an object",
    )?;
    if let Err(e) = p.storage.delete(&none).await {
        fails_with(Err::<(), _>(e), kind, "delete")?;
    }
    Ok(())
}

async fn an_overwrite_replaces_the_whole_object(p: &Place<'_>) -> Found {
    let key = p.key("x")?;
    let long = p.put(&key, "a long content").await?;
    let short = p.put(&key, "short").await?;
    that(long.version != short.version, || {
        "both contents have one version".to_owned()
    })?;
    let text = p.text(&key).await?;
    that(text == "short", || format!("read {text:?}"))
}

async fn a_list_shows_what_is_below_a_folder_at_any_depth(p: &Place<'_>) -> Found {
    for name in ["a/1", "a/b/2", "a/b/c/d/3", "ab/4", "a-5", "A/6"] {
        p.put(&p.key(name)?, name).await?;
    }
    let all = p.names(&p.folder).await?;
    let expected = ["A/6", "a-5", "a/1", "a/b/2", "a/b/c/d/3", "ab/4"];
    that(all == expected, || format!("all: {all:?}"))?;
    let below = p.names(&p.key("a")?).await?;
    that(below == ["1", "b/2", "b/c/d/3"], || {
        format!("below a: {below:?}")
    })?;
    for empty in ["nothing", "a/1", "a/b/c/d/3/e"] {
        let none = p.names(&p.key(empty)?).await?;
        that(none.is_empty(), || format!("below {empty}: {none:?}"))?;
    }
    Ok(())
}

async fn a_deleted_object_is_gone(p: &Place<'_>) -> Found {
    let (key, other) = (p.key("a/b/x")?, p.key("a/y")?);
    p.put(&key, "x").await?;
    p.put(&other, "y").await?;
    p.storage.delete(&key).await?;
    fails_with(
        p.storage.head(&key).await,
        StorageErrorKind::NotFound,
        "head",
    )?;
    let names = p.names(&p.folder).await?;
    that(names == ["a/y"], || format!("left: {names:?}"))?;
    p.put(&key, "again").await?;
    that(p.text(&key).await? == "again", || {
        "a deleted key can't be put again".to_owned()
    })
}

async fn a_copy_shares_nothing_with_its_source(p: &Place<'_>) -> Found {
    let (from, to) = (p.key("from")?, p.key("folder/to")?);
    p.put(&from, "one").await?;
    p.put(&to, "something longer").await?;
    let copied = p.storage.copy(&from, &to).await?;
    that(copied.key == to && copied.size == 3, || {
        format!("copy returned {copied:?}")
    })?;
    p.put(&from, "two").await?;
    that(p.text(&to).await? == "one", || {
        "the copy changed with its source".to_owned()
    })?;
    if let (Some(from), Some(to)) = (p.storage.local_path(&from), p.storage.local_path(&to)) {
        // A step may write through the path: not even that may reach the copy.
        p.storage
            .copy(&p.key("from")?, &p.key("folder/to")?)
            .await?;
        std::fs::write(&from, "by path").map_err(|e| Broken(e.to_string()))?;
        let text = std::fs::read_to_string(&to).map_err(|e| Broken(e.to_string()))?;
        that(text == "two", || {
            "the copy shares its inode with its source".to_owned()
        })?;
    }
    Ok(())
}

async fn a_key_may_hold_any_printable_text(p: &Place<'_>) -> Found {
    let long = "l".repeat(200);
    let names = [
        "with space",
        "100%",
        "%41",
        "a+b&c=d",
        "what?",
        "name#1",
        "ключ-鍵-é",
        "~tilde",
        "'quote\"",
        "[x]{y}",
        "...",
        ".hidden",
        "comma,semi;colon:",
        "star*",
        "<tag>",
        "e\u{301}",
        &long,
    ];
    for name in names {
        let key = p.key(&format!("in {name}/{name}"))?;
        p.put(&key, name).await?;
        let text = p.text(&key).await?;
        that(text == name, || format!("{name:?} reads back as {text:?}"))?;
    }
    let listed: BTreeSet<String> = p.names(&p.folder).await?.into_iter().collect();
    let expected = names.iter().map(|n| format!("in {n}/{n}")).collect();
    that(listed == expected, || {
        format!(
            "lists differ: {:?}",
            listed.symmetric_difference(&expected).collect::<Vec<_>>()
        )
    })
}

async fn a_broken_stream_leaves_nothing(p: &Place<'_>) -> Found {
    for size in [10, LARGE] {
        let (new, old) = (p.key("new")?, p.key("old")?);
        p.put(&old, "old").await?;
        for key in [&new, &old] {
            let data = broken_stream(size);
            let put = p.storage.put_stream(key, data, PutMode::Overwrite).await;
            fails_with(put, StorageErrorKind::Internal, "put of a broken stream")?;
        }
        fails_with(
            p.storage.head(&new).await,
            StorageErrorKind::NotFound,
            "head",
        )?;
        that(p.text(&old).await? == "old", || {
            "the old content is gone".to_owned()
        })?;
        let names = p.names(&p.folder).await?;
        that(names == ["old"], || format!("left over: {names:?}"))?;
    }
    Ok(())
}

async fn a_dropped_put_leaves_nothing(p: &Place<'_>) -> Found {
    for size in [10, LARGE] {
        let key = p.key("x")?;
        let (stopped, mut stops) = futures::channel::mpsc::channel::<()>(1);
        let waits = stream::once(async move {
            // Tells that all before was taken, then never ends.
            let mut stopped = stopped;
            stopped.try_send(()).ok();
            std::future::pending::<Result<Bytes, StorageError>>().await
        });
        let data = pattern(size).1.chain(waits).boxed();
        {
            let put = pin!(p.storage.put_stream(&key, data, PutMode::Overwrite));
            let reached = pin!(stops.next());
            let first = futures::future::select(put, reached).await;
            that(matches!(first, futures::future::Either::Right(_)), || {
                "the put ended before its stream".to_owned()
            })?;
        }
        fails_with(
            p.storage.head(&key).await,
            StorageErrorKind::NotFound,
            "head",
        )?;
        let names = p.names(&p.folder).await?;
        that(names.is_empty(), || format!("left over: {names:?}"))?;
    }
    Ok(())
}

async fn a_reader_sees_one_content_or_the_other(p: &Place<'_>) -> Found {
    let key = p.key("x")?;
    let content = |i: usize| i.to_string().repeat(50_000);
    p.put(&key, &content(0)).await?;
    let write = async {
        for i in 0..20 {
            p.put(&key, &content(i % 10)).await?;
        }
        Ok::<_, Broken>(())
    };
    let read = async {
        for _ in 0..40 {
            let text = p.text(&key).await?;
            let first = text.chars().next();
            that(
                text.len() == 50_000 && text.chars().all(|c| Some(c) == first),
                || format!("a mix of {} bytes", text.len()),
            )?;
        }
        Ok::<_, Broken>(())
    };
    let (written, read) = join(write, read).await;
    written.and(read)
}

async fn paths_and_objects_are_the_same_thing(p: &Place<'_>) -> Found {
    let (put, written) = (p.key("a/put")?, p.key("b/c/written")?);
    p.put(&put, "by put").await?;
    let path = |key: &ObjectKey| {
        let path = p.storage.local_path(key);
        path.ok_or_else(|| Broken(format!("no local path key=`{key}`")))
    };
    let io = |e: std::io::Error| Broken(e.to_string());
    let text = std::fs::read_to_string(path(&put)?).map_err(io)?;
    that(text == "by put", || format!("the path holds {text:?}"))?;
    let there = path(&written)?;
    if let Some(folder) = there.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    std::fs::write(&there, "by path").map_err(io)?;
    p.storage.sync_folder(&p.folder).await?;
    that(p.text(&written).await? == "by path", || {
        "the object is not the file".to_owned()
    })?;
    let names = p.names(&p.folder).await?;
    that(names == ["a/put", "b/c/written"], || {
        format!("listed: {names:?}")
    })
}

async fn a_sync_of_nothing_is_no_error(p: &Place<'_>) -> Found {
    Ok(p.storage.sync_folder(&p.key("nothing")?).await?)
}

async fn a_storage_elsewhere_has_no_paths(p: &Place<'_>) -> Found {
    let path = p.storage.local_path(&p.key("x")?);
    that(path.is_none(), || format!("the path is {path:?}"))
}

/// Tries every promise below `folder`, which nobody else uses.
pub async fn check(storage: &dyn Storage, folder: &ObjectKey) -> Report {
    let can = storage.capabilities();
    let mut report = Report::default();
    macro_rules! promises {
        ($($applies:expr => $promise:ident,)*) => {$(
            let name = stringify!($promise);
            if $applies {
                match in_a_folder(storage, folder, name).await {
                    Err(e) => report.broken.push((name, e.0)),
                    Ok(place) => {
                        let found = $promise(&place).await;
                        let cleaned = empty(&place).await;
                        match found.and(cleaned) {
                            Ok(()) => report.held.push(name),
                            Err(how) => report.broken.push((name, how.0)),
                        }
                    }
                }
            } else {
                report.skipped.push(name);
            }
        )*};
    }
    promises! {
        true => an_object_reads_back_as_it_was_put,
        true => put_get_head_and_list_agree,
        true => a_range_is_cut_at_the_end,
        true => a_range_of_a_large_object_is_its_bytes,
        true => what_is_not_there_is_not_found,
        true => an_overwrite_replaces_the_whole_object,
        true => a_list_shows_what_is_below_a_folder_at_any_depth,
        true => a_deleted_object_is_gone,
        true => a_copy_shares_nothing_with_its_source,
        true => a_key_may_hold_any_printable_text,
        true => a_broken_stream_leaves_nothing,
        true => a_dropped_put_leaves_nothing,
        true => a_reader_sees_one_content_or_the_other,
        true => a_sync_of_nothing_is_no_error,
        can.create_if_absent => a_create_never_replaces,
        can.create_if_absent => of_racing_creates_one_wins,
        can.compare_and_swap => an_update_needs_the_version_that_is_there,
        can.compare_and_swap => no_update_is_lost,
        can.local_paths => paths_and_objects_are_the_same_thing,
        !can.local_paths => a_storage_elsewhere_has_no_paths,
    }
    report
}

async fn in_a_folder<'a>(
    storage: &'a dyn Storage,
    folder: &ObjectKey,
    name: &str,
) -> Result<Place<'a>, Broken> {
    let folder = folder.join(name)?;
    Ok(Place { storage, folder })
}

/// Deletes what a promise left.
async fn empty(place: &Place<'_>) -> Found {
    let left: BTreeMap<ObjectKey, u64> = place
        .storage
        .list(&place.folder)
        .map_ok(|m| (m.key, m.size))
        .try_collect()
        .await?;
    for key in left.keys() {
        place.storage.delete(key).await?;
    }
    Ok(())
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
#[expect(clippy::panic, reason = "a suite panics where a promise is broken")]
pub async fn hold(storage: &dyn Storage, folder: &ObjectKey) -> Report {
    let report = check(storage, folder).await;
    if !report.broken.is_empty() {
        panic!("{storage:?} breaks its contract: {report}");
    }
    report
}

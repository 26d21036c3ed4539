//! `store`: looks after the file that keeps the runs of an environment, also while an engine is at work.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use windlass::project::Project;
use windlass::run_store::StoreErrorKind;
use windlass::wiring::{Variables, open_storages, storage_places};
use windlass::{
    Clock, ClockExt, SqliteStore, Storages, StoreError, SweepOptions, SweptRun, SystemClock,
    error_chain,
};

use super::{Failure, load};
use crate::args::{Place, StoreArgs, StoreCommand};
use crate::exit::Exit;
use crate::json;
use crate::print::out;

/// How often progress is drawn.
const TICK: Duration = Duration::from_millis(100);

pub(crate) async fn store(
    place: &Place,
    args: &StoreArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let live = !as_json
        && io::stderr().is_terminal()
        && variables("TERM").as_deref() != Some("dumb")
        && variables("CI").is_none();
    let say = Say { as_json, live };
    let path = || match &args.file {
        Some(file) => Ok(file.clone()),
        None => path_of(&load(place)?),
    };
    match &args.command {
        StoreCommand::Check => check(&path()?, say).await,
        StoreCommand::Backup { to } => backup(&open(&path()?).await?, to, say).await,
        StoreCommand::Compact => compact(&open(&path()?).await?, say).await,
        StoreCommand::Export { to } => export(&open(&path()?).await?, to.as_deref(), say).await,
        // What stays is named in the store of the environment: by another file it would be missed.
        StoreCommand::Sweep { .. } if args.file.is_some() => {
            let what = "a sweep goes by the environment's own store, not by another file";
            Err(Failure::wrong(what).help("take --file away"))
        }
        StoreCommand::Sweep { dry_run, min_age } => {
            let (dry_run, min_age) = (*dry_run, *min_age);
            let project = load(place)?;
            // Made if they weren't there, so that links in their paths are followed.
            let storages = open_storages(&project, variables).await?;
            let options = SweepOptions {
                dry_run,
                min_age,
                places: storage_places(&project.environment),
            };
            sweep(&project, &storages, &options, say).await
        }
    }
}

/// Opens a file beside an engine that may be at work.
async fn open(path: &Path) -> Result<SqliteStore, Failure> {
    if SqliteStore::exists(path).await? {
        return Ok(SqliteStore::open_read_only(path).await?);
    }
    Err(missing(path))
}

fn missing(path: &Path) -> Failure {
    Failure::wrong(format!("there is no store in {}", path.display()))
        .help("start a run with `windlass run PIPELINE`, or name a file by --file FILE")
}

/// Returns where the environment keeps its runs.
fn path_of(project: &Project) -> Result<PathBuf, Failure> {
    windlass::wiring::store_path(&project.environment).ok_or_else(|| {
        let name = &project.environment.name;
        Failure::wrong(format!("environment {name} keeps its runs in no file"))
    })
}

/// How results are said.
#[derive(Debug, Clone, Copy)]
struct Say {
    as_json: bool,
    /// Whether somebody watches.
    live: bool,
}

impl Say {
    fn done(self, text: &str, object: &Value) {
        if self.as_json {
            out(&format!("{}\n", json::text(object)));
        } else {
            out(&format!("{text}\n"));
        }
    }

    /// Returns a bar of so many things; without a number, one that only moves.
    fn bar(self, what: &'static str, of: Option<(u64, &str)>) -> ProgressBar {
        if !self.live {
            return ProgressBar::hidden();
        }
        let (bar, template) = match of {
            Some((all, shown)) => (
                ProgressBar::new(all),
                format!("{{msg}} [{{wide_bar}}] {shown}"),
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {msg} {elapsed}".to_owned(),
            ),
        };
        let style = ProgressStyle::with_template(&template);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        bar
    }
}

/// Says what is wrong with a file.
async fn check(path: &Path, say: Say) -> Result<ExitCode, Failure> {
    let bar = say.bar("checking", None);
    let examined = examine(path).await;
    bar.finish_and_clear();
    let problems = match examined {
        Ok(None) => return Err(missing(path)),
        Ok(Some(problems)) => problems,
        // One that can't even be opened for what is in it.
        Err(e) if e.kind() == StoreErrorKind::Corrupt => vec![error_chain(&e)],
        Err(e) => return Err(e.into()),
    };
    let shown = path.display();
    let object = json!({ "store": path, "problems": problems });
    if problems.is_empty() {
        say.done(&format!("the store is well: {shown}"), &object);
        return Ok(Exit::Done.into());
    }
    let lines: String = problems.iter().map(|p| format!("  {p}\n")).collect();
    let help = "help: stop what runs and put a backup in its place; `windlass store export` prints what can be read before the damage";
    say.done(
        &format!("the store is damaged: {shown}\n{lines}{help}"),
        &object,
    );
    Ok(Exit::Failed.into())
}

async fn examine(path: &Path) -> Result<Option<Vec<String>>, StoreError> {
    if !SqliteStore::exists(path).await? {
        return Ok(None);
    }
    let store = SqliteStore::open_read_only(path).await?;
    store.check().await.map(Some)
}

/// Refuses to write where something is.
fn is_free(to: &Path) -> Result<(), Failure> {
    if to.symlink_metadata().is_err() {
        return Ok(());
    }
    let taken = format!("there is something in {} already", to.display());
    Err(Failure::wrong(taken).help("name a file that isn't there; nothing is replaced"))
}

fn bytes_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |m| m.len())
}

fn with(path: &Path, extension: &str) -> PathBuf {
    // Parts of a path leave out a slash at its end.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(extension);
    PathBuf::from(name)
}

async fn backup(store: &SqliteStore, to: &Path, say: Say) -> Result<ExitCode, Failure> {
    is_free(to)?;
    let all = bytes_of(store.path());
    let bar = say.bar("copying", Some((all, "{bytes} of {total_bytes}")));
    let (clock, growing) = (SystemClock::new(), with(to, ".partial"));
    let mut copying = std::pin::pin!(store.backup(to));
    let copied = loop {
        tokio::select! {
            copied = &mut copying => break copied,
            () = clock.sleep(TICK) => bar.set_position(bytes_of(&growing).min(all)),
        }
    };
    bar.finish_and_clear();
    copied?;
    let bytes = bytes_of(to);
    let object = json!({ "store": store.path(), "backup": to, "bytes": bytes });
    let text = format!(
        "copied {} to {}, {}",
        store.path().display(),
        to.display(),
        HumanBytes(bytes)
    );
    say.done(&text, &object);
    Ok(Exit::Done.into())
}

async fn compact(store: &SqliteStore, say: Say) -> Result<ExitCode, Failure> {
    let bar = say.bar("compacting", None);
    let done = store.compact().await;
    bar.finish_and_clear();
    let done = done?;
    let object = json!({
        "store": store.path(), "bytes_before": done.bytes_before, "bytes_after": done.bytes_after,
        "engine_at_work": done.beside_engine,
    });
    let text = format!(
        "compacted {}: {} are now {}",
        store.path().display(),
        HumanBytes(done.bytes_before),
        HumanBytes(done.bytes_after)
    );
    say.done(&text, &object);
    Ok(Exit::Done.into())
}

/// Deletes what removed runs left, and says what became of each.
async fn sweep(
    project: &Project,
    storages: &Storages,
    options: &SweepOptions,
    say: Say,
) -> Result<ExitCode, Failure> {
    let store = open(&path_of(project)?).await?;
    let name = &project.environment.run_storage;
    let storage = storages.get(name).ok_or_else(|| {
        Failure::wrong(format!("the storage `{name}`, where runs lie, isn't there"))
    })?;
    let bar = say.bar("sweeping", None);
    let now = SystemClock::new().now();
    let swept = windlass::sweep(&store, name, &**storage, now, options).await;
    bar.finish_and_clear();
    let swept = swept?;
    let sum = |of: fn(&SweptRun) -> u64| swept.iter().map(of).sum::<u64>();
    let (objects, bytes) = (sum(|r| r.objects), sum(|r| r.bytes));
    let (kept, kept_bytes) = (sum(|r| r.kept_objects), sum(|r| r.kept_bytes));
    let runs = swept.iter().map(|r| {
        json!({
            "run": r.run, "folder": r.folder, "objects": r.objects, "bytes": r.bytes,
            "kept_objects": r.kept_objects, "kept_bytes": r.kept_bytes,
        })
    });
    let object = json!({
        "storage": name, "dry_run": options.dry_run, "objects": objects, "bytes": bytes,
        "kept_objects": kept, "kept_bytes": kept_bytes, "runs": runs.collect::<Vec<_>>(),
    });
    let mut text = String::new();
    for r in swept.iter().filter(|r| options.dry_run || r.objects > 0) {
        let (bytes, stays) = (HumanBytes(r.bytes), HumanBytes(r.kept_bytes));
        text.push_str(&format!("  {}  {} objects, {bytes}", r.folder, r.objects));
        if r.kept_objects > 0 {
            text.push_str(&format!(
                "; {} named elsewhere stay, {stays}",
                r.kept_objects
            ));
        }
        text.push('\n');
    }
    let done = if options.dry_run {
        "would delete"
    } else {
        "deleted"
    };
    let all = HumanBytes(bytes);
    text.push_str(&match objects {
        0 => format!("nothing to sweep in storage {name}"),
        _ => format!("{done} {objects} objects of removed runs in storage {name}, {all}"),
    });
    say.done(&text, &object);
    Ok(Exit::Done.into())
}

/// Where an export goes. Files appear under their name when they are whole and synced.
enum Target {
    Stdout(BufWriter<io::Stdout>),
    File(PathBuf, BufWriter<File>),
    /// A file a kind of record.
    Folder(PathBuf, BTreeMap<&'static str, BufWriter<File>>),
}

impl Target {
    fn new(to: Option<&Path>) -> io::Result<Self> {
        let Some(to) = to else {
            return Ok(Self::Stdout(BufWriter::new(io::stdout())));
        };
        let partial = with(to, ".partial");
        if to.to_string_lossy().ends_with('/') {
            match std::fs::remove_dir_all(&partial) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => std::fs::create_dir_all(&partial)?,
            }
            return Ok(Self::Folder(to.to_owned(), BTreeMap::new()));
        }
        let file = BufWriter::new(File::create(partial)?);
        Ok(Self::File(to.to_owned(), file))
    }

    fn write(&mut self, kind: &'static str, line: &str) -> io::Result<()> {
        let file: &mut dyn Write = match self {
            Self::Stdout(out) => out,
            Self::File(_, file) => file,
            Self::Folder(to, files) => match files.entry(kind) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(new) => {
                    let path = with(to, ".partial").join(format!("{kind}.jsonl"));
                    new.insert(BufWriter::new(File::create(path)?))
                }
            },
        };
        file.write_all(line.as_bytes())?;
        file.write_all(b"\n")
    }

    fn finish(&mut self) -> io::Result<()> {
        let sync = |file: &mut BufWriter<File>| {
            file.flush()?;
            file.get_ref().sync_all()
        };
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(to, file) => {
                sync(file)?;
                let partial = with(to, ".partial");
                // A link never replaces what is there.
                std::fs::hard_link(&partial, to)?;
                std::fs::remove_file(partial)
            }
            Self::Folder(to, files) => {
                files.values_mut().try_for_each(sync)?;
                std::fs::rename(with(to, ".partial"), to)
            }
        }
    }
}

async fn export(store: &SqliteStore, to: Option<&Path>, say: Say) -> Result<ExitCode, Failure> {
    if let Some(to) = to {
        is_free(to)?;
    }
    let failed = |e: io::Error| Failure::engine(format!("the export can't be written: {e}"));
    let target = Arc::new(Mutex::new(Target::new(to).map_err(failed)?));
    let bar = say.bar("exporting", Some((0, "{pos} of {len} runs")));
    let (gone, noticed) = (Arc::new(AtomicBool::new(false)), bar.clone());
    let (writing, left) = (Arc::clone(&target), Arc::clone(&gone));
    let exported = store.export(move |line| {
        noticed.set_length(line.runs);
        noticed.set_position(line.runs_done);
        let mut target = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = target.write(line.kind, line.json);
        written.inspect_err(|e| left.store(e.kind() == ErrorKind::BrokenPipe, Ordering::Relaxed))
    });
    let exported = exported.await;
    bar.finish_and_clear();
    // A reader that went away has seen enough.
    if gone.load(Ordering::Relaxed) {
        return Ok(Exit::Done.into());
    }
    let records = exported?;
    let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
    match target.finish() {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => return Err(failed(e)),
        _ => {}
    }
    if let Some(to) = to {
        let object = json!({ "store": store.path(), "export": to, "records": records });
        let text = format!("exported {records} records to {}", to.display());
        say.done(&text, &object);
    }
    Ok(Exit::Done.into())
}

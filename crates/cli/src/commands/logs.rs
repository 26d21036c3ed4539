//! `logs`: what the steps of a run wrote, then and while they write.
//!
//! A process on this machine writes its logs where the run's storage keeps them, and only ever adds to
//! them, so following is reading on from where one stopped, whichever process the engine is in. A
//! storage elsewhere gets the logs of an attempt when it ends; a follower sees them then. Beyond half
//! of its cap a log goes on in a second file until its attempt ends, and so does what is seen of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use serde::Serialize;
use windlass::run_store::{AttemptRecord, RunSnapshot};
use windlass::wiring::Variables;
use windlass::{
    ClockExt, LogicalName, ObjectKey, RunId, Slot, SqliteStore, Storage, StorageErrorKind,
    SystemClock, error_chain,
};

use super::{Failure, find_run, find_step, load, look, status, store_of_runs};
use crate::args::{LogName, LogsArgs, Place};
use crate::exit::Exit;
use crate::json::{self, Names};

/// How often a follower looks again.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn logs(
    place: &Place,
    args: &LogsArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let store = store_of_runs(&project).await?;
    let run = find_run(&store, &args.run).await?;
    let first = look(&store, run.id).await?;
    let wanted = match &args.step {
        Some(step) => Some(find_step(&first, step)?),
        None => None,
    };
    let mut printer = Printer {
        run: run.id,
        names: Names::of(&first.version.spec),
        shape: match wanted {
            _ if as_json => Shape::Json,
            Some(slot) if one_place(&first, slot) => Shape::Raw,
            _ => Shape::Prefixed,
        },
        streams: match args.stream {
            Some(LogName::Stdout) => &STREAMS[..1],
            Some(LogName::Stderr) => &STREAMS[1..],
            None => &STREAMS,
        },
        storages: windlass::wiring::open_storages(&project, variables).await?,
        tails: BTreeMap::new(),
        printed: false,
    };
    let mut selection = Selection {
        wanted,
        attempt: args.attempt,
        from: None,
    };
    if !args.follow {
        let chosen = selection.choose(&first);
        selection.check(&first, &chosen, &printer.names)?;
        printer.print(&chosen).await?;
        if !printer.printed && !as_json {
            eprintln!("nothing was written");
        }
        return Ok(Exit::Done.into());
    }
    let clock = SystemClock::new();
    let mut told = false;
    let mut snapshot = first;
    loop {
        // Looked at before the logs: what was written by the end of a step is then read for sure.
        let over = selection.is_over(&snapshot);
        let chosen = selection.choose(&snapshot);
        if !printer.print(&chosen).await? || over {
            return Ok(Exit::Done.into());
        }
        if !told && SqliteStore::holder(store.path())?.is_none() {
            eprintln!("note: {}", status::abandoned(place, &snapshot.run));
            told = true;
        }
        clock.sleep(LOOK).await;
        snapshot = look(&store, run.id).await?;
    }
}

/// Returns true if what is asked for has one log at a time: no items side by side.
fn one_place(snapshot: &RunSnapshot, slot: Slot) -> bool {
    let step = snapshot.version.spec.all_steps().nth(slot.step as usize);
    slot.item.is_some() || step.is_some_and(|s| s.map.is_none())
}

/// Which attempts are printed.
#[derive(Debug)]
struct Selection {
    wanted: Option<Slot>,
    attempt: Option<u32>,
    /// The attempt of a single step that printing began with; later ones are printed too.
    from: Option<u32>,
}

impl Selection {
    fn is_wanted(&self, slot: Slot) -> bool {
        match self.wanted {
            None => true,
            Some(Slot { step, item: None }) => slot.step == step,
            Some(place) => slot == place,
        }
    }

    /// Returns the attempts to print, in the order they were launched.
    fn choose<'a>(&mut self, snapshot: &'a RunSnapshot) -> Vec<&'a AttemptRecord> {
        let mut chosen: Vec<&AttemptRecord> = snapshot
            .attempts
            .iter()
            .filter(|a| self.is_wanted(a.slot))
            .filter(|a| self.attempt.is_none_or(|n| a.attempt.get() == n))
            .collect();
        chosen.sort_by_key(|a| (a.launched_at, a.slot, a.attempt));
        if self.attempt.is_none() && self.wanted.is_some() {
            // Of a step the last attempt is asked for; a follower goes on from there.
            let last = |slot| {
                chosen
                    .iter()
                    .filter(|a| a.slot == slot)
                    .map(|a| a.attempt.get())
                    .max()
            };
            if self.from.is_none() {
                self.from = self.wanted.and_then(last);
            }
            let from = self.from;
            let keep: Vec<bool> = chosen
                .iter()
                .map(|a| {
                    from.or_else(|| last(a.slot))
                        .is_none_or(|n| a.attempt.get() >= n)
                })
                .collect();
            let mut keep = keep.into_iter();
            chosen.retain(|_| keep.next().unwrap_or(true));
        }
        chosen
    }

    /// Says why there is nothing to print of a step that is asked for by name.
    fn check(
        &self,
        snapshot: &RunSnapshot,
        chosen: &[&AttemptRecord],
        names: &Names,
    ) -> Result<(), Failure> {
        let Some(slot) = self.wanted else {
            return Ok(());
        };
        let label = names.label(slot);
        if chosen.is_empty() {
            let made = snapshot.attempts.iter().filter(|a| self.is_wanted(a.slot));
            let made = made.map(|a| a.attempt.get()).max();
            return Err(Failure::wrong(match (made, self.attempt) {
                (Some(made), Some(n)) => {
                    format!("step `{label}` has no attempt {n}\nhelp: its last one is {made}")
                }
                _ => format!(
                    "step `{label}` has no attempt yet\nhelp: wait for it with --follow, or see what it waits for with `windlass status {}`",
                    snapshot.run.id.short()
                ),
            }));
        }
        if chosen.iter().all(|a| a.logs.is_none() && a.end.is_some()) {
            return Err(Failure::wrong(format!(
                "step `{label}` keeps no logs: only `run` steps do"
            )));
        }
        Ok(())
    }

    /// Returns true if nothing more can come.
    fn is_over(&self, snapshot: &RunSnapshot) -> bool {
        if snapshot.run.state.is_final() {
            return true;
        }
        let ended = |slot: Slot| {
            let row = snapshot.steps.iter().find(|s| s.slot == slot);
            row.is_some_and(|r| r.state.is_final())
        };
        let attempt_ended = |n: u32| {
            let mut of_number = snapshot
                .attempts
                .iter()
                .filter(|a| self.is_wanted(a.slot) && a.attempt.get() == n)
                .peekable();
            of_number.peek().is_some() && of_number.all(|a| a.end.is_some())
        };
        self.wanted.is_some_and(ended)
            || self.attempt.is_some_and(attempt_ended) && self.wanted.is_some()
    }
}

/// How lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As they are.
    Raw,
    /// With their step before them.
    Prefixed,
    Json,
}

/// One of the two logs of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    Stdout,
    Stderr,
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Stream {
    const fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How far one log is printed.
#[derive(Debug, Default)]
struct Tail {
    offset: u64,
    /// The start of a line whose end is not there yet.
    partial: Vec<u8>,
    done: bool,
}

/// One line of `logs --json`.
#[derive(Debug, Serialize)]
struct LogLine<'a> {
    event: &'static str,
    run: String,
    step: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<u32>,
    attempt: u32,
    stream: &'static str,
    line: &'a str,
}

struct Printer {
    run: RunId,
    names: Names,
    shape: Shape,
    streams: &'static [Stream],
    storages: BTreeMap<LogicalName, Arc<dyn Storage>>,
    tails: BTreeMap<(Slot, u32, Stream), Tail>,
    printed: bool,
}

impl Printer {
    /// Prints what is new of these attempts; returns false if nobody reads any more.
    async fn print(&mut self, attempts: &[&AttemptRecord]) -> Result<bool, Failure> {
        for attempt in attempts {
            for stream in self.streams {
                if !self.read(attempt, *stream).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn read(&mut self, attempt: &AttemptRecord, stream: Stream) -> Result<bool, Failure> {
        let place = (attempt.slot, attempt.attempt.get(), stream);
        let mut tail = self.tails.remove(&place).unwrap_or_default();
        let read_on = match &attempt.logs {
            Some(folder) if !tail.done => {
                let storage = self.storages.get(&folder.storage).ok_or_else(|| {
                    Failure::wrong(format!(
                        "the environment has no storage `{}`, where the logs of `{}` are",
                        folder.storage,
                        self.names.label(attempt.slot)
                    ))
                })?;
                let key = folder.key.join(&format!("{}.log", stream.word()));
                let key = key.map_err(Failure::engine)?;
                self.copy(&Arc::clone(storage), &key, place, &mut tail)
                    .await?
            }
            _ => true,
        };
        if attempt.end.is_some() && !tail.done {
            tail.done = true;
            // The last line may lack its end.
            let rest = std::mem::take(&mut tail.partial);
            if !rest.is_empty() && !self.line(place, &rest) {
                return Ok(false);
            }
        }
        self.tails.insert(place, tail);
        Ok(read_on)
    }

    /// Copies what a log has beyond what was printed; a log that isn't there yet has nothing.
    async fn copy(
        &mut self,
        storage: &Arc<dyn Storage>,
        key: &ObjectKey,
        place: (Slot, u32, Stream),
        tail: &mut Tail,
    ) -> Result<bool, Failure> {
        let failed = |e: windlass::StorageError| Failure::engine(error_chain(&e));
        let missing = |e: &windlass::StorageError| e.kind() == StorageErrorKind::NotFound;
        if tail.offset > 0 {
            // Some backends refuse a range that begins where the object ends.
            match storage.head(key).await {
                Ok(meta) if meta.size > tail.offset => {}
                Ok(_) => return Ok(true),
                Err(e) if missing(&e) => return Ok(true),
                Err(e) => return Err(failed(e)),
            }
        }
        let range = (tail.offset > 0).then_some(tail.offset..u64::MAX);
        let mut stream = match storage.get_stream(key, range).await {
            Ok((_, stream)) => stream,
            Err(e) if missing(&e) => return Ok(true),
            Err(e) => return Err(failed(e)),
        };
        while let Some(bytes) = stream.try_next().await.map_err(failed)? {
            tail.offset += bytes.len() as u64;
            if !self.bytes(place, tail, &bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bytes(&mut self, place: (Slot, u32, Stream), tail: &mut Tail, bytes: &[u8]) -> bool {
        if self.shape == Shape::Raw {
            return self.write(place.2, bytes);
        }
        tail.partial.extend_from_slice(bytes);
        while let Some(end) = tail.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = tail.partial.drain(..=end).collect();
            if !self.line(place, &line[..end]) {
                return false;
            }
        }
        // A line without an end would be kept whole.
        if tail.partial.len() > LINE_LIMIT {
            let part = std::mem::take(&mut tail.partial);
            return self.line(place, &part);
        }
        true
    }

    fn line(&mut self, (slot, attempt, stream): (Slot, u32, Stream), line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let shown = match self.shape {
            Shape::Json => json::text(&LogLine {
                event: "log",
                run: self.run.to_string(),
                step: self.names.step(slot.step),
                item: slot.item,
                attempt,
                stream: stream.word(),
                line: text,
            }),
            Shape::Raw | Shape::Prefixed => {
                let again = if attempt > 1 {
                    format!(" #{attempt}")
                } else {
                    String::new()
                };
                format!("{}{again} | {text}", self.names.label(slot))
            }
        };
        let to = if self.shape == Shape::Json {
            Stream::Stdout
        } else {
            stream
        };
        self.write(to, format!("{shown}\n").as_bytes())
    }

    /// Returns false if whoever read has seen enough.
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        self.printed = true;
        let write = |out: &mut dyn Write| out.write_all(bytes).and_then(|()| out.flush()).is_ok();
        match stream {
            Stream::Stdout => write(&mut std::io::stdout().lock()),
            Stream::Stderr => write(&mut std::io::stderr().lock()),
        }
    }
}

/// Bytes of a line that are kept together.
const LINE_LIMIT: usize = 64 << 10;

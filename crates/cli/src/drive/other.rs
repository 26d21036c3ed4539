//! A run in another process: asks that one to run it, shows how it goes by what the store says, and
//! tells it what is asked of this process.

use std::time::Duration;

use windlass::run_store::{RunRecord, RunStore};
use windlass::{
    Clock, ClockExt, RunId, RunSummary, Signal, SignalId, SqliteStore, SystemClock, Timestamp,
};

use super::{Drive, Goal, LOOK, Shown, Stops, cancel_note, holder, leave, root_of, stopped};
use crate::commands::Failure;
use crate::json::Names;

/// How long another process may take to begin with a run before that is worth a word.
const SLOW: Duration = Duration::from_secs(3);
/// Events read at once.
const PAGE: u32 = 1_000;

/// A run in another process.
pub(super) struct Other<'a> {
    drive: &'a Drive<'a>,
    store: SqliteStore,
    /// What was asked of that process, and whether it took it.
    asked: Option<Asked>,
    /// The process that was asked.
    of: Option<String>,
    interrupts: u32,
    since: Timestamp,
    /// Whether it was said who runs it.
    told: bool,
    /// Whether it was said that nobody does, yet.
    slow_told: bool,
}

struct Asked {
    signal: SignalId,
    /// True if there was no run yet.
    start: bool,
    taken: bool,
}

impl<'a> Other<'a> {
    pub(super) fn new(drive: &'a Drive<'a>, store: SqliteStore) -> Self {
        Self {
            drive,
            store,
            asked: None,
            of: None,
            interrupts: 0,
            since: SystemClock::new().now(),
            told: false,
            slow_told: false,
        }
    }

    /// Asks for the run, or for somebody to go on with it; an engine that has it already takes that
    /// for nothing.
    async fn ask(&mut self, goal: &Goal) -> Result<(), Failure> {
        let run = self.run_of(goal).await?;
        let signal = match (&run, goal) {
            (None, Goal::Start(start)) => Signal::Start(Box::new(start.signal.clone())),
            (Some(run), _) if !run.state.is_final() => Signal::Adopt {
                run: root_of(&self.store, run.id).await?,
            },
            _ => return Ok(()),
        };
        self.asked = Some(Asked {
            signal: leave(&self.store, signal).await?,
            start: run.is_none(),
            taken: false,
        });
        Ok(())
    }

    /// Asks whoever has the store now, unless what was asked of the one before is still there to be taken.
    async fn ask_anew(&mut self, holder: Option<&str>, goal: &Goal) -> Result<(), Failure> {
        if holder.is_none() || holder == self.of.as_deref() {
            return Ok(());
        }
        self.of = holder.map(str::to_owned);
        (self.since, self.told) = (SystemClock::new().now(), false);
        // Who had the store before takes nothing any more.
        self.look_after(holder).await?;
        if self.asked.as_ref().is_none_or(|a| a.taken) {
            self.ask(goal).await?;
        }
        Ok(())
    }

    /// Looks whether what was asked is taken, and says so once if that takes long.
    async fn look_after(&mut self, holder: Option<&str>) -> Result<(), Failure> {
        let Some(asked) = self.asked.as_mut().filter(|a| !a.taken) else {
            return Ok(());
        };
        let left = self.store.signals(u32::MAX).await?;
        asked.taken = left.iter().all(|s| s.id != asked.signal);
        if !asked.taken && !self.slow_told && SystemClock::new().now().since(self.since) > SLOW {
            self.slow_told = true;
            let who = holder.unwrap_or("another process");
            eprintln!(
                "note: waits for {who}, which has the store and doesn't take the run: it has other files, or is about to end"
            );
        }
        Ok(())
    }

    async fn run_of(&self, goal: &Goal) -> Result<Option<RunRecord>, Failure> {
        Ok(match goal {
            Goal::Start(start) => self.store.run_by_key(&start.key).await?,
            Goal::GoOn(run) => self.store.run(*run).await?,
        })
    }

    /// Returns how the run ended; `None` if that process ended first.
    pub(super) async fn follow(
        mut self,
        goal: &Goal,
        shown: &mut Shown,
        stops: &mut Stops,
        began: &mut impl FnMut(&RunRecord),
    ) -> Result<Option<RunSummary>, Failure> {
        let clock = SystemClock::new();
        loop {
            // The holder first: what it did before it ended is in the store.
            let holder = holder(self.drive.project)?;
            self.ask_anew(holder.as_deref(), goal).await?;
            self.look_after(holder.as_deref()).await?;
            let run = self.run_of(goal).await?;
            if let Some(run) = &run {
                if shown.show.is_none() {
                    began(run);
                    let names = Names::of_run(&self.store, run.id).await?;
                    let created = self.asked.as_ref().is_some_and(|a| a.start);
                    shown.begin(self.drive, run, names, created);
                }
                if let (Some(who), false) = (&holder, self.told)
                    && self.asked.as_ref().is_none_or(|a| a.taken)
                {
                    self.told = true;
                    shown.note(&format!("{who} runs it"));
                }
                self.show_events(run.id, shown).await?;
                if run.state.is_final() {
                    let end = RunSummary::of_record(run);
                    self.drive.conclude(&self.store, &end, shown).await?;
                    return Ok(Some(end));
                }
            }
            if holder.is_none() {
                return Ok(None);
            }
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                _ = stops.interrupt.recv() => self.interrupt(goal, shown).await?,
                _ = stops.terminate.recv() => return Err(self.give_up(goal).await?),
            }
        }
    }

    async fn show_events(&self, run: RunId, shown: &mut Shown) -> Result<(), Failure> {
        loop {
            let events = self.store.events(run, shown.last, PAGE).await?;
            let whole = events.len() as u32 == PAGE;
            events.iter().for_each(|e| shown.event(e));
            if !whole {
                return Ok(());
            }
        }
    }

    async fn interrupt(&mut self, goal: &Goal, shown: &mut Shown) -> Result<(), Failure> {
        let Some(run) = self.began(goal).await? else {
            return Err(nothing_began());
        };
        self.interrupts += 1;
        shown.note(cancel_note(self.interrupts));
        let reason = "interrupted at the terminal".to_owned();
        leave(
            &self.store,
            Signal::Cancel {
                run: run.id,
                reason,
            },
        )
        .await?;
        Ok(())
    }

    async fn give_up(&self, goal: &Goal) -> Result<Failure, Failure> {
        let run = self.began(goal).await?;
        Ok(run.map_or_else(nothing_began, |run| stopped(run.id)))
    }

    /// Returns the run; where there is none, what was asked for is taken back first, so that none
    /// begins any more.
    async fn began(&self, goal: &Goal) -> Result<Option<RunRecord>, Failure> {
        if let (None, Some(asked)) = (self.run_of(goal).await?, &self.asked) {
            self.store.withdraw(&asked.signal).await?;
        }
        // Somebody may have been faster.
        self.run_of(goal).await
    }
}

fn nothing_began() -> Failure {
    Failure::engine("stopped before the run began; nothing was started")
}

//! What people and other processes do to an engine, and when.

use std::time::Duration;

use super::dice::Dice;

/// One thing that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Start the run of a key.
    Start,
    /// Leave a signal that asks for the run of a key.
    SignalStart,
    Cancel,
    Pause,
    Resume,
    SignalCancel,
    SignalPause,
    SignalResume,
    /// Give a run what its steps wait for.
    Give,
    /// Run again what has no result.
    Rerun,
    /// Ask how far a run is, and what it waits for.
    Look,
    /// Shut the host down, and start another one.
    Drain,
}

/// A deed, whom it is about, and how long nothing happens before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act {
    pub(super) deed: Deed,
    /// The number of the wanted run.
    pub(super) wish: usize,
    pub(super) after: Duration,
}

/// A run that somebody wants: which pipeline, under which key.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) pipeline: usize,
    pub(super) key: String,
}

#[derive(Debug)]
pub(super) struct Story {
    pub(super) wishes: Vec<Wish>,
    pub(super) acts: Vec<Act>,
}

impl Story {
    pub(super) fn draw(dice: &mut Dice, pipelines: usize) -> Self {
        let wanted = dice.between(1, 3) as usize;
        let wishes: Vec<Wish> = (0..wanted)
            .map(|i| Wish {
                pipeline: dice.between(0, pipelines as u64 - 1) as usize,
                key: format!("k{i}"),
            })
            .collect();
        let mut acts: Vec<Act> = (0..wanted)
            .map(|wish| Act {
                deed: if dice.percent(15) {
                    Deed::SignalStart
                } else {
                    Deed::Start
                },
                wish,
                after: draw_pause(dice),
            })
            .collect();
        for _ in 0..dice.between(0, 6) {
            let deed = match dice.between(0, 99) {
                0..=14 => Deed::Start,
                15..=28 => Deed::Cancel,
                29..=39 => Deed::Pause,
                40..=50 => Deed::Resume,
                51..=58 => Deed::SignalCancel,
                59..=64 => Deed::SignalPause,
                65..=70 => Deed::SignalResume,
                71..=84 => Deed::Rerun,
                85..=88 => Deed::Give,
                89..=92 => Deed::Look,
                _ => Deed::Drain,
            };
            acts.push(Act {
                deed,
                wish: dice.between(0, wanted as u64 - 1) as usize,
                after: draw_pause(dice),
            });
        }
        Self { wishes, acts }
    }
}

fn draw_pause(dice: &mut Dice) -> Duration {
    Duration::from_millis(match dice.between(0, 4) {
        0 | 1 => 0,
        2 | 3 => dice.between(1, 5_000),
        _ => dice.between(5_000, 90_000),
    })
}

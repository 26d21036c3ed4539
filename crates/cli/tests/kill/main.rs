//! The binary, killed with SIGKILL at random moments: the next invocation finishes the run, no
//! finished step runs again, and `status` tells the truth in between.
//!
//! Moments are spread over all of a run's life: a quarter of the kills fall into the time before an
//! invocation tells its first event (start-up, adoption), a quarter anywhere in the time that a run
//! takes undisturbed, and half anywhere on its way, by how many events it has told, up to the last.
//!
//! `WINDLASS_KILLS` makes more kills, `WINDLASS_SEED` the same ones again, as far as processes let
//! themselves be timed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; the seed is printed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are killed at real moments"
)]

mod check;
mod project;

use std::time::{Duration, Instant};

use check::Watched;
use project::{End, Moment, Project, Told};

/// Kills of each project.
const KILLS: u32 = 100;
/// A step that dies with its host ten times is given up on purpose, so a run is let go before.
const KILLS_OF_A_RUN: u32 = 8;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Random numbers from a seed that is printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = variable("WINDLASS_SEED");
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
        println!("WINDLASS_SEED={seed}");
        Self(seed.max(1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    fn time(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.below(micros))
    }
}

/// How long a run takes that nobody disturbs.
struct Life {
    /// Until it tells that it starts.
    start: Duration,
    all: Duration,
    events: u64,
}

impl Life {
    fn measure(project: &Project) -> Self {
        let begin = Instant::now();
        let (mut told, date) = (Told::new(), "2026-11-03");
        // Two invocations: one is killed as soon as it speaks, so that the time to that is known.
        project.run(date, Moment::Event(1, Duration::ZERO), &mut told);
        let start = begin.elapsed();
        let begin = Instant::now();
        let End::Itself(status) = project.run(date, Moment::Never, &mut told) else {
            unreachable!("it is never killed")
        };
        assert!(status.success(), "{status}");
        Self {
            start,
            all: begin.elapsed(),
            events: *told.keys().next_back().unwrap(),
        }
    }

    fn moment(&self, random: &mut Random, told: u64) -> Moment {
        match random.below(4) {
            0 => Moment::After(random.time(self.start)),
            1 => Moment::After(random.time(self.all)),
            _ => {
                let left = self.events.saturating_sub(told).max(10);
                let number = told + 1 + random.below(left);
                Moment::Event(number, random.time(Duration::from_millis(5)))
            }
        }
    }
}

/// Kills runs of date after date until enough were killed, and checks each one.
fn kill_and_check(project: &Project) {
    let kills = variable("WINDLASS_KILLS").map_or(KILLS, |n| n as u32);
    let mut random = Random::new();
    let life = Life::measure(project);
    let began = Instant::now();
    let (mut killed, mut day) = (0, 0);
    while killed < kills {
        day += 1;
        let (year, month, date) = (2027 + day / 336, day / 28 % 12 + 1, day % 28 + 1);
        let date = format!("{year}-{month:02}-{date:02}");
        let mut watched = Watched::default();
        let mut kills_of_run = 0;
        loop {
            let moment = if kills_of_run < KILLS_OF_A_RUN {
                let told = watched.told.keys().next_back().copied();
                life.moment(&mut random, told.unwrap_or_default())
            } else {
                Moment::Never
            };
            match project.run(&date, moment, &mut watched.told) {
                End::Killed => {
                    killed += 1;
                    kills_of_run += 1;
                    watched.check_between(project, &date);
                }
                End::Itself(status) => {
                    assert!(status.success(), "the run of {date} ended with {status}");
                    break;
                }
            }
        }
        watched.check_between(project, &date);
        watched.check_end(project, &date);
    }
    println!(
        "killed {killed} times over {day} runs in {:?}; undisturbed one takes {:?} and tells {} events, the first after {:?}",
        began.elapsed(),
        life.all,
        life.events,
        life.start
    );
}

#[test]
fn the_example_survives_kills_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    kill_and_check(&Project::example(folder.path()));
}

#[test]
fn two_hundred_steps_survive_kills_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    kill_and_check(&Project::synthetic(folder.path()));
}

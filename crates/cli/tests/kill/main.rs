//! The binary, killed with SIGKILL at random moments: the next invocation finishes the run, no
//! finished step runs again, and `status` tells the truth in between.
//!
//! Moments are spread over all of a run's life: three quarters of the kills fall anywhere on its way
//! from its first event to its last, at once or some time after it told one; the rest before an
//! invocation tells anything (start-up, adoption).
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

    /// Returns the moments at which one run is to be killed: those on its way in order, and those
    /// of start-ups in between.
    fn moments(&self, random: &mut Random) -> Vec<Moment> {
        let on_its_way = (0..KILLS_OF_A_RUN).filter(|_| random.below(4) > 0).count();
        let mut numbers: Vec<u64> = (0..on_its_way)
            .map(|_| 1 + random.below(self.events))
            .collect();
        numbers.sort_unstable();
        let mut moments: Vec<Moment> = numbers
            .iter()
            .map(|number| {
                // Most of the events come in a burst, most of the time passes between bursts.
                let most = [Duration::from_millis(5), self.all / 8];
                let most = most[random.below(2) as usize];
                Moment::Event(*number, random.time(most))
            })
            .collect();
        while moments.len() < KILLS_OF_A_RUN as usize {
            let place = random.below(moments.len() as u64 + 1) as usize;
            moments.insert(place, Moment::After(random.time(self.start)));
        }
        moments
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
        let moments = life.moments(&mut random).into_iter();
        for moment in moments.chain(std::iter::once(Moment::Never)) {
            match project.run(&date, moment, &mut watched.told) {
                End::Killed => {
                    killed += 1;
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

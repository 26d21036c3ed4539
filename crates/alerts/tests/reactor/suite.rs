//! The reactor against the suite of its seam, and that the suite notices one that isn't pure.

use std::cell::Cell;

use windlass_alerts::{AlertReactor, Routes};
use windlass_core::{AlertKind, Occasion, OutboxRecord, Reactor};
use windlass_testkit::conformance::reactor;

use crate::world::name;

fn fresh() -> AlertReactor {
    AlertReactor::new(
        Routes::new([name("ops")]).owner("team-retention", [name("chat"), name("log")]),
    )
}

#[test]
fn the_reactor_keeps_the_contract() {
    let report = reactor::hold(&|| Box::new(fresh()));
    assert_eq!((report.held.len(), report.skipped.len()), (8, 0));
}

/// Numbers what it tells from a counter of its own, and looks at nobody else's telling.
#[derive(Debug)]
struct Impure {
    inner: AlertReactor,
    told: u32,
    made: u32,
}

impl Reactor for Impure {
    fn restore(&mut self, told: &[OutboxRecord]) {
        self.inner.restore(told);
    }

    fn react(&mut self, occasion: &Occasion<'_>) -> Vec<OutboxRecord> {
        let mut all = self.inner.react(occasion);
        for entry in &mut all {
            self.told += 1;
            entry.notification.id = format!("{}-{}", self.made, self.told);
            entry.notification.kind = AlertKind::Updated;
            entry.notification.title += &"!".repeat(200);
            entry.tries = 1;
        }
        all
    }
}

#[test]
fn the_suite_notices_a_reactor_that_is_not_pure() {
    let made = Cell::new(0);
    let make = || -> Box<dyn Reactor> {
        made.set(made.get() + 1);
        Box::new(Impure {
            inner: fresh(),
            told: 0,
            made: made.get(),
        })
    };
    let report = reactor::check(&make);
    assert_eq!(report.held, Vec::<&str>::new(), "{report}");
    assert_eq!(report.broken.len(), 8, "{report}");
}

/// Starts from what it was told before, but keeps what it knew besides.
#[derive(Debug)]
struct Clinging {
    inner: AlertReactor,
    fresh: bool,
}

impl Reactor for Clinging {
    fn restore(&mut self, told: &[OutboxRecord]) {
        if self.fresh {
            self.inner.restore(told);
        }
    }

    fn react(&mut self, occasion: &Occasion<'_>) -> Vec<OutboxRecord> {
        self.fresh = false;
        self.inner.react(occasion)
    }
}

#[test]
fn the_suite_notices_a_reactor_that_keeps_what_was_lost() {
    let report = reactor::check(&|| {
        Box::new(Clinging {
            inner: fresh(),
            fresh: true,
        })
    });
    let broken: Vec<_> = report.broken.iter().map(|(promise, _)| *promise).collect();
    assert_eq!(broken, ["a_restore_forgets_what_was_lost"], "{report}");
}

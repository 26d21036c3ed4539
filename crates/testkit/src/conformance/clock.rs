//! What every [`Clock`] must do.
//!
//! [`check`] waits for hundredths of a second of the clock's own time. That time must pass by
//! itself: a clock that is moved by hand needs somebody to move it meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join, join_all};
use windlass_core::{Clock, ClockExt, Timestamp};

pub use super::report::Report;
use super::report::{Found, broken, same, that, within};

/// Real time after which a wait that doesn't end counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// A short wait.
const TICK: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3_600);

fn ago(now: Timestamp, by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(micros))
}

async fn time_does_not_go_back(clock: &dyn Clock) -> Found {
    let mut last = clock.now();
    for i in 0..1_000 {
        let now = clock.now();
        that(last <= now, || format!("after {last} it showed {now}"))?;
        if i % 250 == 0 {
            clock.sleep(Duration::from_millis(1)).await;
        }
        last = now;
    }
    Ok(())
}

async fn a_wait_for_the_past_is_over_at_once(clock: &dyn Clock) -> Found {
    let now = clock.now();
    for at in [now, ago(now, HOUR), Timestamp::from_micros(i64::MIN)] {
        let over = futures::poll!(std::pin::pin!(clock.sleep_until(at))).is_ready();
        that(over, || format!("it waits for {at}, and shows {now}"))?;
    }
    Ok(())
}

async fn a_wait_ends_when_the_clock_shows_its_time(clock: &dyn Clock) -> Found {
    for wait in [Duration::from_micros(1), Duration::from_millis(1), TICK] {
        let at = clock.now().after(wait);
        clock.sleep_until(at).await;
        let now = clock.now();
        that(now >= at, || format!("a wait for {at} ended at {now}"))?;
    }
    Ok(())
}

async fn waits_end_in_the_order_of_their_times(clock: &dyn Clock) -> Found {
    let start = clock.now();
    let ended = Mutex::new(Vec::new());
    let waits = [3, 1, 2].map(|nth| {
        let ended = &ended;
        async move {
            clock.sleep_until(start.after(TICK * nth)).await;
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.push(nth);
        }
    });
    join_all(waits).await;
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    same("the order", &ended, &vec![1, 2, 3])
}

async fn a_dropped_wait_disturbs_nobody(clock: &dyn Clock) -> Found {
    let dropped = async {
        for _ in 0..100 {
            let mut wait = std::pin::pin!(clock.sleep(HOUR));
            if futures::poll!(&mut wait).is_ready() {
                return broken("a wait of an hour was over at once");
            }
        }
        Ok(())
    };
    let (found, ()) = join(dropped, clock.sleep(TICK)).await;
    found
}

async fn a_wait_for_the_end_of_time_waits(clock: &dyn Clock) -> Found {
    let end = Timestamp::from_micros(i64::MAX);
    let waited = clock.timeout(TICK, clock.sleep_until(end)).await;
    that(waited.is_none(), || "the end of time has come".to_owned())
}

async fn a_limit_ends_what_takes_longer(clock: &dyn Clock) -> Found {
    let late = clock.timeout(TICK, std::future::pending::<()>()).await;
    same("what took too long", &late, &None)?;
    let in_time = clock.timeout(HOUR, async { 7 }).await;
    same("what was in time", &in_time, &Some(7))
}

/// Tries every promise.
pub async fn check(clock: &dyn Clock) -> Report {
    let mut report = Report::default();
    macro_rules! promises {
        ($($promise:ident,)*) => {$(
            report.note(stringify!($promise), within(PATIENCE, $promise(clock)).await);
        )*};
    }
    promises! {
        time_does_not_go_back,
        a_wait_for_the_past_is_over_at_once,
        a_wait_ends_when_the_clock_shows_its_time,
        waits_end_in_the_order_of_their_times,
        a_dropped_wait_disturbs_nobody,
        a_wait_for_the_end_of_time_waits,
        a_limit_ends_what_takes_longer,
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub async fn hold(clock: &dyn Clock) -> Report {
    check(clock).await.or_panic(&format_args!("{clock:?}"))
}

//! Time: an instant, a logical date, and the [`Clock`] that all waiting goes through.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in microseconds since 1970-01-01T00:00:00Z; printed as RFC 3339 in UTC.
///
/// ```
/// use windlass_core::Timestamp;
/// let t = Timestamp::from_micros(1_700_000_000_000_000);
/// assert_eq!(t.to_string(), "2023-11-14T22:13:20Z");
/// assert_eq!("2023-11-14T22:13:20Z".parse::<Timestamp>().unwrap(), t);
/// ```
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Wraps microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the instant `by` later, or the last one there is.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// Returns the time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the day of this instant in UTC.
    #[must_use]
    pub fn date(self) -> LogicalDate {
        LogicalDate(jiff::tz::Offset::UTC.to_datetime(self.to_jiff()).date())
    }

    fn to_jiff(self) -> jiff::Timestamp {
        // Every i64 of microseconds beyond jiff's range (year ±9999) prints as the nearest end.
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_jiff(), f)
    }
}

/// Text that is no instant or no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {expected}: {reason}")]
pub struct InvalidTime {
    expected: &'static str,
    reason: String,
}

impl FromStr for Timestamp {
    type Err = InvalidTime;
    fn from_str(s: &str) -> Result<Self, InvalidTime> {
        s.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|e| InvalidTime {
                expected: "instant (RFC 3339)",
                reason: e.to_string(),
            })
    }
}

/// The day that a run stands for, as `YYYY-MM-DD`.
///
/// ```
/// use windlass_core::LogicalDate;
/// let date: LogicalDate = "2026-11-03".parse().unwrap();
/// assert_eq!(date.to_string(), "2026-11-03");
/// assert!("2026-02-30".parse::<LogicalDate>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogicalDate(jiff::civil::Date);

impl LogicalDate {
    /// Returns year, month (1 to 12) and day (1 to 31).
    #[must_use]
    pub fn parts(self) -> (i16, i8, i8) {
        (self.0.year(), self.0.month(), self.0.day())
    }
}

impl fmt::Display for LogicalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for LogicalDate {
    type Err = InvalidTime;
    fn from_str(s: &str) -> Result<Self, InvalidTime> {
        let ten = s.len() == 10 && s.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        s.parse()
            .ok()
            .filter(|_| ten)
            .map(Self)
            .ok_or_else(|| InvalidTime {
                expected: "date (YYYY-MM-DD)",
                reason: format!("{:?}", s.chars().take(40).collect::<String>()),
            })
    }
}

impl Serialize for LogicalDate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogicalDate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The only way to learn the time or to wait, so that tests and simulation own both.
///
/// # Cancel safety
/// Dropping the future of [`Clock::sleep_until`] stops the wait and leaves nothing behind.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;

    /// Waits until the clock shows `at`, or not at all if it already does.
    async fn sleep_until(&self, at: Timestamp);
}

/// What callers of a [`Clock`] say.
pub trait ClockExt: Clock {
    /// Waits for `period`.
    fn sleep(&self, period: Duration) -> impl Future<Output = ()> + Send {
        async move { self.sleep_until(self.now().after(period)).await }
    }

    /// Returns what `work` returns, or `None` if that took longer than `limit`; the work is then dropped.
    fn timeout<F>(&self, limit: Duration, work: F) -> impl Future<Output = Option<F::Output>> + Send
    where
        F: Future + Send,
        F::Output: Send,
    {
        async move {
            let work = pin!(work);
            let limit = pin!(self.sleep(limit));
            match futures::future::select(work, limit).await {
                futures::future::Either::Left((out, _)) => Some(out),
                futures::future::Either::Right(_) => None,
            }
        }
    }
}

impl<C: Clock + ?Sized> ClockExt for C {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_instants_print_without_a_panic() {
        for micros in [i64::MIN, i64::MAX, 0] {
            assert!(!Timestamp::from_micros(micros).to_string().is_empty());
        }
        assert_eq!(
            Timestamp::from_micros(i64::MAX)
                .after(Duration::MAX)
                .as_micros(),
            i64::MAX
        );
    }

    #[test]
    fn a_date_is_ten_characters_and_nothing_else() {
        for bad in [
            "2026-1-1",
            "20260101",
            "2026-13-01",
            "2026-01-01T00:00",
            "",
            "+002026-01-01",
        ] {
            assert!(bad.parse::<LogicalDate>().is_err(), "{bad}");
        }
    }
}

//! Amounts as people write them: `10s`, `2h30m`, `4GiB`, `0.5` cores.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

/// Text that is no amount of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {hint}")]
pub struct InvalidAmount {
    what: &'static str,
    text: String,
    hint: &'static str,
}

impl InvalidAmount {
    fn new(what: &'static str, text: &str, hint: &'static str) -> Self {
        Self {
            what,
            text: text.chars().take(40).collect(),
            hint,
        }
    }
}

const DURATION_HINT: &str = "write a number and a unit of ms, s, m, h, d, as in `90s` or `2h30m`";
const BYTES_HINT: &str =
    "write a number and a unit of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB, as in `4GiB`";
const DURATION_LIMIT: &str = "the longest is 100 years, `36500d`";
const BYTES_LIMIT: &str = "the largest is 16777215TiB";
/// The longest duration a file may name: 100 years.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Splits `"1.5GiB…"` into number, unit and rest.
fn number_and_unit(text: &str) -> Option<(&str, &str, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    let is_digit = |c: char| c.is_ascii_digit();
    (number.starts_with(is_digit) && number.ends_with(is_digit)).then_some((number, unit, rest))
}

/// Parses `10s`, `5m`, `2h30m`, `1d`, `250ms`.
///
/// # Errors
/// [`InvalidAmount`] for anything else, and for more than 100 years.
///
/// ```
/// use std::time::Duration;
/// use windlass_core::units::parse_duration;
/// assert_eq!(parse_duration("2h30m").unwrap(), Duration::from_secs(9_000));
/// assert!(parse_duration("10").is_err(), "a unit is needed");
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, InvalidAmount> {
    match read_duration(text) {
        Some(time) if time <= MAX_DURATION => Ok(time),
        Some(_) => Err(InvalidAmount::new("duration", text, DURATION_LIMIT)),
        None => Err(InvalidAmount::new("duration", text, DURATION_HINT)),
    }
}

/// Reads a duration of any length: a store must give back what code has put there.
fn read_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest)?;
        let seconds = match unit {
            "ms" => None,
            "s" => Some(1_u64),
            "m" => Some(60),
            "h" => Some(3_600),
            "d" => Some(86_400),
            _ => return None,
        };
        let part = match (number.parse::<u64>(), seconds) {
            (Ok(whole), Some(seconds)) => Duration::from_secs(whole.checked_mul(seconds)?),
            (Ok(whole), None) => Duration::from_millis(whole),
            (Err(_), seconds) => {
                let seconds = seconds.map_or(0.001, |s| s as f64);
                Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?
            }
        };
        total = total.checked_add(part)?;
        rest = tail.trim_start();
    }
    Some(total)
}

/// Prints a duration in the form that [`parse_duration`] reads, to the nanosecond.
///
/// ```
/// use std::time::Duration;
/// use windlass_core::units::format_duration;
/// assert_eq!(format_duration(Duration::from_micros(90_000_250)), "1m30s0.25ms");
/// ```
#[must_use]
pub fn format_duration(d: Duration) -> String {
    let (mut secs, nanos) = (d.as_secs(), d.subsec_nanos());
    let mut out = String::new();
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if secs >= size {
            out.push_str(&format!("{}{unit}", secs / size));
            secs %= size;
        }
    }
    if nanos > 0 {
        let millis = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
        out.push_str(millis.trim_end_matches('0').trim_end_matches('.'));
        out.push_str("ms");
    } else if out.is_empty() {
        out.push_str("0s");
    }
    out
}

/// Parses `512MiB`, `4GiB`, `1.5TB`, `100B`, or a bare number of bytes.
///
/// # Errors
/// [`InvalidAmount`] for anything else, and for more than `u64::MAX` bytes.
///
/// ```
/// use windlass_core::units::parse_bytes;
/// assert_eq!(parse_bytes("4GiB").unwrap(), 4 << 30);
/// assert_eq!(parse_bytes("1.5KB").unwrap(), 1_500);
/// assert!(parse_bytes("lots").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, InvalidAmount> {
    let bad = || InvalidAmount::new("size", text, BYTES_HINT);
    let large = || InvalidAmount::new("size", text, BYTES_LIMIT);
    let (number, unit, rest) = number_and_unit(text.trim()).ok_or_else(bad)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "ki" => 1 << 10,
        "mib" | "mi" => 1 << 20,
        "gib" | "gi" => 1 << 30,
        "tib" | "ti" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    if !rest.trim().is_empty() {
        return Err(bad());
    }
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(large);
    }
    let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
    if value.is_finite() && value < u64::MAX as f64 {
        Ok(value.round() as u64)
    } else {
        Err(large())
    }
}

/// Prints bytes with the largest binary unit that keeps it exact, else with one decimal.
///
/// ```
/// use windlass_core::units::format_bytes;
/// assert_eq!(format_bytes(4 << 30), "4GiB");
/// assert_eq!(format_bytes(1_600_000), "1.5MiB");
/// ```
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (unit, size) in [
        ("TiB", 1_u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ] {
        if bytes >= size {
            return if bytes.is_multiple_of(size) {
                format!("{}{unit}", bytes / size)
            } else {
                format!("{:.1}{unit}", bytes as f64 / size as f64)
            };
        }
    }
    format!("{bytes}B")
}

/// Parses cores into thousandths of a core.
///
/// # Errors
/// [`InvalidAmount`] unless the number is finite, not negative and at most a million cores.
pub fn parse_cores(cores: f64) -> Result<u64, InvalidAmount> {
    if cores.is_finite() && (0.0..=1_000_000.0).contains(&cores) {
        Ok((cores * 1_000.0).round() as u64)
    } else {
        // All digits of 1e300 would say nothing, and not even fit.
        let text = if cores.abs() < 1e15 {
            cores.to_string()
        } else {
            format!("{cores:e}")
        };
        Err(InvalidAmount::new(
            "number of cores",
            &text,
            "write a number from 0 to 1000000, as in `0.5` or `4`",
        ))
    }
}

/// Reads and writes a [`Duration`] as `2h30m`; use with `#[serde(with = "…")]`.
pub mod duration {
    use super::*;

    /// Writes the duration.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format_duration(*d))
    }

    /// Reads a duration, however long.
    ///
    /// # Errors
    /// Text that is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_str(DurationVisitor)
    }

    struct DurationVisitor;
    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as `90s` or `2h30m`")
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Duration, E> {
            read_duration(v)
                .ok_or_else(|| E::custom(InvalidAmount::new("duration", v, DURATION_HINT)))
        }
    }
}

/// Reads and writes an optional [`Duration`]; use with `#[serde(with = "…", default)]`.
pub mod optional_duration {
    use super::*;
    use serde::Deserialize;

    /// Writes the duration or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => duration::serialize(d, s),
            None => s.serialize_none(),
        }
    }

    /// Reads a duration, however long.
    ///
    /// # Errors
    /// Text that is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Wrapped(#[serde(with = "super::duration")] Duration);
        Ok(Option::<Wrapped>::deserialize(d)?.map(|w| w.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_printing_and_reading() {
        for millis in [
            0_u64, 1, 999, 1_000, 61_000, 9_000_000, 86_400_123, 90_061_001,
        ] {
            let d = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(d)).unwrap(), d, "{millis}");
        }
    }

    /// Code can make any, and what a store can't give back is another pipeline after a crash.
    #[test]
    fn the_shortest_and_the_longest_duration_survive_a_store() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Kept(#[serde(with = "duration")] Duration);
        for d in [
            Duration::from_nanos(1),
            Duration::from_nanos(999_999_999),
            Duration::from_nanos(1_000_000_001),
            Duration::from_micros(100),
            Duration::from_secs(u64::MAX),
            Duration::MAX,
        ] {
            let json = serde_json::to_string(&Kept(d)).unwrap();
            let back: Kept = serde_json::from_str(&json).unwrap();
            assert_eq!(back.0, d, "{json}");
        }
    }

    #[test]
    fn what_is_only_too_large_is_called_that() {
        let longest = format_duration(MAX_DURATION);
        assert_eq!(parse_duration("36500d"), Ok(MAX_DURATION));
        assert!(DURATION_LIMIT.contains(&longest), "{longest}");
        let why = |e: InvalidAmount| e.to_string();
        assert!(
            parse_duration("876001h")
                .map_err(why)
                .unwrap_err()
                .contains("100 years")
        );
        assert!(parse_bytes("16777215TiB").is_ok());
        for size in ["16777216TiB", "18446744073709551616", "1.5e"] {
            let said = parse_bytes(size).map_err(why).unwrap_err();
            assert_eq!(said.contains("largest"), !size.ends_with('e'), "{said}");
        }
    }

    #[test]
    fn absurd_amounts_are_refused() {
        for bad in [
            "",
            "s",
            "1e9s",
            "-5s",
            "10 parsecs",
            "999999999999d",
            "1..2s",
            "1.s",
            ".5s",
            "nan",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "GiB", "99999999999999TiB", "-1GiB", "4GiB4", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e12] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }
}

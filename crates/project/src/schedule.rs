//! Whether a schedule can be read: the fields of cron, and the names of time zones.
//!
//! Nothing here says when a schedule fires; that is the engine's calendar.

use jiff::tz::TimeZone;
use windlass_core::nearest;

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field of cron.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// Words for its values, from `least` upwards.
    words: &'static [&'static str],
}

const fn field(name: &'static str, least: u32, most: u32, words: &'static [&'static str]) -> Field {
    Field {
        name,
        least,
        most,
        words,
    }
}

const FIELDS: [Field; 6] = [
    field("second", 0, 59, &[]),
    field("minute", 0, 59, &[]),
    field("hour", 0, 23, &[]),
    field("day of month", 1, 31, &[]),
    field("month", 1, 12, MONTHS),
    field("day of week", 0, 7, DAYS),
];

/// Days that each month has at most.
const MONTH_LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Checks five or six fields of cron: `*`, numbers, words, ranges, lists and steps.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn check_cron(text: &str) -> Result<(), (String, String)> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let fields = match parts.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        n => {
            return Err((
                format!("cron needs five or six fields, and this has {n}"),
                "write minute, hour, day of month, month and day of week, as in `0 6 3 * *`"
                    .to_owned(),
            ));
        }
    };
    let mut sets = Vec::new();
    for (field, part) in fields.iter().zip(&parts) {
        sets.push(values(field, part).map_err(|why| {
            let range = format!(
                "write {} to {}, `*`, `a-b`, `a,b` or `*/n`",
                field.least, field.most
            );
            (format!("the {} `{part}` {why}", field.name), range)
        })?);
    }
    if let [.., days, months, weekdays] = sets.as_slice() {
        let fires = |day: &u32, month: &u32| *day <= MONTH_LENGTHS[*month as usize - 1];
        let any_weekday = weekdays.len() >= 7;
        if any_weekday && !months.iter().any(|m| days.iter().any(|d| fires(d, m))) {
            return Err((
                "this day never comes".to_owned(),
                "write a day that one of the months has".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Returns the values of a field.
fn values(field: &Field, text: &str) -> Result<Vec<u32>, &'static str> {
    let mut values = Vec::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (
                range,
                Some(
                    step.parse::<u32>()
                        .map_err(|_| "has no number behind `/`")?,
                ),
            ),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (field.least, field.most),
            Some((first, last)) => (number(field, first)?, number(field, last)?),
            None => {
                let first = number(field, range)?;
                (first, if step.is_some() { field.most } else { first })
            }
        };
        if first > last {
            return Err("runs backwards");
        }
        match step {
            Some(0) => return Err("has a step of 0"),
            step => values.extend((first..=last).step_by(step.unwrap_or(1) as usize)),
        }
    }
    Ok(values)
}

fn number(field: &Field, text: &str) -> Result<u32, &'static str> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = field.words.iter().position(|w| *w == lower) {
        return Ok(field.least + at as u32);
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if digits && (field.least..=field.most).contains(&n) => Ok(n),
        Ok(_) if digits => Err("is out of range"),
        _ => Err("is not understood"),
    }
}

/// Checks the name of a time zone.
///
/// # Errors
/// What to do instead.
pub(crate) fn check_zone(name: &str) -> Result<(), String> {
    if TimeZone::get(name).is_ok() {
        return Ok(());
    }
    let known: Vec<String> = jiff::tz::db()
        .available()
        .map(|zone| zone.as_str().to_owned())
        .collect();
    Err(match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write a name of the IANA database, such as `Europe/Paris` or `UTC`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cron_reads_is_good() {
        for good in [
            "0 6 3 * *",
            "*/15 0-6,22 * jan-mar,DEC mon-fri",
            "30 0 6 * * 0",
            "0 0 31 2,3 *",
            "0 0 30 2 mon",
            "5/10 * * * 7",
        ] {
            assert_eq!(check_cron(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cron_would_misread_is_refused() {
        for (bad, why) in [
            ("", "this has 0"),
            ("* * * *", "this has 4"),
            ("60 * * * *", "the minute `60` is out of range"),
            ("* 5-2 * * *", "runs backwards"),
            ("*/0 * * * *", "a step of 0"),
            ("* * * * someday", "is not understood"),
            ("* * +3 * *", "is not understood"),
            ("0 0 30 2 *", "never comes"),
            ("99999999999 * * * *", "is not understood"),
        ] {
            let (message, _) = check_cron(bad).unwrap_err();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }

    #[test]
    fn a_time_zone_is_known_without_the_host_s_files() {
        assert_eq!(check_zone("Europe/Paris"), Ok(()));
        assert_eq!(check_zone("UTC"), Ok(()));
        assert_eq!(
            check_zone("Europe/Pariss"),
            Err("did you mean `Europe/Paris`?".to_owned())
        );
        assert!(check_zone("../etc/passwd").is_err());
    }
}

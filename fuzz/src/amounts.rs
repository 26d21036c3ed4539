//! Amounts, names, dates, keys and values of parameters, from one line of text.

use std::fmt::Display;
use std::str::FromStr;

use windlass_core::storage::{ObjectKey, StorageUri};
use windlass_core::units::{
    format_bytes, format_duration, parse_bytes, parse_cores, parse_duration,
};
use windlass_core::{
    Digest, LogicalDate, LogicalName, ParamSpec, ParamType, PipelineName, RunId, RunKey, StepName,
    Timestamp,
};
use windlass_project::fuzzing;

/// Text that could be any of the small things.
pub fn amounts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match parse_duration(text) {
        Ok(time) => {
            let printed = format_duration(time);
            assert_eq!(parse_duration(&printed).as_ref(), Ok(&time), "{printed}");
        }
        Err(e) => short(&e),
    }
    match parse_bytes(text) {
        Ok(bytes) => {
            // One decimal is for people: a tenth of the unit may go, and the largest be too large.
            if let Ok(printed) = parse_bytes(&format_bytes(bytes)) {
                assert!(
                    printed.abs_diff(bytes) <= bytes / 10 + 1,
                    "{bytes} {printed}"
                );
            }
        }
        Err(e) => short(&e),
    }
    match text.parse().map(parse_cores) {
        Ok(Ok(millis)) => assert!(millis <= 1_000_000_000),
        Ok(Err(e)) => short(&e),
        Err(_) => {}
    }
    same::<LogicalDate>(text);
    same::<Timestamp>(text);
    same::<RunId>(text);
    same::<Digest>(text);
    for name in [
        StepName::new(text).map(|n| n.to_string()),
        LogicalName::new(text).map(|n| n.to_string()),
        PipelineName::new(text).map(|n| n.to_string()),
    ] {
        match name {
            Ok(name) => is_folder(&name),
            Err(e) => short(&e),
        }
    }
    same::<RunKey>(text);
    match ObjectKey::parse(text) {
        Ok(key) => {
            assert_eq!(ObjectKey::parse(key.as_str()).as_ref(), Ok(&key));
            let parts = key.as_str().split('/').filter(|p| !p.is_empty());
            parts.for_each(is_folder);
        }
        Err(e) => short(&e),
    }
    match StorageUri::parse(text) {
        Ok(uri) => {
            let printed = uri.to_string();
            assert_eq!(StorageUri::parse(&printed).as_ref(), Ok(&uri), "{printed}");
        }
        Err(e) => short(&e),
    }
    for kind in [
        ParamType::String,
        ParamType::Integer,
        ParamType::Number,
        ParamType::Boolean,
        ParamType::Array,
        ParamType::Object,
    ] {
        let mut spec = ParamSpec::default();
        spec.kind = kind;
        spec.items = (kind == ParamType::Array).then_some(ParamType::Integer);
        match spec.parse(text) {
            Ok(value) => assert_eq!(spec.check(&value), Ok(())),
            Err(e) => short(&e),
        }
    }
}

/// Fields of cron.
pub fn cron(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err((message, help)) = fuzzing::cron(text)
    {
        // The text is repeated as it is, and made fit for a terminal where it is printed.
        assert!(!message.is_empty() && message.len() < text.len() + 200);
        assert!(help.len() < 200);
    }
}

/// What can be read is the same after it was printed.
fn same<T: FromStr<Err: Display> + Display + PartialEq + std::fmt::Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            assert_eq!(printed.parse::<T>().ok(), Some(value), "{printed}");
        }
        Err(e) => short(&e),
    }
}

/// A message may repeat what it was given, up to a bound.
fn short(message: &impl Display) {
    let text = message.to_string();
    assert!(!text.is_empty() && text.len() < 2_000, "{text}");
    crate::assert_printable(&text);
}

/// Names become folders: none may lead elsewhere.
fn is_folder(name: &str) {
    assert!(!name.is_empty() && name != "." && name != "..", "{name:?}");
    assert!(!name.contains(['/', '\\', '\0']), "{name:?}");
}

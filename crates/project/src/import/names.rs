//! Names of other systems, made into names of ours: alike to look at, valid, and unique.

use std::collections::{HashMap, HashSet};

/// Hands out names, no two alike.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// The number behind the latest of those that wanted one name.
    latest: HashMap<String, u32>,
}

impl Names {
    /// Returns `wanted`, or `wanted-2`, `wanted-3`, … if it is taken; at most `max` bytes.
    ///
    /// `wanted` must be ASCII, not empty, and valid for its purpose.
    pub(super) fn unique(&mut self, wanted: &str, max: usize) -> String {
        let clipped = &wanted[..wanted.len().min(max)];
        let mut name = clipped.to_owned();
        let number = self.latest.entry(name.clone()).or_insert(0);
        loop {
            *number += 1;
            if *number > 1 {
                let suffix = format!("-{number}");
                let room = max.saturating_sub(suffix.len()).min(clipped.len());
                name = format!("{}{suffix}", &clipped[..room]);
            }
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Returns `text` with everything but ASCII letters, digits, `-` and `_` made into `-`, starting
/// with a letter or digit; `fallback` if nothing is left.
pub(super) fn word(text: &str, fallback: &str) -> String {
    slug(text, fallback, |c| {
        c.is_ascii_alphanumeric() || c == '-' || c == '_'
    })
}

/// As [`word`], but dots stay: a name for a file.
pub(super) fn file_name(text: &str, fallback: &str) -> String {
    slug(text, fallback, |c| {
        c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.'
    })
}

/// As [`word`], in lower case and without `_`: a name for a pipeline.
pub(super) fn lower(text: &str, fallback: &str) -> String {
    let text = text.to_ascii_lowercase();
    slug(&text, fallback, |c| c.is_ascii_alphanumeric() || c == '-')
}

fn slug(text: &str, fallback: &str, keeps: impl Fn(char) -> bool) -> String {
    let replaced: String = text
        .chars()
        .map(|c| if keeps(c) { c } else { '-' })
        .collect();
    let trimmed = replaced
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .trim_end_matches('-');
    if trimmed.is_empty() {
        fallback.to_owned()
    } else {
        trimmed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use windlass_core::{LogicalName, ObjectKey, PipelineName, StepName};

    use super::*;

    #[test]
    fn names_stay_alike_to_look_at() {
        assert_eq!(word("NFCORE.BACASS#2", "x"), "NFCORE-BACASS-2");
        assert_eq!(word("../..", "x"), "x");
        assert_eq!(file_name(".hidden.txt", "x"), "hidden.txt");
        assert_eq!(lower("Montage_01d.json", "x"), "montage-01d-json");
        let mut names = Names::default();
        let given = ["a", "a", "a-2", "a"].map(|n| names.unique(n, 128));
        assert_eq!(given, ["a", "a-2", "a-2-2", "a-3"]);
    }

    proptest! {
        #[test]
        fn names_are_valid_and_unique(texts in prop::collection::vec(".{0,200}|[ab./#-]{0,4}", 0..40)) {
            let (mut steps, mut seen) = (Names::default(), HashSet::new());
            for text in &texts {
                let name = steps.unique(&word(text, "task"), 12);
                prop_assert!(StepName::new(&name).is_ok(), "{}", name);
                prop_assert!(LogicalName::new(&name).is_ok());
                prop_assert!(name.len() <= 12);
                prop_assert!(seen.insert(name));
                prop_assert!(ObjectKey::parse(&file_name(text, "file")).is_ok());
                let lower = lower(text, "imported");
                prop_assert!(PipelineName::new(&lower[..lower.len().min(63)]).is_ok(), "{}", lower);
            }
        }
    }
}

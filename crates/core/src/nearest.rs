//! The nearest known name, for "did you mean".

/// Returns the candidate most like `name`, if one is alike enough to be meant.
///
/// ```
/// use windlass_core::nearest;
/// assert_eq!(nearest("trian", ["fetch", "train"]), Some("train"));
/// assert_eq!(nearest("x", ["fetch", "train"]), None);
/// ```
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .take(10_000)
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= 1 + name.len().max(c.len()) / 4)
        .filter(|(distance, c)| *distance < name.chars().count().max(c.chars().count()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

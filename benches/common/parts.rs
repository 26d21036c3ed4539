//! Parts of a benchmark that can be measured alone.

/// Returns whether this part is to be measured: all are, without `--only PART`.
pub(crate) fn wanted(part: &str) -> bool {
    let only = std::env::args().skip_while(|a| a != "--only").nth(1);
    only.is_none_or(|only| only == part)
}

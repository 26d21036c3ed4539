//! Cuts and cleans text, and says what was cut.

/// Cuts to at most `max` characters on one line; `…` is the last one if something is gone.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect();
    let line = words.join(" ");
    if line.chars().count() <= max {
        return line;
    }
    let mut cut: String = line.chars().take(max.saturating_sub(1)).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}

/// Returns the longest start of the text that has at most `max` bytes.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Cuts to at most `max_bytes` and `max_lines`, and appends a line that says how much is gone,
/// with the `unread` bytes that the text has lost already.
///
/// Control characters other than line ends go: a terminal or chat would obey them.
pub(crate) fn excerpt(text: &str, max_bytes: usize, max_lines: usize, unread: usize) -> String {
    let text = text.trim();
    let lines = text.lines().take(max_lines).map(str::len).sum::<usize>();
    let line_ends = text.lines().count().min(max_lines).saturating_sub(1);
    let kept = prefix(text, max_bytes.min(lines + line_ends)).trim_end();
    let mut out: String = kept
        .chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| *c == '\n' || !c.is_control())
        .collect();
    let gone = text.len() - kept.len() + unread;
    if gone > 0 {
        out.push_str(&format!("\n({gone} bytes cut)"));
    }
    out
}

/// Prints a count with its noun: `1 step`, `2 steps`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_characters() {
        assert_eq!(one_line("a\n b\u{1b}[31m", 20), "a b [31m");
        assert_eq!(one_line(&"é".repeat(10), 4), "ééé…");
        assert_eq!(one_line("four", 4), "four");
    }

    #[test]
    fn an_excerpt_says_what_is_gone() {
        assert_eq!(excerpt("short\u{7}\n", 100, 5, 0), "short");
        assert_eq!(
            excerpt("one\ntwo\nthree", 100, 2, 0),
            "one\ntwo\n(6 bytes cut)"
        );
        assert_eq!(excerpt("ééééé", 5, 5, 0), "éé\n(6 bytes cut)");
        assert_eq!(excerpt("a\r\nb\r\nc", 100, 2, 0).lines().next(), Some("a"));
        assert_eq!(excerpt("", 10, 2, 0), "");
        assert_eq!(excerpt("all", 10, 2, 7), "all\n(7 bytes cut)");
    }
}

//! Finds words in the holes of a template: names, filters and tests, each with its place.
//!
//! minijinja tells which variables a template needs, but not which filters, nor where they stand;
//! it looks a filter up when it is called, which is too late. What is scanned here has been
//! compiled by minijinja before, so the scanner needs no errors of its own: on text that it
//! doesn't understand it finds nothing.

use std::ops::Range;

/// A word or sign within a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    /// The text between quotes, as written.
    Text(&'a str),
    Sign(char),
}

/// A hole `{{ … }}` or a statement `{% … %}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole<'a> {
    /// The whole of it, with its braces.
    pub(super) span: Range<usize>,
    /// True for `{% … %}`.
    pub(super) is_statement: bool,
    /// What stands in it, each with its bytes in the template.
    pub(super) tokens: Vec<(Token<'a>, Range<usize>)>,
}

impl<'a> Hole<'a> {
    /// Returns the word at an index, if there is one.
    pub(super) fn word(&self, index: usize) -> Option<&'a str> {
        match self.tokens.get(index) {
            Some((Token::Word(word), _)) => Some(word),
            _ => None,
        }
    }

    /// Returns the word that says what a statement does, and its index: a `-` or `+` may stand before it.
    pub(super) fn keyword(&self) -> Option<(usize, &'a str)> {
        let first = usize::from(self.sign(0, '-') || self.sign(0, '+'));
        self.is_statement.then_some((first, self.word(first)?))
    }

    pub(super) fn sign(&self, index: usize, sign: char) -> bool {
        matches!(self.tokens.get(index), Some((Token::Sign(s), _)) if *s == sign)
    }

    /// Returns the member that follows a name: `.NAME`, `["NAME"]`, or neither.
    pub(super) fn member(&self, index: usize) -> Member<'a> {
        let place = |i: usize| self.tokens.get(i).map_or(0..0, |(_, span)| span.clone());
        if self.sign(index + 1, '.') {
            return match self.word(index + 2) {
                Some(word) => Member::Named(word, place(index + 2)),
                None => Member::None,
            };
        }
        if !self.sign(index + 1, '[') {
            return Member::None;
        }
        match self.tokens.get(index + 2) {
            Some((Token::Text(text), span)) if self.sign(index + 3, ']') => {
                Member::Named(text, span.start + 1..span.end - 1)
            }
            _ => Member::Computed,
        }
    }
}

/// What follows a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member<'a> {
    /// A name that stands in the template.
    Named(&'a str, Range<usize>),
    /// `[…]` with something that is only known later.
    Computed,
    None,
}

/// Returns the holes of a template, in order.
pub(super) fn holes(text: &str) -> Vec<Hole<'_>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('{').map(|n| at + n) {
        let close = match text.as_bytes().get(open + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                at = text[open..].find("#}").map_or(text.len(), |n| open + n + 2);
                continue;
            }
            _ => {
                at = open + 1;
                continue;
            }
        };
        let (tokens, end) = tokens(text, open + 2, close);
        at = end;
        let hole = Hole {
            span: open..end,
            is_statement: close == "%}",
            tokens,
        };
        if hole.keyword().is_some_and(|(_, word)| word == "raw") {
            at = text[at..].find("endraw").map_or(text.len(), |n| at + n + 6);
        }
        holes.push(hole);
    }
    holes
}

/// Returns the tokens from `at` to `close`, and where that ends.
fn tokens<'a>(
    text: &'a str,
    mut at: usize,
    close: &str,
) -> (Vec<(Token<'a>, Range<usize>)>, usize) {
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if depth == 0 && rest.starts_with(close) {
            return (tokens, at + close.len());
        }
        let length = match c {
            '"' | '\'' => {
                let length = quoted(rest, c);
                if let Some(length) = length {
                    tokens.push((Token::Text(&rest[1..length - 1]), at..at + length));
                }
                length.unwrap_or(rest.len())
            }
            c if c.is_alphanumeric() || c == '_' => {
                let length = rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                tokens.push((Token::Word(&rest[..length]), at..at + length));
                length
            }
            c if c.is_whitespace() => c.len_utf8(),
            c => {
                match c {
                    '{' | '[' | '(' => depth += 1,
                    '}' | ']' | ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                tokens.push((Token::Sign(c), at..at + c.len_utf8()));
                c.len_utf8()
            }
        };
        at += length;
    }
    (tokens, text.len())
}

/// Returns the length of a quoted text with its quotes, if it has an end.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(i + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_strings_comments_and_plain_text_are_not_found() {
        let found = holes("a | b {# c | d #} {{ 'e | f' | g }} {% raw %}{{ h | i }}{% endraw %}");
        let words: Vec<_> = found
            .iter()
            .flat_map(|h| &h.tokens)
            .filter_map(|(t, _)| match t {
                Token::Word(w) => Some(*w),
                _ => None,
            })
            .collect();
        assert_eq!(words, ["g", "raw"]);
    }

    #[test]
    fn a_quote_without_an_end_is_no_text() {
        for text in ["{{ 'ß", "{{ '", "{{ 'a' ~ \"ß", "{{ '\\"] {
            let found = holes(text);
            assert_eq!(found[0].span, 0..text.len(), "{text}");
        }
    }

    #[test]
    fn braces_within_a_hole_don_t_end_it() {
        let text = "{{ {'a': {'b': 1}} }}";
        assert_eq!(holes(text)[0].span, 0..text.len());
    }

    #[test]
    fn members_are_found_in_both_forms() {
        let found = holes("{{ steps.a + steps['re-use'] + steps[x] + steps }}");
        let members: Vec<_> = (0..found[0].tokens.len())
            .filter(|i| found[0].word(*i) == Some("steps"))
            .map(|i| found[0].member(i))
            .collect();
        assert_eq!(
            members,
            [
                Member::Named("a", 9..10),
                Member::Named("re-use", 20..26),
                Member::Computed,
                Member::None
            ]
        );
    }
}

//! Writes a template again so that minijinja finds all of its names.
//!
//! `Template::undeclared_variables` (as of minijinja 3.1) doesn't look at what is sliced, nor at the
//! filters of blocks, and takes a name that a statement makes for known in that statement itself.
//! What is written here says the same names in places where it looks; it is never rendered.

use std::ops::Range;

use super::scan::{Hole, Token};

/// Returns a template that uses the names that `text` uses, and makes those that it makes.
pub(super) fn traceable(text: &str, holes: &[Hole<'_>]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut at = 0;
    for hole in holes {
        out.push_str(text.get(at..hole.span.start).unwrap_or(""));
        before(text, hole, &mut out);
        unsliced(text, hole, hole.span.clone(), &mut out);
        at = hole.span.end;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out
}

/// Writes what a statement evaluates, as it is before the statement has done anything.
fn before(text: &str, hole: &Hole<'_>, out: &mut String) {
    let Some((first, word)) = hole.keyword() else {
        return;
    };
    // The statement's end, without its braces and a `-` or `+` at them.
    let last = hole.tokens.len();
    let last =
        last - usize::from(last > 0 && (hole.sign(last - 1, '-') || hole.sign(last - 1, '+')));
    let piece = |from: usize, to: usize| {
        Some(place(hole, from)?.start..place(hole, to.checked_sub(1)?)?.end)
    };
    let emit = |prefix: &str, part: Option<Range<usize>>, out: &mut String| {
        if let Some(part) = part.filter(|p| p.start < p.end) {
            out.push_str("{{ ");
            out.push_str(prefix);
            unsliced(text, hole, part, out);
            out.push_str(" }}");
        }
    };
    match word {
        "filter" => emit("''|", piece(first + 1, last), out),
        "autoescape" => emit("", piece(first + 1, last), out),
        "set" => {
            let equals = (first..last).find(|i| hole.sign(*i, '='));
            let pipe = (first..last).find(|i| hole.sign(*i, '|'));
            match (equals, pipe) {
                (Some(equals), pipe) if pipe.is_none_or(|pipe| equals < pipe) => {
                    emit("", piece(equals + 1, last), out);
                }
                (_, Some(pipe)) => emit("''|", piece(pipe + 1, last), out),
                _ => {}
            }
        }
        "with" => {
            // A branch is a scope: what is made in it is not known behind it.
            out.push_str("{% if 1 %}");
            for (from, to) in parts(hole, first + 1, last) {
                if let Some(equals) = (from..to).find(|i| hole.sign(*i, '=')) {
                    emit("", piece(equals + 1, to), out);
                    if let Some(target) = piece(from, equals) {
                        out.push_str(&format!("{{% set {} = 1 %}}", &text[target]));
                    }
                }
            }
            out.push_str("{% endif %}");
        }
        _ => {}
    }
}

fn place(hole: &Hole<'_>, index: usize) -> Option<Range<usize>> {
    hole.tokens.get(index).map(|(_, span)| span.clone())
}

/// Splits tokens at the commas that stand in no bracket.
fn parts(hole: &Hole<'_>, from: usize, to: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut start, mut depth) = (Vec::new(), from, 0_usize);
    for i in from..to {
        match &hole.tokens[i].0 {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Sign(',') if depth == 0 => {
                parts.push((start, i));
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push((start, to));
    parts
}

/// Writes a part of a hole with `x[a:b]` as `x(a, b)`: of a call, everything is looked at.
fn unsliced(text: &str, hole: &Hole<'_>, part: Range<usize>, out: &mut String) {
    let is_slice = slices(hole);
    let mut at = part.start;
    for (i, (_, span)) in hole.tokens.iter().enumerate() {
        if !is_slice[i] || span.start < part.start || span.end > part.end {
            continue;
        }
        out.push_str(text.get(at..span.start).unwrap_or(""));
        at = span.end;
        let is_last = hole.sign(i + 1, ':') || hole.sign(i + 1, ']');
        match (&hole.tokens[i].0, is_last) {
            (Token::Sign('['), true) => out.push_str("(0"),
            (Token::Sign('['), false) => out.push_str("(0, "),
            (Token::Sign(':'), false) => out.push_str(", "),
            (Token::Sign(']'), _) => out.push(')'),
            _ => {}
        }
    }
    out.push_str(text.get(at..part.end).unwrap_or(""));
}

/// Marks the brackets and colons of slices among the tokens of a hole.
fn slices(hole: &Hole<'_>) -> Vec<bool> {
    let mut marks = vec![false; hole.tokens.len()];
    // Each open bracket: its sign, its index and the colons in it.
    let mut open: Vec<(char, usize, Vec<usize>)> = Vec::new();
    for (i, (token, _)) in hole.tokens.iter().enumerate() {
        match token {
            Token::Sign(c @ ('(' | '[' | '{')) => open.push((*c, i, Vec::new())),
            Token::Sign(':') => {
                if let Some((_, _, colons)) = open.last_mut() {
                    colons.push(i);
                }
            }
            Token::Sign(')' | ']' | '}') => {
                if let Some(('[', start, colons)) = open.pop()
                    && !colons.is_empty()
                {
                    for mark in colons.into_iter().chain([start, i]) {
                        marks[mark] = true;
                    }
                }
            }
            _ => {}
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::super::scan::holes;
    use super::*;

    fn traced(text: &str) -> String {
        traceable(text, &holes(text))
    }

    #[test]
    fn a_slice_becomes_a_call() {
        assert_eq!(traced("{{ a[1:b].c }}"), "{{ a(0, 1, b).c }}");
        assert_eq!(traced("{{ a[:b] + c[::] }}"), "{{ a(0, b) + c(0) }}");
        assert_eq!(
            traced("{{ a[b[c:]:{'d': 1}[e]] }}"),
            "{{ a(0, b(0, c), {'d': 1}[e]) }}"
        );
        assert_eq!(
            traced("{{ {'a': [b]}[c] }} [x:y]"),
            "{{ {'a': [b]}[c] }} [x:y]"
        );
    }

    #[test]
    fn what_a_statement_evaluates_stands_before_it() {
        assert_eq!(
            traced("{%- set a = a[1:] -%}"),
            "{{ a(0, 1) }}{%- set a = a(0, 1) -%}"
        );
        assert_eq!(
            traced("{% set a | d(b) %}"),
            "{{ ''|d(b) }}{% set a | d(b) %}"
        );
        assert_eq!(
            traced("{% filter d(b) %}"),
            "{{ ''|d(b) }}{% filter d(b) %}"
        );
        assert_eq!(
            traced("{% with a = [b, c], d = a %}"),
            "{% if 1 %}{{ [b, c] }}{% set a = 1 %}{{ a }}{% set d = 1 %}{% endif %}{% with a = [b, c], d = a %}"
        );
    }
}

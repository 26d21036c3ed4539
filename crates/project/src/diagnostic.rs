//! What is wrong with a file: where, what and what to do, printed like rustc's messages.
//!
//! A [`Diagnostic`] keeps the text of its files, shared between all of them, and prints only the
//! lines that it points at. Control characters of a file never reach the terminal.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// A file's name, relative to the project, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) file: Arc<str>,
    pub(crate) text: Arc<str>,
}

impl Source {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        Self {
            file: Arc::from(file),
            // As long as before, so that places stay.
            text: Arc::from(text.replace("\r\n", " \n")),
        }
    }
}

/// Another place that belongs to a problem; in the problem's own file unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Related {
    pub(crate) source: Option<Source>,
    pub(crate) span: Range<usize>,
    pub(crate) label: String,
}

/// One problem, by its place in the text of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) span: Option<Range<usize>>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) related: Vec<Related>,
    /// True if the lines of the file may hold a secret, so that they are not printed.
    pub(crate) discreet: bool,
}

impl Problem {
    /// Returns a problem of a whole file.
    pub(crate) fn file(message: impl Into<String>) -> Self {
        Self {
            span: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
            discreet: false,
        }
    }

    pub(crate) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            ..Self::file(message)
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Suggests the nearest known name, or lists what there is.
    pub(crate) fn nearest<'a>(
        self,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
        none: impl Into<String>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match windlass_core::nearest(name, known.iter().copied()) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => self.help(none),
            None if known.len() == 1 => self.help(format!("there is only `{}`", known[0])),
            None => self.help(format!("there are {}", list(&known))),
        }
    }

    pub(crate) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push(Related {
            source: None,
            span,
            label: label.into(),
        });
        self
    }

    /// Adds a place in another file.
    pub(crate) fn elsewhere(
        mut self,
        source: &Source,
        span: Range<usize>,
        label: impl Into<String>,
    ) -> Self {
        self.related.push(Related {
            source: Some(source.clone()),
            span,
            label: label.into(),
        });
        self
    }

    /// Keeps the lines of the file out of what is printed.
    pub(crate) const fn discreet(mut self) -> Self {
        self.discreet = true;
        self
    }

    /// Puts the problem into its file.
    pub(crate) fn within(self, source: &Source, severity: Severity) -> Diagnostic {
        let excerpt = |source: &Source, span: &Range<usize>, label: Option<String>| Excerpt {
            span: on_one_line(&source.text, span),
            source: source.clone(),
            label,
        };
        let excerpts: Vec<Excerpt> = self
            .span
            .iter()
            .map(|span| excerpt(source, span, None))
            .chain(self.related.iter().map(|r| {
                excerpt(
                    r.source.as_ref().unwrap_or(source),
                    &r.span,
                    Some(r.label.clone()),
                )
            }))
            .collect();
        let first = excerpts.first().filter(|_| self.span.is_some());
        let start = first.map(|e| place(&e.source.text, e.span.start));
        let end = first.map(|e| place(&e.source.text, e.span.end));
        let related = excerpts
            .iter()
            .skip(usize::from(self.span.is_some()))
            .map(|e| {
                let (line, column) = place(&e.source.text, e.span.start);
                RelatedPlace {
                    file: e.source.file.to_string(),
                    line,
                    column,
                    label: e.label.clone().unwrap_or_default(),
                }
            })
            .collect();
        Diagnostic {
            severity,
            file: source.file.to_string(),
            line: start.map(|p| p.0),
            column: start.map(|p| p.1),
            end_column: end.map(|p| p.1),
            message: self.message,
            help: self.help,
            related,
            discreet: self.discreet,
            excerpts,
        }
    }
}

/// Joins names for a message; a long list is cut.
pub(crate) fn list(names: &[&str]) -> String {
    const MOST: usize = 20;
    let mut text = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST {
        text.push_str(&format!(" and {} more", names.len() - MOST));
    }
    text
}

/// Cuts text that a message repeats.
pub(crate) fn clip(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// The project can be used.
    Warning,
    /// It can't.
    Error,
}

/// Another place that belongs to a [`Diagnostic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelatedPlace {
    /// The file, relative to the project.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What it has to do with the problem.
    pub label: String,
}

/// One problem of a project, with its place.
///
/// Prints like rustc's messages, plain; [`Diagnostic::render`] can colour it. Serialises for
/// editors and other programs, without the lines of the file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("windlass.yaml"), "nam: demo\n")?;
/// let report = windlass_project::Project::load(folder.path(), None).unwrap_err();
/// let first = &report.diagnostics()[0];
/// assert_eq!((first.file.as_str(), first.line, first.column), ("windlass.yaml", Some(1), Some(1)));
/// assert_eq!(first.message, "unknown key `nam`");
/// assert_eq!(first.help.as_deref(), Some("did you mean `name`?"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, relative to the project.
    pub file: String,
    /// Line, from 1; `None` for a problem of a whole file.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Column behind its last character, on the same line.
    pub end_column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Other places that belong to it.
    pub related: Vec<RelatedPlace>,
    #[serde(skip)]
    discreet: bool,
    #[serde(skip)]
    excerpts: Vec<Excerpt>,
}

/// A place and the text around it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    source: Source,
    span: Range<usize>,
    label: Option<String>,
}

impl Diagnostic {
    /// Returns it with its lines of the file and marks below them; `colour` adds ANSI colours.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        if self.discreet || self.excerpts.is_empty() {
            let mut origin = Origin::path(self.file.as_str());
            if let (Some(line), Some(column)) = (self.line, self.column) {
                origin = origin.line(line).char_column(column);
            }
            group = group.element(origin);
        } else {
            for snippet in self.snippets() {
                group = group.element(snippet);
            }
        }
        if let Some(help) = &self.help {
            // Help may repeat names of the file, so it is as untrusted as the file.
            let help = annotate_snippets::normalize_untrusted_str(help);
            group = group.element(Level::HELP.message(help));
        }
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        // The renderer knows the control characters of ASCII; a terminal may obey these too.
        let is_c1 = |c: char| ('\u{80}'..='\u{9f}').contains(&c);
        renderer.render(&[group]).replace(is_c1, "\u{fffd}")
    }

    /// Makes one snippet for each file, cut to the lines that matter.
    fn snippets(&self) -> Vec<Snippet<'_, Annotation<'_>>> {
        let mut files: Vec<(&Source, Vec<(usize, &Excerpt)>)> = Vec::new();
        for (i, excerpt) in self.excerpts.iter().enumerate() {
            match files
                .iter_mut()
                .find(|(s, _)| s.file == excerpt.source.file)
            {
                Some((_, all)) => all.push((i, excerpt)),
                None => files.push((&excerpt.source, vec![(i, excerpt)])),
            }
        }
        files
            .into_iter()
            .map(|(source, excerpts)| {
                let text = &*source.text;
                let first = excerpts.iter().map(|(_, e)| e.span.start).min();
                let last = excerpts.iter().map(|(_, e)| e.span.end).max();
                let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
                let from = text[..first].rfind('\n').map_or(0, |n| n + 1);
                let to = text[last..].find('\n').map_or(text.len(), |n| last + n);
                let annotations = excerpts.into_iter().map(|(i, e)| {
                    let kind = if i == 0 && self.line.is_some() {
                        AnnotationKind::Primary
                    } else {
                        AnnotationKind::Context
                    };
                    kind.span(e.span.start - from..e.span.end - from)
                        .label(e.label.as_deref())
                });
                Snippet::source(&text[from..to])
                    .line_start(place(text, from).0)
                    .path(&*source.file)
                    .annotations(annotations)
            })
            .collect()
    }
}

impl fmt::Display for Diagnostic {
    /// Prints it with its line of the file and a mark below it, without colours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Everything that is wrong with a project, file by file, from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(crate) const fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    /// Returns the problems, file by file, from top to bottom.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Returns all of them as text, with their number at the end; `colour` adds ANSI colours.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text.push_str(&diagnostic.render(colour));
            text.push_str("\n\n");
        }
        let count = |severity| {
            let all = self.diagnostics.iter();
            all.filter(|d| d.severity == severity).count()
        };
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        text.push_str(&plural(count(Severity::Error), "error"));
        let warnings = count(Severity::Warning);
        if warnings > 0 {
            text.push_str(&format!(", {}", plural(warnings, "warning")));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// Returns line and column of a byte, both from 1; columns count characters.
fn place(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Cuts a span at the end of its line, and at the bounds of characters.
fn on_one_line(source: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let line_end = source[start..]
        .find(['\n', '\r'])
        .map_or(source.len(), |n| start + n);
    start..floor(span.end).clamp(start, line_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, span: Range<usize>) -> String {
        Problem::at(span, "wrong")
            .within(&Source::new("a.yaml", text), Severity::Error)
            .to_string()
    }

    #[test]
    fn tabs_wide_and_control_characters_keep_the_mark_in_place() {
        let text = "key:\t\"漢字\" # \u{1b}[31m\u{9b}31m\n";
        let at = text.find('漢').unwrap();
        let shown = rendered(text, at..at + "漢字".len());
        assert!(!shown.contains(['\u{1b}', '\u{9b}']), "{shown:?}");
        assert!(shown.contains("a.yaml:1:7"), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let marked = lines.iter().position(|l| l.contains("漢字")).unwrap();
        assert!(lines[marked + 1].contains("^^^^"), "{shown}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{} here {}", "x".repeat(5_000), "y".repeat(5_000));
        let shown = rendered(&text, 5_001..5_005);
        assert!(shown.contains("here"), "{shown}");
        assert!(shown.lines().all(|l| l.chars().count() < 400), "{shown}");
    }

    #[test]
    fn a_span_beyond_the_text_points_at_its_end() {
        let shown = rendered("ab", 7..9);
        assert!(shown.contains("a.yaml:1:3"), "{shown}");
        assert!(rendered("", 0..5).contains("a.yaml:1:1"));
    }

    #[test]
    fn a_discreet_problem_prints_no_line_of_the_file() {
        let shown = Problem::at(5..12, "no secret may stand here")
            .discreet()
            .within(&Source::new("a.yaml", "key: hunter2\n"), Severity::Error)
            .to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("a.yaml:1:6"), "{shown}");
    }
}

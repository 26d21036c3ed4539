//! What is wrong with a file: where, what and what to do, printed like rustc's messages.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// One problem, by its place in the text of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) span: Option<Range<usize>>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) related: Vec<(Range<usize>, String)>,
}

impl Problem {
    /// Returns a problem of a whole file.
    pub(crate) fn file(message: impl Into<String>) -> Self {
        Self {
            span: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
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

    pub(crate) fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Puts the problem into its file.
    pub(crate) fn within(self, file: &str, source: &str, severity: Severity) -> Diagnostic {
        let span = self.span.clone().unwrap_or(0..0);
        let (line, column) = place(source, span.start);
        let has_place = self.span.is_some();
        let location = has_place.then_some((line, column));
        let text = render(file, source, severity, &self);
        Diagnostic {
            severity,
            file: file.to_owned(),
            line: location.map(|l| l.0),
            column: location.map(|l| l.1),
            message: self.message,
            help: self.help,
            text,
        }
    }
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

/// One problem of a project, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, relative to the project.
    pub file: String,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    #[serde(skip)]
    text: String,
}

impl fmt::Display for Diagnostic {
    /// Prints it with its line of the file and a mark below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with a project.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.diagnostics
            .iter()
            .try_for_each(|d| writeln!(f, "{d}\n"))?;
        let errors = self
            .diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count();
        write!(f, "{errors} error{}", if errors == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Report {}

fn place(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

fn render(file: &str, source: &str, severity: Severity, problem: &Problem) -> String {
    let level = match severity {
        Severity::Warning => Level::WARNING,
        Severity::Error => Level::ERROR,
    };
    let title = level.primary_title(problem.message.as_str());
    let group = match &problem.span {
        Some(span) => {
            let mut snippet = Snippet::source(source)
                .path(file)
                .annotation(AnnotationKind::Primary.span(on_one_line(source, span)));
            for (span, label) in &problem.related {
                snippet = snippet.annotation(
                    AnnotationKind::Context
                        .span(on_one_line(source, span))
                        .label(label.as_str()),
                );
            }
            title.element(snippet)
        }
        None => title.element(annotate_snippets::Origin::path(file)),
    };
    let group = match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    };
    Renderer::plain().render(&[group])
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
        .find('\n')
        .map_or(source.len(), |n| start + n);
    start..floor(span.end).clamp(start, line_end.max(start))
}

//! YAML as a small tree that knows where each value stands in its file.
//!
//! Hard budgets keep hostile files harmless: size, depth, number of values, and no anchors at
//! all, so a file can't unfold into more than it is. Duplicate keys are errors. What is wrong
//! without hiding the rest (a duplicate key, an anchor, a tag) is collected; what makes the rest
//! unreadable ends the parse.

use std::collections::HashMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::diagnostic::{Problem, clip};

/// Largest file that is read: 1 MiB.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 200_000;

/// A value and the bytes of the file that it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
    /// True if something that didn't decode was taken out of it.
    pub(crate) damaged: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Text as written, and whether it was quoted (a quoted scalar is always text).
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) span: Range<usize>,
    pub(crate) name: String,
}

impl Node {
    pub(crate) const fn new(span: Range<usize>, value: Value) -> Self {
        Self {
            span,
            value,
            damaged: false,
        }
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == name).map(|(_, v)| v),
            Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    /// Returns the text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Returns the keys and values of a map; none of anything else.
    pub(crate) fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar { .. } | Value::List(_) => &[],
        }
    }

    /// Returns the keys of a map; none of anything else.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries().iter().map(|(key, _)| key)
    }

    /// Returns the items of a list; none of anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Scalar { .. } | Value::Map(_) => &[],
        }
    }

    /// Returns where the value at a path stands, or the nearest thing around it that exists.
    pub(crate) fn find(&self, path: &str) -> Range<usize> {
        self.walk(path).0
    }

    /// Returns the scalar at a path, if there is one.
    pub(crate) fn scalar(&self, path: &str) -> Option<&Self> {
        self.walk(path).1.filter(|n| n.text().is_some())
    }

    /// Returns where the key at the end of a path stands, or what [`Self::find`] does.
    pub(crate) fn find_key(&self, path: &str) -> Range<usize> {
        let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.walk(parent).1;
        let key = parent.and_then(|p| p.keys().find(|k| k.name == key));
        key.map_or_else(|| self.find(path), |key| key.span.clone())
    }

    /// Follows a path; returns the place to point at, and the node if the whole path exists.
    fn walk(&self, path: &str) -> (Range<usize>, Option<&Self>) {
        let mut node = self;
        let mut place = self.head();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            let next = match &node.value {
                Value::Map(entries) => {
                    entries.iter().find(|(k, _)| k.name == part).map(|(k, v)| {
                        // A map or list is too long to point at: its key is the place.
                        let is_scalar =
                            matches!(v.value, Value::Scalar { .. }) && !v.span.is_empty();
                        let place = if is_scalar { &v.span } else { &k.span };
                        (place.clone(), v)
                    })
                }
                Value::List(items) => part
                    .parse::<usize>()
                    .ok()
                    .and_then(|i| items.get(i))
                    .or_else(|| items.iter().find(|i| i.text() == Some(part)))
                    .map(|item| (item.head(), item)),
                Value::Scalar { .. } => None,
            };
            match next {
                Some((next_place, next)) => (place, node) = (next_place, next),
                // One word stands for a list of one.
                None if node.text().is_some() && part == "0" => {}
                None => return (place, None),
            }
        }
        (place, Some(node))
    }

    /// Returns the first thing of a value that fits on a line; of a map its name, if it has one.
    pub(crate) fn head(&self) -> Range<usize> {
        match &self.value {
            Value::Scalar { .. } => self.span.clone(),
            Value::Map(entries) => match entries.iter().find(|(k, _)| k.name == "name") {
                Some((_, name)) if name.text().is_some() => name.span.clone(),
                _ => entries
                    .first()
                    .map_or(self.span.clone(), |(k, _)| k.span.clone()),
            },
            Value::List(items) => items.first().map_or(self.span.clone(), Self::head),
        }
    }

    /// Returns the place in the file of some bytes of a scalar's text, where it can be told.
    pub(crate) fn within(&self, source: &str, bytes: Range<usize>) -> Range<usize> {
        let (Some(text), Some(raw)) = (self.text(), source.get(self.span.clone())) else {
            return self.span.clone();
        };
        let unquoted = raw.get(1..raw.len().saturating_sub(1)).unwrap_or("");
        let start = if raw == text {
            Some(self.span.start + bytes.start)
        } else if unquoted == text {
            Some(self.span.start + 1 + bytes.start)
        } else {
            // Escapes and line breaks move things: only what is there once can be found.
            let part = text.get(bytes.clone()).filter(|p| !p.is_empty());
            part.and_then(|part| {
                let at = raw.find(part)?;
                (raw.rfind(part) == Some(at)).then_some(self.span.start + at)
            })
        };
        start.map_or(self.span.clone(), |start| start..start + bytes.len())
    }
}

/// Why a file can't be read, with as much of its text as can be shown.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) problem: Problem,
    pub(crate) text: String,
}

impl Unreadable {
    pub(crate) fn of(problem: Problem) -> Box<Self> {
        let text = String::new();
        Box::new(Self { problem, text })
    }
}

/// Decodes the bytes of a file, which must be UTF-8 of at most [`MAX_BYTES`].
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, Box<Unreadable>> {
    if bytes.len() > MAX_BYTES {
        return Err(Unreadable::of(too_large(bytes.len() as u64)));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let problem = Problem::at(
            at..at + '\u{fffd}'.len_utf8(),
            format!("the file is not valid UTF-8 at byte {at}"),
        )
        .help("save it as UTF-8");
        let text = String::from_utf8_lossy(bytes).into_owned();
        Box::new(Unreadable { problem, text })
    })
}

pub(crate) fn too_large(bytes: u64) -> Problem {
    Problem::file(format!("the file has {bytes} bytes, more than {MAX_BYTES}"))
        .help("split it, or put data into a file of its own")
}

/// Parses one document; an empty one is an empty map.
///
/// Returns what could be read, unless nothing of it can be trusted, and everything that is wrong.
pub(crate) fn parse(source: &str) -> (Option<Node>, Vec<Problem>) {
    let offsets = Offsets::of(source);
    let mut builder = Builder {
        source,
        stack: Vec::new(),
        nodes: 0,
        root: None,
        problems: Vec::new(),
        has_anchors: false,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(source) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(e) => {
                let at = offsets.byte(e.marker().index());
                let next = source[at..].chars().next().map_or(0, char::len_utf8);
                let problem = Problem::at(
                    at..at + next,
                    format!("this is not valid YAML: {}", e.info()),
                );
                let tabbed = source[..at]
                    .rsplit('\n')
                    .next()
                    .is_some_and(|l| l.contains('\t'));
                builder.problems.push(if tabbed {
                    problem.help("indent with spaces; YAML takes no tabs")
                } else {
                    problem
                });
                return (None, builder.problems);
            }
        };
        let span = offsets.byte(span.start.index())..offsets.byte(span.end.index());
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                let second = Problem::at(span, "a second document starts here");
                builder
                    .problems
                    .push(second.help("keep one document a file"));
                break;
            }
        }
        if let Err(fatal) = builder.event(event, span) {
            builder.problems.push(fatal);
            return (None, builder.problems);
        }
    }
    let empty = || Node::new(0..0, Value::Map(Vec::new()));
    (Some(builder.root.unwrap_or_else(empty)), builder.problems)
}

/// Turns the parser's positions, which count characters, into bytes.
struct Offsets(Option<Vec<u32>>, usize);

impl Offsets {
    fn of(source: &str) -> Self {
        let table =
            (!source.is_ascii()).then(|| source.char_indices().map(|(i, _)| i as u32).collect());
        Self(table, source.len())
    }

    fn byte(&self, index: usize) -> usize {
        match &self.0 {
            None => index.min(self.1),
            Some(table) => table.get(index).map_or(self.1, |i| *i as usize),
        }
    }
}

enum Open {
    List(usize, Vec<Node>),
    Map {
        start: usize,
        entries: Vec<(Key, Node)>,
        /// Where each key was first used.
        seen: HashMap<String, Range<usize>>,
        /// The key whose value comes next.
        key: Option<Key>,
    },
}

struct Builder<'a> {
    source: &'a str,
    stack: Vec<Open>,
    nodes: usize,
    root: Option<Node>,
    problems: Vec<Problem>,
    has_anchors: bool,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), Problem> {
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(_) => (1, false),
            _ => (0, false),
        };
        if anchor > 0 && !self.has_anchors {
            // Who uses one uses many; the first is enough to know.
            self.has_anchors = true;
            let problem = Problem::at(span.clone(), "anchors and aliases are not supported");
            self.problems
                .push(problem.help("write the value out, or use a template"));
        }
        if tagged {
            let problem = Problem::at(span.clone(), "tags are not supported");
            self.problems.push(problem.help("take the `!…` away"));
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let quoted = style != ScalarStyle::Plain;
                let text = text.into_owned();
                let span = trim(span, self.source);
                self.push(Node::new(span, Value::Scalar { text, quoted }))
            }
            Event::Alias(_) => {
                let text = String::new();
                self.push(Node::new(span, Value::Scalar { text, quoted: true }))
            }
            Event::SequenceStart(..) => self.open(Open::List(span.start, Vec::new()), span),
            Event::MappingStart(..) => {
                let map = Open::Map {
                    start: span.start,
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                };
                self.open(map, span)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(start, items)) => {
                    self.push(Node::new(start..span.end, Value::List(items)))
                }
                Some(Open::Map { start, entries, .. }) => {
                    self.push(Node::new(start..span.end, Value::Map(entries)))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, span: Range<usize>) -> Result<(), Problem> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Problem::at(
                span,
                format!("values are nested more than {MAX_DEPTH} deep"),
            ));
        }
        self.stack.push(open);
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Problem::at(
                node.span,
                format!("the file has more than {MAX_NODES} values"),
            ));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map {
                key: key @ None, ..
            }) => match node.value {
                Value::Scalar { text, .. } => {
                    *key = Some(Key {
                        span: node.span,
                        name: text,
                    });
                }
                Value::List(_) | Value::Map(_) => {
                    let place = node.head();
                    let problem = Problem::at(place, "a key must be text");
                    let braces =
                        node.span.len() > 2 && self.source[node.span.start..].starts_with('{');
                    return Err(if braces {
                        problem.help("put `{{ … }}` in quotes")
                    } else {
                        problem
                    });
                }
            },
            Some(Open::Map {
                key: key @ Some(_),
                entries,
                seen,
                ..
            }) => {
                let Some(key) = key.take() else {
                    return Ok(());
                };
                if let Some(first) = seen.get(&key.name) {
                    let problem = Problem::at(
                        key.span,
                        format!("key `{}` stands here twice", clip(&key.name)),
                    );
                    self.problems
                        .push(problem.related(first.clone(), "first used here"));
                } else {
                    seen.insert(key.name.clone(), key.span.clone());
                    entries.push((key, node));
                }
            }
        }
        Ok(())
    }
}

/// Takes trailing white space off a span, which plain scalars of several lines may have.
fn trim(span: Range<usize>, source: &str) -> Range<usize> {
    let text = source.get(span.clone()).unwrap_or_default();
    span.start..span.start + text.trim_end().len()
}

//! YAML as a small tree that knows where each value stands in its file.
//!
//! Hard budgets keep hostile files harmless: size, depth, number of nodes, and no anchors at all,
//! so a file can't unfold into more than it is. Duplicate keys are errors.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::diagnostic::Problem;

/// Largest file that is read: 1 MiB.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 200_000;

/// A value and the bytes of the file that it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
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

    /// Returns where the value at a path stands, or the nearest thing around it that exists.
    pub(crate) fn find(&self, path: &str) -> Range<usize> {
        let mut node = self;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            let next = match &node.value {
                Value::Map(entries) => match entries.iter().find(|(k, _)| k.name == part) {
                    // A map or list is too long to point at: its key is the place.
                    Some((key, value))
                        if !matches!(value.value, Value::Scalar { .. }) && path.ends_with(part) =>
                    {
                        return key.span.clone();
                    }
                    Some((_, value)) => Some(value),
                    None => None,
                },
                Value::List(items) => {
                    let by_number = part.parse::<usize>().ok().and_then(|i| items.get(i));
                    by_number.or_else(|| items.iter().find(|i| i.text() == Some(part)))
                }
                Value::Scalar { .. } => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.head()
    }

    /// Returns the first thing of a value that fits on a line.
    fn head(&self) -> Range<usize> {
        match &self.value {
            Value::Scalar { .. } => self.span.clone(),
            Value::Map(entries) => match entries.iter().find(|(k, _)| k.name == "name") {
                Some((_, name)) => name.head(),
                None => entries
                    .first()
                    .map_or(self.span.clone(), |(k, _)| k.span.clone()),
            },
            Value::List(items) => items.first().map_or(self.span.clone(), Self::head),
        }
    }
}

/// Decodes the bytes of a file, which must be UTF-8 of at most [`MAX_BYTES`].
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(Problem::file(format!(
            "the file has {} bytes, more than {MAX_BYTES}",
            bytes.len()
        ))
        .help("split it, or put data into a file of its own"));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Problem::file(format!(
            "the file is not valid UTF-8 at byte {} (line {line})",
            e.valid_up_to()
        ))
        .help("save it as UTF-8")
    })
}

/// Parses one document; an empty one is an empty map.
pub(crate) fn parse(source: &str) -> Result<Node, Problem> {
    let offsets = Offsets::of(source);
    let mut builder = Builder {
        stack: Vec::new(),
        nodes: 0,
        root: None,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(source) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(e) => {
                let at = offsets.byte(e.marker().index());
                return Err(Problem::at(
                    at..(at + 1).min(source.len().max(at)),
                    format!("this is not valid YAML: {}", e.info()),
                ));
            }
        };
        let span = offsets.byte(span.start.index())..offsets.byte(span.end.index());
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(Problem::at(span, "a second document starts here")
                    .help("keep one document a file"));
            }
        }
        builder.event(event, span, source)?;
    }
    Ok(builder.root.unwrap_or(Node {
        span: 0..0,
        value: Value::Map(Vec::new()),
    }))
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
    Map(usize, Vec<(Key, Node)>, Option<Key>),
}

struct Builder {
    stack: Vec<Open>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Range<usize>, source: &str) -> Result<(), Problem> {
        let anchor = match &event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _) => *anchor,
            Event::Alias(_) => 1,
            _ => 0,
        };
        if anchor > 0 {
            return Err(Problem::at(span, "anchors and aliases are not supported")
                .help("write the value out, or use a template"));
        }
        match event {
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    return Err(
                        Problem::at(span, "tags are not supported").help("take the `!…` away")
                    );
                }
                let quoted = style != ScalarStyle::Plain;
                let span = trim(span, source);
                self.push(Node {
                    span,
                    value: Value::Scalar {
                        text: text.into_owned(),
                        quoted,
                    },
                })
            }
            Event::SequenceStart(..) => self.open(Open::List(span.start, Vec::new()), span),
            Event::MappingStart(..) => self.open(Open::Map(span.start, Vec::new(), None), span),
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.stack.pop() {
                    Some(Open::List(start, items)) => Node {
                        span: start..span.end,
                        value: Value::List(items),
                    },
                    Some(Open::Map(start, entries, _)) => Node {
                        span: start..span.end,
                        value: Value::Map(entries),
                    },
                    None => return Ok(()),
                };
                self.push(node)
            }
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
            Some(Open::Map(_, entries, key @ None)) => match node.value {
                Value::Scalar { text, .. } => {
                    if let Some((first, _)) = entries.iter().find(|(k, _)| k.name == text) {
                        return Err(Problem::at(
                            node.span,
                            format!("key `{text}` stands here twice"),
                        )
                        .related(first.span.clone(), "first used here"));
                    }
                    *key = Some(Key {
                        span: node.span,
                        name: text,
                    });
                }
                Value::List(_) | Value::Map(_) => {
                    return Err(Problem::at(node.span, "a key must be text"));
                }
            },
            Some(Open::Map(_, entries, key)) => entries.extend(key.take().map(|k| (k, node))),
        }
        Ok(())
    }
}

/// Takes trailing white space off a span, which plain scalars of several lines may have.
fn trim(span: Range<usize>, source: &str) -> Range<usize> {
    let text = source.get(span.clone()).unwrap_or_default();
    span.start..span.start + text.trim_end().len()
}

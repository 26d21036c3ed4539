//! A pipeline in Graphviz's language: <https://graphviz.org/doc/info/lang.html>.

use std::fmt::Write;

use windlass::Conditions;

use super::{View, condition, remarks, subtitle};

/// Quotes text as an ID. A backslash is doubled, since labels give it a meaning (`escString`).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns the text of a `.dot` file.
pub(crate) fn write(view: &View) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("digraph {} {{", quoted(&view.name)));
    line("  rankdir=LR".to_owned());
    line("  node [shape=box, style=rounded, fontname=\"sans-serif\"]".to_owned());
    line("  edge [fontname=\"sans-serif\", fontsize=10]".to_owned());
    for finally in [false, true] {
        let indent = if finally { "    " } else { "  " };
        if finally && view.has_finally() {
            line("  subgraph cluster_finally {".to_owned());
            line("    label=\"finally\"".to_owned());
            line("    style=dashed".to_owned());
        }
        for node in view.nodes.iter().filter(|n| n.finally == finally) {
            let texts = [node.name.clone(), subtitle(node)];
            let label = texts.into_iter().chain(remarks(node)).collect::<Vec<_>>();
            let mut more = String::new();
            if node.mapped.is_some() {
                more.push_str(", shape=box3d");
            }
            if node.child {
                more.push_str(", peripheries=2");
            }
            let (name, label) = (quoted(&node.name), quoted(&label.join("\n")));
            line(format!("{indent}{name} [label={label}{more}]"));
        }
        if finally && view.has_finally() {
            line("  }".to_owned());
        }
    }
    for edge in &view.lines {
        let (from, to) = (&view.nodes[edge.from].name, &view.nodes[edge.to].name);
        let mut text = format!("  {} -> {}", quoted(from), quoted(to));
        let label = condition(edge.on);
        if !label.is_empty() {
            let colour = if edge.on.contains(Conditions::SUCCEEDED) {
                "gray40"
            } else {
                "firebrick"
            };
            // Writing to a string never fails.
            write!(
                text,
                " [label={}, style=dashed, color={colour}]",
                quoted(&label)
            )
            .ok();
        }
        line(text);
    }
    line("}".to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn everything_of_a_pipeline_is_in_the_file() {
        insta::assert_snapshot!(write(&sample()));
    }

    #[test]
    fn names_can_not_leave_their_quotes() {
        assert_eq!(quoted("a\" -> \"b"), r#""a\" -> \"b""#);
        assert_eq!(quoted("ends in \\"), r#""ends in \\""#);
        assert_eq!(quoted("two\nlines\u{7}"), r#""two\nlines ""#);
    }
}

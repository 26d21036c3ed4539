//! A pipeline as a Mermaid flowchart, which GitHub, GitLab and most wikis draw:
//! <https://mermaid.js.org/syntax/flowchart.html>.

use super::{View, condition, remarks, subtitle};

/// Writes text for a place in quotes: Mermaid reads entities as `#NAME;` or `#NUMBER;`, and Markdown
/// and HTML in what is left.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '#' | '&' | '<' | '>' | '`' | '*' | '_' | '\\' | ';' | '|' => {
                out.push_str(&format!("#{};", u32::from(c)));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Returns the text of a `.mmd` file, or of a fenced block.
pub(crate) fn write(view: &View) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for finally in [false, true] {
        let indent = if finally { "    " } else { "  " };
        if finally && view.has_finally() {
            line("  subgraph finally".to_owned());
        }
        for (i, node) in view.nodes.iter().enumerate() {
            if node.finally != finally {
                continue;
            }
            let mut label = format!("<b>{}</b>", escaped(&node.name));
            for text in std::iter::once(subtitle(node)).chain(remarks(node)) {
                label.push_str(&format!("<br/>{}", escaped(&text)));
            }
            let (open, close) = if node.child { ("[[", "]]") } else { ("(", ")") };
            let class = if node.mapped.is_some() {
                ":::mapped"
            } else {
                ""
            };
            // Names may be words of the language, so steps go by number.
            line(format!("{indent}s{i}{open}\"{label}\"{close}{class}"));
        }
        if finally && view.has_finally() {
            line("  end".to_owned());
        }
    }
    for edge in &view.lines {
        let label = condition(edge.on);
        if label.is_empty() {
            line(format!("  s{} --> s{}", edge.from, edge.to));
        } else {
            line(format!("  s{} -. {label} .-> s{}", edge.from, edge.to));
        }
    }
    if view.nodes.iter().any(|n| n.mapped.is_some()) {
        line("  classDef mapped stroke-width:3px".to_owned());
    }
    if view.has_finally() {
        line("  style finally stroke-dasharray:5 5".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn everything_of_a_pipeline_is_in_the_chart() {
        insta::assert_snapshot!(write(&sample()));
    }

    #[test]
    fn names_can_not_leave_their_quotes() {
        assert_eq!(escaped("a\"] --> b"), "a#34;] --#62; b");
        assert_eq!(escaped("<b>&lt;\n"), "#60;b#62;#38;lt#59; ");
    }
}

//! A pipeline as a picture that stands by itself: SVG 1.1 with its own styles, for a browser, a wiki
//! or a ticket, light and dark. No script, no font and nothing else is loaded.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;
use windlass::Conditions;

use super::layout::{Input, lay_out};
use super::{Line, Node, View, clip, condition, remarks, subtitle};

/// More steps than this are drawn small: name and colour, the rest as a tip.
const SMALL: usize = 60;
/// Space around the picture.
const MARGIN: f64 = 24.0;
/// Space for the title.
const HEAD: f64 = 40.0;
/// Space for the legend.
const FOOT: f64 = 34.0;

const STYLE: &str = "
svg { background: #fff }
text { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2933 }
.title { font-size: 17px; font-weight: 600 }
.name { font-size: 13px; font-weight: 600 }
.more, .legend { font-size: 11px; fill: #5b6875 }
.box { fill: #fff; stroke: #c3ccd6 }
.inner { fill: none; stroke: #c3ccd6 }
.behind { fill: #f1f4f7; stroke: #c3ccd6 }
.edge { fill: none; stroke: #97a3b0; stroke-width: 1.4 }
.fine { stroke-width: 1; stroke-opacity: .7 }
.failed { stroke: #d64545; stroke-dasharray: 5 3 }
.mixed { stroke: #b7791f; stroke-dasharray: 5 3 }
.on { font-size: 11px; fill: #b42f2f; paint-order: stroke; stroke: #fff; stroke-width: 4px }
.on-mixed { fill: #8a5a12 }
.finally { fill: #f6f8fa; stroke: #97a3b0; stroke-dasharray: 4 4 }
.any { fill: #fff; stroke: #6b7785; stroke-width: 1.4 }
.run { fill: #2f6feb } .copy, .lookup, .delete { fill: #3fa37c } .publish { fill: #8a5cd1 }
.check, .fail { fill: #d9822b } .wait { fill: #97a3b0 } .pipeline { fill: #1d8fa6 } .native { fill: #4b5a6b }
.head { fill: #97a3b0 } .head-failed { fill: #d64545 } .head-mixed { fill: #b7791f }
@media (prefers-color-scheme: dark) {
svg { background: #14191f } text { fill: #e4e9ee } .more, .legend { fill: #9aa7b4 }
.box, .any { fill: #1d242c } .box, .inner, .behind { stroke: #3c4854 } .behind { fill: #181f26 }
.finally { fill: #191f26; stroke: #55626f } .on { stroke: #14191f; fill: #f08b8b } .on-mixed { fill: #e0b05c }
}
";

/// Writes text for an element or an attribute; what XML 1.0 can't hold becomes a blank.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if (c.is_control() && c != '\n') || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(' ')
            }
            c => out.push(c),
        }
    }
    out
}

/// Guesses the width of text: the reader's font is not known here. Errs towards too wide.
fn width(text: &str, size: f64) -> f64 {
    let narrow = text
        .chars()
        .filter(|c| "iljtfr.,:;'|!()[] ".contains(*c))
        .count() as f64;
    let wide = text.chars().filter(|c| "mwMW@%".contains(*c)).count() as f64;
    size * (0.62 * text.width() as f64 - 0.26 * narrow + 0.28 * wide)
}

/// How a step is drawn.
struct Card {
    name: String,
    more: Vec<String>,
    size: (f64, f64),
}

fn card(node: &Node, small: bool) -> Card {
    if small {
        let name = clip(&node.name, 36);
        let mark = if node.mapped.is_some() { " ×" } else { "" };
        let name = format!("{name}{mark}");
        let size = (width(&name, 12.0) + 26.0, 22.0);
        return Card {
            name,
            more: Vec::new(),
            size,
        };
    }
    let name = clip(&node.name, 44);
    let lines = std::iter::once(subtitle(node)).chain(remarks(node));
    let more: Vec<String> = lines.map(|l| clip(&l, 48)).collect();
    let widest = more
        .iter()
        .map(|l| width(l, 11.0))
        .fold(width(&name, 15.0), f64::max);
    let size = ((widest + 34.0).max(96.0), 30.0 + 15.0 * more.len() as f64);
    Card { name, more, size }
}

const fn class(on: Conditions) -> &'static str {
    if on.bits() == Conditions::SUCCEEDED.bits() {
        ""
    } else if on.contains(Conditions::SUCCEEDED) {
        "mixed"
    } else {
        "failed"
    }
}

/// Returns the text of an `.svg` file.
pub(crate) fn write(view: &View) -> String {
    let small = view.nodes.len() > SMALL;
    let cards: Vec<Card> = view.nodes.iter().map(|n| card(n, small)).collect();
    let sizes: Vec<(f64, f64)> = cards.iter().map(|c| c.size).collect();
    let edges: Vec<_> = view
        .lines
        .iter()
        .map(|l| (l.from, l.to, l.on.bits()))
        .collect();
    let last: Vec<bool> = view.nodes.iter().map(|n| n.finally).collect();
    // Words on edges need room between the layers.
    let labelled = view.lines.iter().any(|l| l.on != Conditions::SUCCEEDED);
    let layout = lay_out(&Input {
        sizes: &sizes,
        edges: &edges,
        last: &last,
        gap: match (small, labelled) {
            (true, false) => (8.0, 46.0),
            (true, true) => (8.0, 80.0),
            (false, false) => (22.0, 64.0),
            (false, true) => (22.0, 92.0),
        },
    });
    let at: Vec<(f64, f64)> = layout
        .boxes
        .iter()
        .map(|(x, y)| (x + MARGIN, y + MARGIN + HEAD))
        .collect();
    let legend = legend(view);
    let least = width(&view.name, 18.0).max(legend.1) + 2.0 * MARGIN;
    let full = (
        (layout.width + 2.0 * MARGIN + 16.0).max(least),
        layout.height + 2.0 * MARGIN + HEAD + FOOT,
    );
    let mut out = String::new();
    // Writing to a string never fails.
    head(&mut out, view, full);
    finally(&mut out, view, &at, &sizes);
    for (line, points) in view.lines.iter().zip(&layout.edges) {
        edge(&mut out, line, points, small);
    }
    for ((node, card), at) in view.nodes.iter().zip(&cards).zip(&at) {
        step(&mut out, node, card, *at, small);
    }
    for (line, points) in view.lines.iter().zip(&layout.edges) {
        label(&mut out, line, points);
    }
    write!(
        out,
        "<g transform=\"translate({MARGIN:.1} {:.1})\">{}</g>\n</svg>\n",
        full.1 - FOOT / 2.0 - 6.0,
        legend.0
    )
    .ok();
    out
}

fn head(out: &mut String, view: &View, (w, h): (f64, f64)) {
    let name = escaped(&view.name);
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" height=\"{h:.0}\" role=\"img\" aria-label=\"pipeline {name}\">\n<style>{STYLE}</style>\n<defs>\n"
    )
    .ok();
    for class in ["", "failed", "mixed"] {
        let dash = if class.is_empty() { "" } else { "-" };
        writeln!(out, "<marker id=\"head{dash}{class}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head{dash}{class}\" d=\"M0 0.5L8 4L0 7.5z\"/></marker>").ok();
    }
    writeln!(out, "</defs>\n<rect width=\"100%\" height=\"100%\" fill=\"none\"/>\n<text class=\"title\" x=\"{MARGIN}\" y=\"{:.0}\">{name}</text>", MARGIN + 12.0).ok();
}

/// Draws the frame around the steps that run after every outcome.
fn finally(out: &mut String, view: &View, at: &[(f64, f64)], sizes: &[(f64, f64)]) {
    let inside: Vec<usize> = (0..at.len()).filter(|v| view.nodes[*v].finally).collect();
    let edge = |f: fn(f64, f64) -> f64, start: f64, value: &dyn Fn(usize) -> f64| {
        inside.iter().map(|v| value(*v)).fold(start, f)
    };
    if inside.is_empty() {
        return;
    }
    let left = edge(f64::min, f64::INFINITY, &|v| at[v].0) - 14.0;
    let top = edge(f64::min, f64::INFINITY, &|v| at[v].1) - 28.0;
    let right = edge(f64::max, 0.0, &|v| at[v].0 + sizes[v].0) + 14.0;
    let bottom = edge(f64::max, 0.0, &|v| at[v].1 + sizes[v].1) + 14.0;
    let (w, h) = (right - left, bottom - top);
    writeln!(out, "<rect class=\"finally\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"10\"/><text class=\"more\" x=\"{:.1}\" y=\"{:.1}\">finally</text>", left + 12.0, top + 17.0).ok();
}

fn edge(out: &mut String, line: &Line, points: &[(f64, f64)], small: bool) {
    let (dx, dy) = (MARGIN, MARGIN + HEAD);
    let mut path = String::new();
    for (i, (x, y)) in points.iter().map(|p| (p.0 + dx, p.1 + dy)).enumerate() {
        if i == 0 {
            write!(path, "M{x:.1} {y:.1}").ok();
            continue;
        }
        let from = (points[i - 1].0 + dx, points[i - 1].1 + dy);
        if i % 2 == 1 || (y - from.1).abs() < 0.05 {
            write!(path, "L{x:.1} {y:.1}").ok();
        } else {
            let bend = (x - from.0) * 0.5;
            write!(
                path,
                "C{:.1} {:.1} {:.1} {y:.1} {x:.1} {y:.1}",
                from.0 + bend,
                from.1,
                x - bend
            )
            .ok();
        }
    }
    let class = class(line.on);
    let dash = if class.is_empty() { "" } else { "-" };
    let fine = if small { " fine" } else { "" };
    writeln!(
        out,
        "<path class=\"edge {class}{fine}\" d=\"{path}\" marker-end=\"url(#head{dash}{class})\"/>"
    )
    .ok();
}

/// Writes what an edge waits for, where it leaves its step.
fn label(out: &mut String, line: &Line, points: &[(f64, f64)]) {
    let text = condition(line.on);
    let [_, first, second, ..] = points else {
        return;
    };
    if text.is_empty() {
        return;
    }
    // On the curve of `edge`, at its middle.
    let x = (first.0 + second.0) / 2.0 + MARGIN;
    let y = (first.1 + second.1) / 2.0 + MARGIN + HEAD + 4.0;
    let mixed = if class(line.on) == "mixed" {
        " on-mixed"
    } else {
        ""
    };
    writeln!(
        out,
        "<text class=\"on{mixed}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
        escaped(&text)
    )
    .ok();
}

fn step(out: &mut String, node: &Node, card: &Card, (x, y): (f64, f64), small: bool) {
    let (w, h) = card.size;
    let tip = std::iter::once(node.name.clone())
        .chain([subtitle(node)])
        .chain(remarks(node));
    let tip = escaped(&tip.collect::<Vec<_>>().join("\n"));
    let radius = if small { 4.0 } else { 7.0 };
    writeln!(out, "<g><title>{tip}</title>").ok();
    if node.mapped.is_some() {
        for shift in [6.0, 3.0] {
            writeln!(out, "<rect class=\"behind\" x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"{radius}\"/>", x + shift, y + shift).ok();
        }
    }
    writeln!(out, "<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"{radius}\"/>").ok();
    if node.child {
        writeln!(out, "<rect class=\"inner\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{:.1}\"/>", x + 3.0, y + 3.0, w - 6.0, h - 6.0, radius - 2.0).ok();
    }
    let bar = if small { 10.0 } else { 15.0 };
    writeln!(
        out,
        "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"4\" height=\"{bar}\" rx=\"2\"/>",
        node.kind,
        x + 9.0,
        y + if small { 6.0 } else { 9.0 }
    )
    .ok();
    let (class, base) = if small {
        ("small", 15.5)
    } else {
        ("name", 21.0)
    };
    writeln!(
        out,
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        x + 19.0,
        y + base,
        escaped(&card.name)
    )
    .ok();
    for (i, text) in card.more.iter().enumerate() {
        writeln!(
            out,
            "<text class=\"more\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 19.0,
            y + 37.0 + 15.0 * i as f64,
            escaped(text)
        )
        .ok();
    }
    if node.any {
        writeln!(
            out,
            "<circle class=\"any\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            y + h / 2.0
        )
        .ok();
    }
    writeln!(out, "</g>").ok();
}

/// Returns the legend of what is in this picture, and its width.
fn legend(view: &View) -> (String, f64) {
    let mut out = String::new();
    let mut x = 0.0;
    let mut kinds: Vec<&str> = view.nodes.iter().map(|n| n.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        write!(out, "<rect class=\"{kind}\" x=\"{x:.1}\" y=\"-9\" width=\"4\" height=\"11\" rx=\"2\"/><text class=\"legend\" x=\"{:.1}\" y=\"0\">{kind}</text>", x + 9.0).ok();
        x += 27.0 + width(kind, 11.0);
    }
    let lines = [
        (true, "", "when it succeeded"),
        (false, "failed", "when it failed or was skipped"),
        (false, "mixed", "when it ended so or so"),
    ];
    for (always, class_of, text) in lines {
        let used = view.lines.iter().any(|l| class(l.on) == class_of);
        let special = view.lines.iter().any(|l| !class(l.on).is_empty());
        if !used || (always && !special) {
            continue;
        }
        write!(out, "<path class=\"edge {class_of}\" d=\"M{x:.1} -4h22\"/><text class=\"legend\" x=\"{:.1}\" y=\"0\">{text}</text>", x + 28.0).ok();
        x += 46.0 + width(text, 11.0);
    }
    if view.nodes.iter().any(|n| n.any) {
        write!(out, "<circle class=\"any\" cx=\"{:.1}\" cy=\"-4\" r=\"4\"/><text class=\"legend\" x=\"{:.1}\" y=\"0\">any edge is enough</text>", x + 4.0, x + 14.0).ok();
        x += 32.0 + width("any edge is enough", 11.0);
    }
    (out, x)
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn everything_of_a_pipeline_is_in_the_picture() {
        let text = write(&sample());
        for word in [
            "fetch",
            "train",
            "score",
            "× each region",
            "class=\"edge failed\"",
            "completed",
            "finally",
            "class=\"any\"",
            "class=\"inner\"",
            "class=\"behind\"",
            "may fail",
        ] {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }

    #[test]
    fn names_can_not_leave_their_elements() {
        let mut view = sample();
        view.nodes[0].name = "</text><script>alert(1)</script>\u{1}".to_owned();
        view.name = "\"><x>".to_owned();
        let text = write(&view);
        assert!(
            !text.contains("<script") && !text.contains("<x>") && !text.contains('\u{1}'),
            "{text}"
        );
    }
}

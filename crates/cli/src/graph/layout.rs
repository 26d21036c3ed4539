//! Where steps and edges of a picture go: layers from left to right, in the manner of Sugiyama,
//! Tagawa and Toda (1981).
//!
//! Steps get the layer behind their last predecessor; an edge over several layers gets a lane in
//! each, so that it never runs through a step. Layers are ordered by medians (Gansner et al., "A
//! technique for drawing directed graphs", 1993), and heights are the least squares solution of each
//! layer against its neighbours (an isotonic regression, since the order is fixed).
//!
//! Of the crates for this, rust-sugiyama returns places of boxes alone, so long edges would cross
//! steps, and layout-rs draws by itself, in shapes of its own.
//!
//! Everything is deterministic: the same pipeline gives the same picture.

mod grid;

use self::grid::Grid;

/// Boxes that stand above one another, at most: a taller layer becomes several.
const ROWS: usize = 120;

/// What a layout is made of.
#[derive(Debug)]
pub(super) struct Input<'a> {
    /// Width and height of each box.
    pub(super) sizes: &'a [(f64, f64)],
    /// Edges from box to box, without a cycle. Edges of one group share their lanes, where they leave
    /// one box or meet in one.
    pub(super) edges: &'a [(usize, usize, u8)],
    /// Boxes that stand behind all others.
    pub(super) last: &'a [bool],
    /// Space between two boxes above one another, and between two layers.
    pub(super) gap: (f64, f64),
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Layout {
    /// Left upper corner of each box.
    pub(super) boxes: Vec<(f64, f64)>,
    /// Points of each edge: out of its box and of its layer, in and out of each layer that it passes,
    /// into its box. It bends from every second point to the next.
    pub(super) edges: Vec<Vec<(f64, f64)>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Lays out boxes and edges.
pub(super) fn lay_out(input: &Input<'_>) -> Layout {
    let layer_of = fold(&layers(input));
    let (mut grid, ways) = Grid::new(input, &layer_of);
    grid.order();
    grid.settle();
    finish(input, &grid, &ways)
}

/// Returns the layer of each box.
fn layers(input: &Input<'_>) -> Vec<usize> {
    let count = input.sizes.len();
    let mut layer = vec![0; count];
    // Boxes come in any order, but there is no cycle: a pass changes nothing after `count` of them.
    let relax = |layer: &mut Vec<usize>| {
        for _ in 0..count {
            let mut changed = false;
            for &(from, to, _) in input.edges {
                if layer[to] <= layer[from] {
                    layer[to] = layer[from] + 1;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    };
    relax(&mut layer);
    // Sources stand beside what needs them first.
    let mut is_source = vec![true; count];
    let mut next = vec![usize::MAX; count];
    for &(from, to, _) in input.edges {
        is_source[to] = false;
        next[from] = next[from].min(layer[to]);
    }
    for v in 0..count {
        if is_source[v] && next[v] != usize::MAX {
            layer[v] = next[v] - 1;
        }
    }
    let behind = (0..count).filter(|v| !input.last[*v]).map(|v| layer[v] + 1);
    let behind = behind.max().unwrap_or(0);
    for (layer, last) in layer.iter_mut().zip(input.last) {
        if *last {
            *layer = (*layer).max(behind);
        }
    }
    relax(&mut layer);
    layer
}

/// Splits layers that are too tall; what stands in them keeps its order.
fn fold(layer_of: &[usize]) -> Vec<usize> {
    let count = layer_of.iter().map(|l| l + 1).max().unwrap_or(0);
    let mut sizes = vec![0_usize; count];
    layer_of.iter().for_each(|l| sizes[*l] += 1);
    let mut first = Vec::with_capacity(count);
    let mut next = 0;
    for size in &sizes {
        first.push(next);
        next += size.div_ceil(ROWS).max(1);
    }
    let mut seen = vec![0; count];
    let place = |l: &usize| {
        // Evenly, so that no part is left with a few.
        let rows = sizes[*l].div_ceil(sizes[*l].div_ceil(ROWS));
        seen[*l] += 1;
        first[*l] + (seen[*l] - 1) / rows
    };
    layer_of.iter().map(place).collect()
}

/// Turns layers and middles into places.
fn finish(input: &Input<'_>, grid: &Grid, ways: &[Vec<usize>]) -> Layout {
    let boxes = input.sizes.len();
    let mut columns = Vec::with_capacity(grid.layers.len());
    let mut x = 0.0;
    for (i, layer) in grid.layers.iter().enumerate() {
        let real = layer.iter().filter(|v| **v < boxes);
        let width = real.map(|v| input.sizes[*v].0).fold(0.0, f64::max);
        columns.push((x, width));
        // Many edges that climb need room, or they look like one.
        let lines: usize = layer.iter().map(|v| grid.items[*v].after.len()).sum();
        let more = if i + 1 < grid.layers.len() {
            (lines as f64).sqrt() * 4.0
        } else {
            0.0
        };
        x += width + input.gap.1 + more.min(200.0);
        if i + 1 == grid.layers.len() {
            x -= input.gap.1 + more.min(200.0);
        }
    }
    let top = grid
        .items
        .iter()
        .map(|i| i.y - i.height / 2.0)
        .fold(f64::INFINITY, f64::min);
    let bottom = grid
        .items
        .iter()
        .map(|i| i.y + i.height / 2.0)
        .fold(f64::NEG_INFINITY, f64::max);
    let top = if top.is_finite() { top } else { 0.0 };
    let place = |v: usize| {
        let item = &grid.items[v];
        let (left, width) = columns[item.layer];
        let right = if v < boxes {
            left + input.sizes[v].0
        } else {
            left + width
        };
        (left, right, item.y - top)
    };
    let edges = ways.iter().map(|way| {
        let mut points = Vec::with_capacity(way.len() * 2);
        for (i, v) in way.iter().enumerate() {
            let (left, right, y) = place(*v);
            if i > 0 {
                points.push((left, y));
            }
            if i + 1 < way.len() {
                points.push((right, y));
                if i == 0 {
                    // A narrow box in a wide layer: no bend before the layer ends.
                    let (left, width) = columns[grid.items[*v].layer];
                    points.push((left + width, y));
                }
            }
        }
        points
    });
    Layout {
        edges: edges.collect(),
        boxes: (0..boxes)
            .map(|v| {
                let (left, _, y) = place(v);
                (left, y - input.sizes[v].1 / 2.0)
            })
            .collect(),
        width: x,
        height: if bottom.is_finite() {
            bottom - top
        } else {
            0.0
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(count: usize, edges: &[(usize, usize, u8)]) -> Layout {
        lay_out(&Input {
            sizes: &vec![(100.0, 20.0); count],
            edges,
            last: &vec![false; count],
            gap: (10.0, 40.0),
        })
    }

    /// Layers of ten, each step behind three of the layer before, and some edges over many layers.
    fn wide() -> (usize, Vec<(usize, usize, u8)>) {
        let mut edges = Vec::new();
        for layer in 1..40_usize {
            for i in 0..10_usize {
                for k in 0..3 {
                    edges.push((
                        (layer - 1) * 10 + (i * 7 + k * 3 + layer) % 10,
                        layer * 10 + i,
                        0,
                    ));
                }
            }
        }
        edges.extend((0..10).map(|i| (i, 390 + (i * 3) % 10, 1)));
        (400, edges)
    }

    #[test]
    fn boxes_never_touch_and_every_edge_goes_right() {
        let (count, edges) = wide();
        let layout = laid_out(count, &edges);
        let mut boxes = layout.boxes.clone();
        boxes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for pair in boxes.windows(2) {
            let ((x1, y1), (x2, y2)) = (pair[0], pair[1]);
            assert!(x2 >= x1 + 100.0 || y2 >= y1 + 29.99, "{pair:?}");
        }
        for points in &layout.edges {
            assert!(points.windows(2).all(|p| p[1].0 >= p[0].0), "{points:?}");
        }
        assert!(boxes.iter().all(|b| b.0 >= 0.0 && b.1 >= -0.01));
    }

    #[test]
    fn no_edge_runs_through_a_box() {
        let (count, edges) = wide();
        let layout = laid_out(count, &edges);
        for points in &layout.edges {
            for lane in points.chunks_exact(2).skip(1) {
                let (from, y) = lane[0];
                let hit = layout
                    .boxes
                    .iter()
                    .find(|b| (b.0 - from).abs() < 1.0 && y > b.1 && y < b.1 + 20.0);
                assert_eq!(hit, None, "{lane:?}");
            }
        }
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let layout = laid_out(4, &[(0, 1, 0), (1, 2, 0), (2, 3, 0)]);
        assert!(
            layout
                .boxes
                .windows(2)
                .all(|b| (b[0].1 - b[1].1).abs() < 0.01)
        );
    }

    #[test]
    fn a_fork_and_its_join_stand_in_the_middle() {
        let layout = laid_out(
            5,
            &[
                (0, 1, 0),
                (0, 2, 0),
                (0, 3, 0),
                (1, 4, 0),
                (2, 4, 0),
                (3, 4, 0),
            ],
        );
        let y = |v: usize| layout.boxes[v].1;
        assert!(
            (y(0) - y(4)).abs() < 0.5 && (y(0) - y(2)).abs() < 0.5,
            "{layout:?}"
        );
    }

    #[test]
    fn a_layer_that_is_too_tall_becomes_several() {
        let edges: Vec<_> = (0..400).map(|v| (v, 400, 0)).collect();
        let layout = laid_out(401, &edges);
        let mut columns: Vec<i64> = layout.boxes.iter().map(|b| b.0 as i64).collect();
        columns.dedup();
        assert_eq!(columns.len(), 5, "{columns:?}");
        assert!(layout.height < 3_500.0, "{}", layout.height);
    }

    #[test]
    fn a_picture_without_steps_is_empty() {
        let layout = laid_out(0, &[]);
        assert_eq!((layout.boxes.len(), layout.height), (0, 0.0));
    }
}

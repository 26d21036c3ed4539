//! Layers of boxes and lanes: the order in each layer, and the height of everything in it.

use std::collections::BTreeMap;

use super::Input;

/// Times that the order of layers is improved, at most.
const SWEEPS: usize = 24;
/// Times that heights are.
const SETTLES: usize = 24;
/// Height of the lane of an edge that passes a layer.
const LANE: f64 = 10.0;
/// Lanes pull harder than steps: a long edge should be straight.
const PULL: f64 = 4.0;

/// A box or a lane in its layer.
pub(super) struct Item {
    pub(super) layer: usize,
    pub(super) height: f64,
    lane: bool,
    before: Vec<usize>,
    pub(super) after: Vec<usize>,
    /// Its middle.
    pub(super) y: f64,
}

/// Boxes and lanes in their layers.
pub(super) struct Grid {
    /// The boxes, then the lanes.
    pub(super) items: Vec<Item>,
    /// The items of each layer, from top to bottom.
    pub(super) layers: Vec<Vec<usize>>,
    gap: f64,
}

impl Grid {
    /// Returns the grid, and for each edge the items that it goes through.
    pub(super) fn new(input: &Input<'_>, layer_of: &[usize]) -> (Self, Vec<Vec<usize>>) {
        let mut items: Vec<Item> = layer_of
            .iter()
            .zip(input.sizes)
            .map(|(layer, size)| Item::new(*layer, size.1, false))
            .collect();
        let mut long: BTreeMap<(bool, usize, u8), usize> = BTreeMap::new();
        for &(from, to, group) in input.edges {
            if layer_of[to] > layer_of[from] + 1 {
                *long.entry((true, from, group)).or_default() += 1;
                *long.entry((false, to, group)).or_default() += 1;
            }
        }
        let mut lanes = BTreeMap::new();
        let mut ways = Vec::with_capacity(input.edges.len());
        for &(from, to, group) in input.edges {
            let mut way = vec![from];
            // Lanes are shared on the side where there is more to share.
            let (leaving, meeting) = ((true, from, group), (false, to, group));
            let shared = if long.get(&meeting) > long.get(&leaving) {
                meeting
            } else {
                leaving
            };
            for layer in layer_of[from] + 1..layer_of[to] {
                let lane = *lanes.entry((shared, layer)).or_insert_with(|| {
                    items.push(Item::new(layer, LANE, true));
                    items.len() - 1
                });
                way.push(lane);
            }
            way.push(to);
            for pair in way.windows(2) {
                if !items[pair[0]].after.contains(&pair[1]) {
                    items[pair[0]].after.push(pair[1]);
                    items[pair[1]].before.push(pair[0]);
                }
            }
            ways.push(way);
        }
        let count = items.iter().map(|i| i.layer + 1).max().unwrap_or(0);
        let mut layers = vec![Vec::new(); count];
        for (i, item) in items.iter().enumerate() {
            layers[item.layer].push(i);
        }
        for layer in &mut layers {
            // Lanes begin in the middle, or tall layers that nothing sorts become a staircase.
            let lanes = layer.iter().filter(|i| items[**i].lane).count();
            let boxes = layer.len() - lanes;
            layer[boxes / 2..].rotate_left(boxes - boxes / 2);
        }
        let gap = input.gap.0;
        (Self { items, layers, gap }, ways)
    }

    fn positions(&self) -> Vec<usize> {
        let mut at = vec![0; self.items.len()];
        for layer in &self.layers {
            layer.iter().enumerate().for_each(|(i, v)| at[*v] = i);
        }
        at
    }

    /// Puts each layer into an order with few crossings.
    pub(super) fn order(&mut self) {
        let mut best = (self.crossings(), self.layers.clone());
        let mut at = self.positions();
        for sweep in 0..SWEEPS {
            if best.0 == 0 {
                break;
            }
            let forward = sweep % 2 == 0;
            let count = self.layers.len();
            for step in 1..count {
                let layer = if forward { step } else { count - 1 - step };
                self.sort(layer, forward, &mut at);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.layers.clone());
            }
        }
        self.layers = best.1;
    }

    /// Sorts a layer by where its neighbours on one side are.
    fn sort(&mut self, layer: usize, forward: bool, at: &mut [usize]) {
        let mut keyed: Vec<(f64, usize)> = self.layers[layer]
            .iter()
            .map(|v| {
                let item = &self.items[*v];
                let sides = if forward { &item.before } else { &item.after };
                let mut places: Vec<usize> = sides.iter().map(|n| at[*n]).collect();
                places.sort_unstable();
                let own = at[*v] as f64;
                (median(&places).unwrap_or(own), *v)
            })
            .collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.layers[layer] = keyed.into_iter().map(|k| k.1).collect();
        for (i, v) in self.layers[layer].iter().enumerate() {
            at[*v] = i;
        }
    }

    /// Counts crossings between neighbouring layers (Barth, Jünger and Mutzel, 2002).
    fn crossings(&self) -> usize {
        let at = self.positions();
        let mut crossings = 0;
        for pair in self.layers.windows(2) {
            let mut tree = vec![0_usize; pair[1].len() + 1];
            let mut seen = 0;
            for v in &pair[0] {
                let mut ends: Vec<usize> = self.items[*v].after.iter().map(|n| at[*n]).collect();
                ends.sort_unstable();
                for end in &ends {
                    let (mut below, mut i) = (0, end + 1);
                    while i > 0 {
                        below += tree[i];
                        i &= i - 1;
                    }
                    crossings += seen - below;
                }
                for end in ends {
                    seen += 1;
                    let mut i = end + 1;
                    while i < tree.len() {
                        tree[i] += 1;
                        i += i & i.wrapping_neg();
                    }
                }
            }
        }
        crossings
    }

    /// Finds the middle of each item, keeping the order of its layer.
    pub(super) fn settle(&mut self) {
        for layer in &self.layers {
            let tall: f64 = layer.iter().map(|v| self.items[*v].height + self.gap).sum();
            let mut y = -tall / 2.0;
            for v in layer {
                let room = self.items[*v].height + self.gap;
                self.items[*v].y = y + room / 2.0;
                y += room;
            }
        }
        for turn in 0..SETTLES {
            // The last turns look both ways, so that steps sit in the middle of what they join.
            let (back, ahead) = match turn {
                t if t + 6 >= SETTLES => (true, true),
                t if t % 2 == 0 => (true, false),
                _ => (false, true),
            };
            for i in 0..self.layers.len() {
                let layer = if back { i } else { self.layers.len() - 1 - i };
                self.settle_layer(layer, back, ahead);
            }
        }
    }

    fn settle_layer(&mut self, layer: usize, back: bool, ahead: bool) {
        let order = &self.layers[layer];
        let mut wishes = Vec::with_capacity(order.len());
        let mut offset = 0.0;
        let mut offsets = Vec::with_capacity(order.len());
        for (i, v) in order.iter().enumerate() {
            let item = &self.items[*v];
            if i > 0 {
                let above = &self.items[order[i - 1]];
                offset += (above.height + item.height) / 2.0 + self.gap;
            }
            let (mut sum, mut weight) = (0.0, 0.0);
            let sides = [(back, &item.before), (ahead, &item.after)];
            for near in sides.iter().filter(|s| s.0).flat_map(|s| s.1) {
                let pull = if item.lane && self.items[*near].lane {
                    PULL
                } else {
                    1.0
                };
                sum += pull * self.items[*near].y;
                weight += pull;
            }
            // What has no neighbour on that side likes to stay.
            let (wish, weight) = if weight > 0.0 {
                (sum / weight, weight)
            } else {
                (item.y, 0.1)
            };
            wishes.push((wish - offset, weight));
            offsets.push(offset);
        }
        let placed = isotonic(&wishes);
        for ((v, y), offset) in self.layers[layer].iter().zip(placed).zip(offsets) {
            self.items[*v].y = y + offset;
        }
    }
}

impl Item {
    const fn new(layer: usize, height: f64, lane: bool) -> Self {
        Self {
            layer,
            height,
            lane,
            before: Vec::new(),
            after: Vec::new(),
            y: 0.0,
        }
    }
}

/// Returns the middle of sorted places.
fn median(places: &[usize]) -> Option<f64> {
    let middle = places.len() / 2;
    match places.len() {
        0 => None,
        n if n % 2 == 1 => Some(places[middle] as f64),
        _ => Some((places[middle - 1] + places[middle]) as f64 / 2.0),
    }
}

/// Returns the growing numbers next to weighted ones by least squares: pool adjacent violators.
fn isotonic(wishes: &[(f64, f64)]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for &(wish, weight) in wishes {
        let mut pool = (wish, weight, 1);
        while let Some(&(value, mass, many)) = pools.last() {
            if value < pool.0 {
                break;
            }
            let total = mass + pool.1;
            pool = (
                (value * mass + pool.0 * pool.1) / total,
                total,
                many + pool.2,
            );
            pools.pop();
        }
        pools.push(pool);
    }
    pools
        .into_iter()
        .flat_map(|(value, _, many)| std::iter::repeat_n(value, many))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_numbers_are_left_alone_and_others_pooled() {
        assert_eq!(isotonic(&[(1.0, 1.0), (2.0, 1.0)]), [1.0, 2.0]);
        assert_eq!(
            isotonic(&[(3.0, 1.0), (1.0, 3.0), (9.0, 1.0)]),
            [1.5, 1.5, 9.0]
        );
    }
}

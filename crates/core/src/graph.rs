//! The graph of a pipeline, frozen into index arrays: compact, and walked without a hash map.
//!
//! Steps are indexes: those of `steps` first, those of `finally` behind them. petgraph is used to
//! name the steps of a cycle and stays private; see [`crate::validate`] for what makes a graph good.

use petgraph::graph::DiGraph;

use crate::spec::{Conditions, Join};

/// One edge, seen from its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Successor {
    /// The step behind the edge.
    pub step: u32,
    /// Which ends of the predecessor let the edge hold.
    pub on: Conditions,
}

/// One edge, seen from its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Predecessor {
    /// The step before the edge.
    pub step: u32,
    /// Which of its ends let the edge hold.
    pub on: Conditions,
}

/// A frozen, acyclic graph: 8 bytes a step and 16 bytes an edge, plus a byte a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    successor_starts: Box<[u32]>,
    successors: Box<[Successor]>,
    predecessor_starts: Box<[u32]>,
    predecessors: Box<[Predecessor]>,
    joins: Box<[Join]>,
    finally_start: u32,
}

impl Graph {
    /// Freezes the edges `(from, to, on)` between `joins.len()` steps, of which those from
    /// `finally_start` on belong to `finally`.
    ///
    /// # Errors
    /// The steps of one cycle, in order, if there is one.
    pub fn freeze(
        joins: Vec<Join>,
        finally_start: u32,
        edges: &[(u32, u32, Conditions)],
    ) -> Result<Self, Vec<u32>> {
        let steps = joins.len();
        let successor_starts = starts(steps, edges.iter().map(|e| e.0));
        let predecessor_starts = starts(steps, edges.iter().map(|e| e.1));
        let none = Conditions::SUCCEEDED;
        let mut successors = vec![Successor { step: 0, on: none }; edges.len()];
        let mut predecessors = vec![Predecessor { step: 0, on: none }; edges.len()];
        let mut next_successor = successor_starts.clone();
        let mut next_predecessor = predecessor_starts.clone();
        for &(from, to, on) in edges {
            let s = &mut next_successor[from as usize];
            successors[*s as usize] = Successor { step: to, on };
            *s += 1;
            let p = &mut next_predecessor[to as usize];
            predecessors[*p as usize] = Predecessor { step: from, on };
            *p += 1;
        }
        let graph = Self {
            successor_starts: successor_starts.into(),
            successors: successors.into(),
            predecessor_starts: predecessor_starts.into(),
            predecessors: predecessors.into(),
            joins: joins.into(),
            finally_start,
        };
        if graph.order().is_some() {
            Ok(graph)
        } else {
            Err(graph.a_cycle())
        }
    }

    /// Returns the number of steps, `finally` steps included.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.joins.len() as u32
    }

    /// Returns true if there are no steps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty()
    }

    /// Returns the index of the first `finally` step; equal to [`Self::len`] where there is none.
    #[must_use]
    pub const fn finally_start(&self) -> u32 {
        self.finally_start
    }

    /// Returns true for a `finally` step.
    #[must_use]
    pub const fn is_finally(&self, step: u32) -> bool {
        step >= self.finally_start
    }

    /// Returns the edges that leave a step.
    #[must_use]
    pub fn successors(&self, step: u32) -> &[Successor] {
        let i = step as usize;
        &self.successors[self.successor_starts[i] as usize..self.successor_starts[i + 1] as usize]
    }

    /// Returns the edges that enter a step.
    #[must_use]
    pub fn predecessors(&self, step: u32) -> &[Predecessor] {
        let i = step as usize;
        &self.predecessors
            [self.predecessor_starts[i] as usize..self.predecessor_starts[i + 1] as usize]
    }

    /// Returns how many edges of a step must hold.
    #[must_use]
    pub fn join(&self, step: u32) -> Join {
        self.joins[step as usize]
    }

    /// Returns the number of edges.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.successors.len()
    }

    /// Returns the steps in an order in which each comes after its predecessors; `None` for a cycle.
    fn order(&self) -> Option<Vec<u32>> {
        let mut unmet: Vec<u32> = (0..self.len())
            .map(|s| self.predecessors(s).len() as u32)
            .collect();
        let mut order: Vec<u32> = (0..self.len())
            .filter(|s| unmet[*s as usize] == 0)
            .collect();
        let mut next = 0;
        while let Some(&step) = order.get(next) {
            next += 1;
            for successor in self.successors(step) {
                let left = &mut unmet[successor.step as usize];
                *left -= 1;
                if *left == 0 {
                    order.push(successor.step);
                }
            }
        }
        (order.len() == unmet.len()).then_some(order)
    }

    /// Returns the steps in an order in which each comes after its predecessors.
    #[must_use]
    pub fn topological_order(&self) -> Vec<u32> {
        // A frozen graph has no cycle, so there is an order.
        self.order().unwrap_or_default()
    }

    /// Returns one shortest cycle of a graph that has one.
    fn a_cycle(&self) -> Vec<u32> {
        let mut graph =
            DiGraph::<(), (), u32>::with_capacity(self.joins.len(), self.successors.len());
        for _ in 0..self.len() {
            graph.add_node(());
        }
        for from in 0..self.len() {
            for successor in self.successors(from) {
                graph.add_edge(from.into(), successor.step.into(), ());
            }
        }
        let components = petgraph::algo::tarjan_scc(&graph);
        let knot = components
            .iter()
            .filter(|c| c.len() > 1 || graph.contains_edge(c[0], c[0]))
            .min_by_key(|c| c.len());
        let Some(start) = knot.and_then(|c| c.iter().min()) else {
            return Vec::new();
        };
        self.way_back(start.index() as u32)
    }

    /// Returns the shortest way from a step of a cycle back to itself.
    fn way_back(&self, start: u32) -> Vec<u32> {
        let mut came_from = vec![u32::MAX; self.joins.len()];
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(step) = queue.pop_front() {
            for successor in self.successors(step) {
                if successor.step == start {
                    let mut path = vec![step];
                    while path.last() != Some(&start) {
                        path.push(came_from[path[path.len() - 1] as usize]);
                    }
                    path.reverse();
                    return path;
                }
                if came_from[successor.step as usize] == u32::MAX {
                    came_from[successor.step as usize] = step;
                    queue.push_back(successor.step);
                }
            }
        }
        vec![start]
    }
}

/// Counts how often each index occurs and returns the running sum: where each one's part begins.
fn starts(steps: usize, indexes: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut starts = vec![0_u32; steps + 1];
    for i in indexes {
        starts[i as usize + 1] += 1;
    }
    for i in 1..=steps {
        starts[i] += starts[i - 1];
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Conditions = Conditions::SUCCEEDED;

    #[test]
    fn a_diamond_keeps_its_edges_both_ways() {
        let edges = [
            (0, 1, OK),
            (0, 2, OK),
            (1, 3, OK),
            (2, 3, Conditions::FAILED),
        ];
        let g = Graph::freeze(vec![Join::All; 4], 4, &edges).unwrap();
        assert_eq!(
            g.successors(0).iter().map(|s| s.step).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(
            g.predecessors(3)
                .iter()
                .map(|p| (p.step, p.on))
                .collect::<Vec<_>>(),
            [(1, OK), (2, Conditions::FAILED)]
        );
        assert_eq!(g.topological_order(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_cycle_is_named_in_order_without_its_tail() {
        let edges = [(4, 0, OK), (0, 1, OK), (1, 2, OK), (2, 0, OK), (2, 3, OK)];
        let cycle = Graph::freeze(vec![Join::All; 5], 5, &edges).unwrap_err();
        assert_eq!(cycle, [0, 1, 2]);
        assert_eq!(
            Graph::freeze(vec![Join::All; 1], 1, &[(0, 0, OK)]).unwrap_err(),
            [0]
        );
    }
}

//! Where boxes and lines go: layers from left to right, few crossings, straight lines.
//!
//! The steps of Sugiyama's method: each box gets a layer after all that it
//! needs; lines that pass layers get a waypoint in each (one for all lines of
//! the same box); the order within layers is improved by barycentres; and
//! positions are the closest to the neighbours' mean that keeps the order.
//!
//! Own code, because the crates that lay out layers give no way for lines to
//! pass between boxes.

/// How many times the order within layers is looked over.
const ORDER_SWEEPS: usize = 16;
/// How many times positions are drawn to their neighbours.
const PLACE_SWEEPS: usize = 24;

/// A box to be placed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// How wide.
    pub width: f64,
    /// How high.
    pub height: f64,
}

/// Distances that are kept.
#[derive(Debug, Clone, Copy)]
pub struct Gaps {
    /// Between layers.
    pub layer: f64,
    /// Between boxes of a layer.
    pub box_: f64,
    /// Between a line that passes and what is beside it.
    pub line: f64,
}

/// A point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The upper left corner of each box.
    pub boxes: Vec<Point>,
    /// The points of each line from the right side of one box to the left
    /// side of another; between the first and the second, the third and the
    /// fourth and so on it crosses from layer to layer, else it runs straight.
    pub lines: Vec<Vec<Point>>,
    /// How wide all is.
    pub width: f64,
    /// How high all is.
    pub height: f64,
}

/// Places boxes so that every edge `(from, to)` leads to the right. Edges must
/// not form a cycle.
pub fn layout(sizes: &[Size], edges: &[(usize, usize)], gaps: Gaps) -> Layout {
    let layers = layers(sizes.len(), edges);
    let mut layered = Layered::new(sizes, edges, &layers);
    layered.order();
    layered.place(gaps);
    layered.finish(sizes, edges, gaps)
}

/// The layer of each box: one after the last of those it needs; then boxes
/// that need nothing move up to the first that needs them.
fn layers(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut open = vec![0_usize; n];
    for &(from, to) in edges {
        after[from].push(to);
        open[to] += 1;
    }
    let sources: Vec<usize> = (0..n).filter(|&v| open[v] == 0).collect();
    let mut layer = vec![0; n];
    let mut ready = sources.clone();
    while let Some(v) = ready.pop() {
        for &w in &after[v] {
            layer[w] = layer[w].max(layer[v] + 1);
            open[w] -= 1;
            if open[w] == 0 {
                ready.push(w);
            }
        }
    }
    for v in sources {
        if let Some(first) = after[v].iter().map(|&w| layer[w]).min() {
            layer[v] = first - 1;
        }
    }
    layer
}

/// A place in a layer: a box, or a waypoint of the lines of a box.
#[derive(Debug, Clone, Copy)]
struct Place {
    height: f64,
    is_box: bool,
    y: f64,
}

struct Layered {
    /// Boxes first, by index; then waypoints.
    places: Vec<Place>,
    layer_of: Vec<usize>,
    layers: Vec<Vec<usize>>,
    /// Neighbours to the left and to the right.
    left: Vec<Vec<usize>>,
    right: Vec<Vec<usize>>,
    /// The waypoints of a box's lines, in the layers after its own.
    waypoints: Vec<Vec<usize>>,
}

impl Layered {
    fn new(sizes: &[Size], edges: &[(usize, usize)], layer_of: &[usize]) -> Self {
        let place = |height, is_box| Place {
            height,
            is_box,
            y: 0.0,
        };
        let mut layered = Layered {
            places: sizes.iter().map(|size| place(size.height, true)).collect(),
            layer_of: layer_of.to_vec(),
            layers: vec![Vec::new(); layer_of.iter().max().map_or(0, |last| last + 1)],
            left: vec![Vec::new(); sizes.len()],
            right: vec![Vec::new(); sizes.len()],
            waypoints: vec![Vec::new(); sizes.len()],
        };
        let mut reach = layer_of.to_vec();
        for &(from, to) in edges {
            reach[from] = reach[from].max(layer_of[to] - 1);
        }
        for v in 0..sizes.len() {
            let mut before = v;
            for layer in layer_of[v] + 1..=reach[v] {
                let point = layered.places.len();
                layered.places.push(place(0.0, false));
                layered.layer_of.push(layer);
                layered.left.push(Vec::new());
                layered.right.push(Vec::new());
                layered.join(before, point);
                layered.waypoints[v].push(point);
                before = point;
            }
        }
        for &(from, to) in edges {
            let passed = layer_of[to] - layer_of[from] - 1;
            let before = match passed {
                0 => from,
                passed => layered.waypoints[from][passed - 1],
            };
            layered.join(before, to);
        }
        layered.first_order(sizes.len());
        layered
    }

    fn join(&mut self, from: usize, to: usize) {
        self.right[from].push(to);
        self.left[to].push(from);
    }

    /// Depth first from the left, so that what belongs together is together.
    fn first_order(&mut self, boxes: usize) {
        let mut seen = vec![false; self.places.len()];
        let mut stack: Vec<usize> = (0..boxes).filter(|&v| self.left[v].is_empty()).collect();
        stack.reverse();
        while let Some(v) = stack.pop() {
            if !std::mem::replace(&mut seen[v], true) {
                self.layers[self.layer_of[v]].push(v);
                stack.extend(self.right[v].iter().rev());
            }
        }
    }

    fn positions(&self) -> Vec<usize> {
        let mut positions = vec![0; self.places.len()];
        for layer in &self.layers {
            for (i, &v) in layer.iter().enumerate() {
                positions[v] = i;
            }
        }
        positions
    }

    /// Sorts each layer by the mean position of the neighbours on one side,
    /// forth and back, and keeps the order with the fewest crossings.
    fn order(&mut self) {
        let mut best = (self.crossings(), self.layers.clone());
        for sweep in 0..ORDER_SWEEPS {
            if best.0 == 0 {
                break;
            }
            let forth = sweep % 2 == 0;
            let layers: Vec<usize> = match forth {
                true => (1..self.layers.len()).collect(),
                false => (0..self.layers.len().saturating_sub(1)).rev().collect(),
            };
            let mut positions = self.positions();
            for i in layers {
                let sides = if forth { &self.left } else { &self.right };
                let mean = |v: usize| match sides[v].len() {
                    0 => positions[v] as f64,
                    n => sides[v].iter().map(|&w| positions[w] as f64).sum::<f64>() / n as f64,
                };
                let mut keyed: Vec<(f64, usize)> =
                    self.layers[i].iter().map(|&v| (mean(v), v)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (at, (_, v)) in keyed.iter().enumerate() {
                    positions[*v] = at;
                }
                self.layers[i] = keyed.into_iter().map(|(_, v)| v).collect();
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.layers.clone());
            }
        }
        self.layers = best.1;
    }

    fn crossings(&self) -> usize {
        let positions = self.positions();
        let mut crossings = 0;
        for layer in &self.layers {
            let mut ends: Vec<usize> = Vec::new();
            for &v in layer {
                let mut right: Vec<usize> = self.right[v].iter().map(|&w| positions[w]).collect();
                right.sort_unstable();
                ends.extend(right);
            }
            crossings += inversions(&ends);
        }
        crossings
    }

    /// Draws each place to the mean of its neighbours, as close as the order
    /// and the distances allow.
    fn place(&mut self, gaps: Gaps) {
        for layer in &self.layers {
            let mut y = 0.0;
            for (i, &v) in layer.iter().enumerate() {
                if i > 0 {
                    y += self.distance(layer[i - 1], v, gaps);
                }
                self.places[v].y = y;
            }
        }
        for sweep in 0..PLACE_SWEEPS {
            let forth = sweep % 2 == 0;
            for i in 0..self.layers.len() {
                let i = if forth { i } else { self.layers.len() - 1 - i };
                let wanted: Vec<f64> = self.layers[i]
                    .iter()
                    .map(|&v| self.wanted(v, forth, sweep + 4 >= PLACE_SWEEPS))
                    .collect();
                self.settle(i, &wanted, gaps);
            }
        }
    }

    /// Between the middles of two neighbours in a layer.
    fn distance(&self, above: usize, below: usize, gaps: Gaps) -> f64 {
        let (a, b) = (self.places[above], self.places[below]);
        let gap = match a.is_box && b.is_box {
            true => gaps.box_,
            false => gaps.line,
        };
        (a.height + b.height) / 2.0 + gap
    }

    /// Where a place would like to be: in the middle of its neighbours on one
    /// side, or at last on both.
    fn wanted(&self, v: usize, left: bool, both: bool) -> f64 {
        let (one, other) = match left {
            true => (&self.left[v], &self.right[v]),
            false => (&self.right[v], &self.left[v]),
        };
        let middle = |side: &[usize]| {
            let mut ys: Vec<f64> = side.iter().map(|&w| self.places[w].y).collect();
            ys.sort_by(f64::total_cmp);
            let n = ys.len();
            (n > 0).then(|| (ys[(n - 1) / 2] + ys[n / 2]) / 2.0)
        };
        match (middle(one), middle(other)) {
            (Some(a), Some(b)) if both => (a + b) / 2.0,
            (Some(a), _) => a,
            (None, Some(b)) => b,
            (None, None) => self.places[v].y,
        }
    }

    /// The positions nearest to the wanted ones that keep order and distances:
    /// neighbours that would come too close move as one block, to their mean.
    fn settle(&mut self, layer: usize, wanted: &[f64], gaps: Gaps) {
        let order = &self.layers[layer];
        let mut offsets = vec![0.0];
        for pair in order.windows(2) {
            let last = offsets[offsets.len() - 1];
            offsets.push(last + self.distance(pair[0], pair[1], gaps));
        }
        // Without the distances it is a sequence that must not fall.
        let mut blocks: Vec<(f64, usize)> = Vec::new();
        for (wanted, offset) in wanted.iter().zip(&offsets) {
            let mut block = (wanted - offset, 1_usize);
            while let Some(&(sum, n)) = blocks.last() {
                if sum / n as f64 <= block.0 / block.1 as f64 {
                    break;
                }
                block = (block.0 + sum, block.1 + n);
                blocks.pop();
            }
            blocks.push(block);
        }
        let settled = blocks
            .iter()
            .flat_map(|&(sum, n)| std::iter::repeat_n(sum / n as f64, n));
        for ((&v, offset), y) in order.iter().zip(&offsets).zip(settled) {
            self.places[v].y = y + offset;
        }
    }

    fn finish(self, sizes: &[Size], edges: &[(usize, usize)], gaps: Gaps) -> Layout {
        let top = |place: &Place| place.y - place.height / 2.0;
        let least = self.places.iter().map(top).fold(f64::INFINITY, f64::min);
        let most = |place: &Place| place.y + place.height / 2.0 - least;
        let height = self.places.iter().map(most).fold(0.0, f64::max);
        let mut lefts = Vec::new();
        let mut widths = Vec::new();
        let mut x = 0.0;
        for layer in &self.layers {
            let boxes = layer.iter().filter_map(|&v| sizes.get(v));
            let width = boxes.map(|size| size.width).fold(0.0, f64::max);
            lefts.push(x);
            widths.push(width);
            x += width + gaps.layer;
        }
        let boxes = (0..sizes.len()).map(|v| Point {
            x: lefts[self.layer_of[v]],
            y: self.places[v].y - sizes[v].height / 2.0 - least,
        });
        let boxes: Vec<Point> = boxes.collect();
        let y = |v: usize| self.places[v].y - least;
        let line = |&(from, to): &(usize, usize)| {
            let passed = self.layer_of[to] - self.layer_of[from] - 1;
            let right = boxes[from].x + sizes[from].width;
            let mut points = vec![Point {
                x: right,
                y: y(from),
            }];
            // Boxes narrower than their layer: straight to the layer's end.
            for &v in &self.waypoints[from][..passed] {
                let layer = self.layer_of[v];
                let (start, end) = (lefts[layer], lefts[layer] + widths[layer]);
                points.extend([start, end].map(|x| Point { x, y: y(v) }));
            }
            points.push(Point {
                x: boxes[to].x,
                y: y(to),
            });
            points
        };
        Layout {
            lines: edges.iter().map(line).collect(),
            width: (x - gaps.layer).max(0.0),
            height,
            boxes,
        }
    }
}

/// How many pairs are out of order.
fn inversions(values: &[usize]) -> usize {
    let size = values.iter().max().map_or(0, |most| most + 1);
    let mut tree = vec![0_usize; size + 1];
    let mut inversions = 0;
    for (seen, &value) in values.iter().enumerate() {
        let mut at = value + 1;
        let mut not_above = 0;
        while at > 0 {
            not_above += tree[at];
            at &= at - 1;
        }
        inversions += seen - not_above;
        let mut at = value + 1;
        while at <= size {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    inversions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GAPS: Gaps = Gaps {
        layer: 40.0,
        box_: 12.0,
        line: 8.0,
    };

    fn size() -> Size {
        Size {
            width: 100.0,
            height: 30.0,
        }
    }

    /// Boxes of any size; edges lead from smaller to larger indices.
    fn graph() -> impl Strategy<Value = (Vec<Size>, Vec<(usize, usize)>)> {
        (1..40_usize).prop_flat_map(|n| {
            let sizes = prop::collection::vec((20..200_u32, 10..60_u32), n);
            let edges = prop::collection::btree_set((0..n, 0..n), 0..3 * n);
            (sizes, edges).prop_map(|(sizes, edges)| {
                let sizes = sizes.into_iter().map(|(w, h)| Size {
                    width: w.into(),
                    height: h.into(),
                });
                let edges = edges.into_iter().filter(|(a, b)| a < b).collect();
                (sizes.collect(), edges)
            })
        })
    }

    proptest! {
        #[test]
        fn boxes_do_not_touch((sizes, edges) in graph()) {
            let layout = layout(&sizes, &edges, GAPS);
            for a in 0..sizes.len() {
                let (p, s) = (layout.boxes[a], sizes[a]);
                prop_assert!(p.x >= 0.0 && p.y > -1e-6);
                prop_assert!(p.x + s.width <= layout.width + 1e-6);
                prop_assert!(p.y + s.height <= layout.height + 1e-6);
                for (b, (q, t)) in layout.boxes.iter().zip(&sizes).enumerate().take(a) {
                    let beside = p.x + s.width <= q.x || q.x + t.width <= p.x;
                    let apart = p.y + s.height <= q.y + 1e-6 || q.y + t.height <= p.y + 1e-6;
                    prop_assert!(beside || apart, "{a} and {b}");
                }
            }
        }

        #[test]
        fn lines_lead_forward_from_side_to_side((sizes, edges) in graph()) {
            let layout = layout(&sizes, &edges, GAPS);
            for (line, (from, to)) in layout.lines.iter().zip(&edges) {
                prop_assert!(line.len() % 2 == 0);
                prop_assert!(line.windows(2).all(|pair| pair[0].x <= pair[1].x));
                let start = layout.boxes[*from].x + sizes[*from].width;
                prop_assert_eq!(line[0].x, start);
                prop_assert_eq!(line[line.len() - 1].x, layout.boxes[*to].x);
                prop_assert!(start < layout.boxes[*to].x);
            }
        }

        #[test]
        fn lines_pass_beside_boxes((sizes, edges) in graph()) {
            let layout = layout(&sizes, &edges, GAPS);
            for line in &layout.lines {
                for pair in line[1..line.len() - 1].chunks(2) {
                    let hits = |(p, s): (&Point, &Size)| {
                        pair[0].x < p.x + s.width && p.x < pair[1].x
                            && p.y + 1e-6 < pair[0].y && pair[0].y < p.y + s.height - 1e-6
                    };
                    prop_assert!(!layout.boxes.iter().zip(&sizes).any(hits));
                }
            }
        }

        #[test]
        fn inversions_are_counted(values in prop::collection::vec(0..20_usize, 0..40)) {
            let pairs = (0..values.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
            prop_assert_eq!(inversions(&values), pairs.filter(|&(i, j)| values[i] > values[j]).count());
        }
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let layout = layout(&[size(); 4], &[(0, 1), (1, 2), (2, 3)], GAPS);
        assert!(layout.boxes.iter().all(|p| p.y == 0.0));
        assert_eq!(layout.height, 30.0);
        assert_eq!(layout.width, 4.0 * 100.0 + 3.0 * 40.0);
    }

    #[test]
    fn crossed_pairs_are_uncrossed() {
        let edges = [(0, 3), (1, 2)];
        let layout = layout(&[size(); 4], &edges, GAPS);
        let above = |a: usize, b: usize| layout.boxes[a].y < layout.boxes[b].y;
        assert_eq!(above(0, 1), above(3, 2));
    }

    #[test]
    fn nothing_is_nothing() {
        let layout = layout(&[], &[], GAPS);
        assert_eq!((layout.width, layout.height), (0.0, 0.0));
    }
}

//! Random graphs of every op that rewrites know, and inputs for them.

use super::{Rng, lengths};
use mlafuse_ir::build::GraphBuilder;
use mlafuse_ir::graph::{EinsumSpec, Graph, Op, Pairing, ValueId};
use mlafuse_ir::interp::Value;
use mlafuse_ir::size::{Dim, Dims};
use mlafuse_tensor::DType;
use std::collections::BTreeMap;

const SEQUENCES: usize = 2;
const TOKENS: usize = 3;
const POSITIONS: usize = 8;

/// A tree of contractions over random dimensions: each takes two of the values that nothing has read yet.
pub fn tree(rng: &mut Rng) -> Graph {
    let mut g = GraphBuilder::new("random");
    let mut open: Vec<ValueId> = Vec::new();
    for i in 0..3 + rng.below(3) {
        let shape: Vec<Dim> = (0..1 + rng.below(4)).map(|_| Dim::Const(2 + rng.below(2))).collect();
        open.push(g.input(&format!("x{i}"), DType::F32, &shape).unwrap());
    }
    while open.len() > 1 {
        let a = open.swap_remove(rng.below(open.len()));
        let b = open.swap_remove(rng.below(open.len()));
        let spec = spec(&g.ty(a).shape, &g.ty(b).shape, rng);
        open.push(g.push("y", Op::Einsum(spec), &[a, b], DType::F32, &[]).unwrap());
    }
    g.output("y", open[0]);
    g.finish()
}

/// Labels drawn from one small alphabet in each node, so that nodes use the same letters for different dimensions.
fn spec(a: &[Dim], b: &[Dim], rng: &mut Rng) -> EinsumSpec {
    let mut alphabet: Vec<String> = ('a'..='j').map(String::from).collect();
    let mut fresh = |rng: &mut Rng| alphabet.swap_remove(rng.below(alphabet.len()));
    let first: Vec<String> = a.iter().map(|_| fresh(rng)).collect();
    let mut second: Vec<String> = Vec::new();
    for dim in b {
        let same = first
            .iter()
            .zip(a)
            .filter(|(l, d)| *d == dim && !second.contains(l))
            .map(|(l, _)| l.clone())
            .next();
        second.push(same.filter(|_| rng.below(4) > 0).unwrap_or_else(|| fresh(rng)));
    }
    let mut spec = EinsumSpec {
        a: first,
        b: second,
        out: Vec::new(),
    };
    let mut labels: Vec<String> = spec.labels().cloned().collect();
    while !labels.is_empty() {
        let label = labels.swap_remove(rng.below(labels.len()));
        if spec.out.len() < 4 && rng.below(3) > 0 {
            spec.out.push(label);
        }
    }
    spec
}

/// A graph in which values are read any number of times, over rows \[B, T, ..\] and weights.
pub fn dag(rng: &mut Rng) -> Graph {
    let mut random = Random {
        g: GraphBuilder::new("random"),
        values: Vec::new(),
        weights: Vec::new(),
        rng,
    };
    for i in 0..1 + random.rng.below(2) {
        let shape = [SEQUENCES, TOKENS, 2 * (1 + random.rng.below(3))].map(Dim::Const);
        random
            .values
            .push(random.g.input(&format!("x{i}"), DType::F32, &shape).unwrap());
    }
    for _ in 0..4 + random.rng.below(7) {
        random.step();
    }
    let Random { g, values, rng, .. } = random;
    let mut graph = g.finish();
    for (i, value) in values.into_iter().enumerate() {
        if graph.users(value).is_empty() || rng.below(12) == 0 {
            graph.outputs.push((format!("o{i}"), value));
        }
    }
    graph
}

struct Random<'r> {
    g: GraphBuilder,
    /// What a step may read.
    values: Vec<ValueId>,
    weights: Vec<ValueId>,
    rng: &'r mut Rng,
}

impl Random<'_> {
    /// The newest value as often as any other: chains and values that many read.
    fn value(&mut self) -> ValueId {
        let newest = self.values.len() - 1;
        let index = if self.rng.below(2) == 0 {
            newest
        } else {
            self.rng.below(newest + 1)
        };
        self.values[index]
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        let dims = &self.g.ty(value).shape;
        dims.iter().map(|dim| dim.value(&Dims::new()).unwrap()).collect()
    }

    fn dtype(&mut self) -> DType {
        *[DType::F32, DType::F32, DType::BF16].get(self.rng.below(3)).unwrap()
    }

    /// A weight of `shape`, mostly a new one; at times one that is no constant.
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let shape: Vec<Dim> = shape.iter().map(|&n| n.into()).collect();
        let same = self.weights.iter().find(|&&w| self.g.ty(w).shape == shape).copied();
        if let Some(weight) = same.filter(|_| self.rng.below(6) == 0) {
            return weight;
        }
        let name = format!("W{}", self.weights.len());
        let weight = if self.rng.below(8) == 0 {
            self.g.input(&name, DType::F32, &shape).unwrap()
        } else {
            self.g.weight(&name, DType::F32, &shape).unwrap()
        };
        self.weights.push(weight);
        weight
    }

    fn step(&mut self) {
        let x = self.value();
        let shape = self.shape(x);
        let last = shape.last().copied().unwrap_or(1);
        let dtype = self.dtype();
        let (op, args) = match self.rng.below(21) {
            0..6 if !shape.is_empty() => return self.contract(x, &shape),
            6 => {
                let y = self.value();
                let spec = spec(&self.g.ty(x).shape, &self.g.ty(y).shape, self.rng);
                (Op::Einsum(spec), vec![x, y])
            }
            7..9 if !shape.is_empty() => return self.norm(x, &shape),
            9..11 => {
                let factor = [0.5, 2.0, -1.5][self.rng.below(3)];
                (Op::Scale { factor }, vec![x])
            }
            11 => (Op::Cast, vec![x]),
            12 | 13 if !shape.is_empty() => return self.slices(x, &shape),
            14 if !shape.is_empty() => {
                let ty = self.g.ty(x);
                let same = self.values.iter().rev().find(|&&y| y != x && self.g.ty(y) == ty);
                let Some(&y) = same else { return };
                let axis = self.rng.below(shape.len());
                let dtype = ty.dtype;
                return self.push(Op::Concat { axis }, &[x, y], dtype);
            }
            15 if !shape.is_empty() => (Op::Add, vec![x, self.weight(&[last])]),
            16 if !shape.is_empty() => (Op::Mul, vec![x, self.weight(&[last])]),
            17 | 18 if !shape.is_empty() => {
                let rank = 1 + self.rng.below(shape.len());
                (Op::ScaleRows, vec![x, self.weight(&shape[..rank])])
            }
            _ => return self.rope(x, &shape),
        };
        self.push(op, &args, dtype);
    }

    fn push(&mut self, op: Op, args: &[ValueId], dtype: DType) {
        let value = self.g.push("y", op, args, dtype, &[]).unwrap();
        self.values.push(value);
    }

    /// Products with a weight, on either side: of the last dimension, with one or two new ones; at times several of one x.
    fn contract(&mut self, x: ValueId, shape: &[usize]) {
        let (last, rows) = shape.split_last().unwrap();
        let labels: Vec<String> = ('a'..).take(rows.len()).map(String::from).collect();
        let wide = rows.len() < 3 && self.rng.below(3) == 0;
        for _ in 0..1 + self.rng.below(2) {
            let mut weight = vec![1 + self.rng.below(4), *last];
            let mut of_weight = vec!["n".to_string(), "d".to_string()];
            if wide {
                weight.insert(0, 2);
                of_weight.insert(0, "h".to_string());
            }
            let w = self.weight(&weight);
            let of_x = [labels.clone(), vec!["d".to_string()]].concat();
            let out = [labels.clone(), of_weight[..of_weight.len() - 1].to_vec()].concat();
            let dtype = self.dtype();
            let (a, b, args) = match self.rng.below(4) {
                0 => (of_weight, of_x, [w, x]),
                _ => (of_x, of_weight, [x, w]),
            };
            self.push(Op::Einsum(EinsumSpec { a, b, out }), &args, dtype);
        }
    }

    /// A norm, mostly with what it is for.
    fn norm(&mut self, x: ValueId, shape: &[usize]) {
        let (gain, dtype) = (self.weight(&shape[shape.len() - 1..]), self.dtype());
        self.push(Op::RmsNorm { eps: 1e-3 }, &[x, gain], dtype);
        if let (Some(&norm), true) = (self.values.last(), self.rng.below(3) > 0) {
            self.contract(norm, shape);
        }
    }

    /// One slice, or the two halves.
    fn slices(&mut self, x: ValueId, shape: &[usize]) {
        let axis = self.rng.below(shape.len());
        self.slices_along(axis, x, shape);
    }

    fn slices_along(&mut self, axis: usize, x: ValueId, shape: &[usize]) {
        let dtype = self.g.ty(x).dtype;
        let cut = 1 + self.rng.below(shape[axis]);
        let start = 0;
        self.push(Op::Slice { axis, start, len: cut }, &[x], dtype);
        if cut < shape[axis] {
            let (start, len) = (cut, shape[axis] - cut);
            self.push(Op::Slice { axis, start, len }, &[x], dtype);
        }
    }

    /// Of `x`, or of new heads.
    fn rope(&mut self, x: ValueId, shape: &[usize]) {
        if self.rng.below(2) > 0 {
            return self.turn(x, shape);
        }
        let heads = [SEQUENCES, TOKENS, 2 + self.rng.below(2), 2 * (1 + self.rng.below(2))];
        let name = format!("heads{}", self.values.len());
        let x = self.g.input(&name, DType::F32, &heads.map(Dim::Const)).unwrap();
        self.turn(x, &heads);
    }

    fn turn(&mut self, x: ValueId, shape: &[usize]) {
        let (Some(&last), true) = (shape.last(), shape.len() >= 3 && shape[0] == SEQUENCES) else {
            return;
        };
        if last % 2 != 0 {
            return;
        }
        let half = last / 2;
        let table = [POSITIONS, half].map(Dim::Const);
        let mut given = |name: &str, dtype, shape: &[Dim]| {
            let name = format!("{name}{half}");
            let known = self.values.iter().chain(&self.weights).count();
            self.g.input(&format!("{name}_{known}"), dtype, shape).unwrap()
        };
        let [cos, sin] = ["cos", "sin"].map(|name| given(name, DType::F32, &table));
        let [q_len, kv_len] = ["q_len", "kv_len"].map(|name| given(name, DType::I32, &[SEQUENCES.into()]));
        let pairing = if self.rng.below(2) == 0 {
            Pairing::Halves
        } else {
            Pairing::Interleaved
        };
        let dtype = self.dtype();
        let push = |random: &mut Self, x| random.push(Op::Rope { pairing }, &[x, cos, sin, q_len, kv_len], dtype);
        let before = self.values.len();
        match self.rng.below(3) {
            // The heads apart, by the same angles, and at times side by side again.
            0 if shape.len() > 3 => {
                self.slices_along(2, x, shape);
                let parts = self.values[before..].to_vec();
                let made = self.values.len();
                parts.into_iter().for_each(|part| push(self, part));
                if let (&[a, b], 0) = (&self.values[made..], self.rng.below(2)) {
                    self.push(Op::Concat { axis: 2 }, &[a, b], dtype);
                }
            }
            1 if shape.len() > 3 => {
                push(self, x);
                if let Some(&y) = self.values.last() {
                    self.slices_along(2, y, shape);
                }
            }
            _ => push(self, x),
        }
    }
}

/// Numbers in -1..1 for each input, and lengths.
pub fn inputs(graph: &Graph, rng: &mut Rng) -> BTreeMap<String, Value<f64>> {
    let mut inputs = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        let shape: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&Dims::new()).unwrap()).collect();
        let value = match name {
            name if name.starts_with("q_len") => lengths(&[3, 1]),
            name if name.starts_with("kv_len") => lengths(&[5, 1]),
            _ => Value::floats(&shape, rng.units(shape.iter().product())),
        };
        inputs.insert(name.clone(), value);
    }
    inputs
}

/// Small integers for each input: every association of sums and products is exact.
pub fn integers(graph: &Graph, rng: &mut Rng) -> BTreeMap<String, Value<f64>> {
    let mut inputs = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        let shape: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&Dims::new()).unwrap()).collect();
        let data = (0..shape.iter().product()).map(|_| rng.below(7) as f64 - 3.0).collect();
        inputs.insert(name.clone(), Value::floats(&shape, data));
    }
    inputs
}

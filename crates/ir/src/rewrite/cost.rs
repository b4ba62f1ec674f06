//! What a graph would cost on a machine: a roofline over floating-point operations and memory bytes for each kernel that
//! fusion is expected to make of it, and the time of launching it.

use super::kernels::{is_view, kernels, shares_values};
use crate::graph::{Graph, Op, Ty, ValueId};
use crate::size::{Dim, Dims, Symbol};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// What the model knows of a part: two limits and the cost of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Peak floating-point operations a second in the storage type of the layer.
    pub flops_per_s: f64,
    /// Peak bytes of device memory a second.
    pub bytes_per_s: f64,
    /// Seconds from one kernel to the next that neither limit explains: starting it, and its first and last loads and
    /// stores. Modelled, not measured.
    pub launch_s: f64,
}

impl Machine {
    /// [`Machine::launch_s`] of a GPU whose kernels follow each other in one stream.
    pub const GPU_LAUNCH_S: f64 = 2e-6;
}

impl Default for Machine {
    /// An A100 80 GB: 312 TFLOP/s in bf16, 2.0 TB/s.
    fn default() -> Machine {
        Machine {
            flops_per_s: 312e12,
            bytes_per_s: 2.0e12,
            launch_s: Machine::GPU_LAUNCH_S,
        }
    }
}

/// Modelled cost; its text form is, for example, `1.07 GFLOP, 4.72 MB, 3.1 us modelled`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// Kernels.
    pub kernels: usize,
    /// Modelled time.
    pub seconds: f64,
}

impl Cost {
    /// The cost of a kernel, or of several that share the work: each launch, and the slower of arithmetic and traffic.
    fn of_kernels(kernels: usize, flops: f64, bytes: f64, machine: &Machine) -> Cost {
        Cost {
            flops,
            bytes,
            kernels,
            seconds: machine.launch_s * kernels as f64 + (flops / machine.flops_per_s).max(bytes / machine.bytes_per_s),
        }
    }

    /// What `self` has more than `other`, as in `68.6 GFLOP, 268 MB, 1 kernel and 276 us`; less than nothing with a minus.
    pub fn saved(&self, other: &Cost) -> String {
        let signed = |value: f64, per_unit: f64, units: &[&str]| {
            let (number, unit) = scaled(value.abs(), per_unit, units);
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{number} {unit}")
        };
        let kernels = self.kernels as i64 - other.kernels as i64;
        format!(
            "{}, {}, {kernels} kernel{} and {}",
            signed(self.flops - other.flops, 1.0, &FLOPS),
            signed(self.bytes - other.bytes, 1.0, &BYTES),
            if kernels.abs() == 1 { "" } else { "s" },
            signed(self.seconds - other.seconds, 1e9, &TIMES),
        )
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            bytes: self.bytes + other.bytes,
            kernels: self.kernels + other.kernels,
            seconds: self.seconds + other.seconds,
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}

const FLOPS: [&str; 6] = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"];
const BYTES: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
const TIMES: [&str; 4] = ["ns", "us", "ms", "s"];

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flops, flop_unit) = scaled(self.flops, 1.0, &FLOPS);
        let (bytes, byte_unit) = scaled(self.bytes, 1.0, &BYTES);
        let (time, time_unit) = scaled(self.seconds, 1e9, &TIMES);
        write!(
            f,
            "{flops} {flop_unit}, {bytes} {byte_unit}, {time} {time_unit} modelled"
        )
    }
}

/// `value · per_unit` in the largest unit that leaves at least 1, to three digits. Each unit is 1000 of the one before.
fn scaled<'a>(value: f64, per_unit: f64, units: &[&'a str]) -> (String, &'a str) {
    let mut value = value * per_unit;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        v if v >= 99.95 || v == 0.0 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    (
        format!("{value:.digits$}"),
        units.get(unit).copied().unwrap_or_default(),
    )
}

/// A symbol that the cost depends on has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cost of node `{node}`: dimension {symbol} has no value")]
pub struct CostError {
    /// The node.
    pub node: String,
    /// The symbol.
    pub symbol: Symbol,
}

/// The cost of every kernel that fusion is expected to make of `graph`.
///
/// A kernel reads each value from outside once and writes what is needed outside; what stays inside costs its arithmetic
/// alone. Values that follow from weights alone are made at load and cost nothing here; reading them does.
pub fn graph_cost(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Cost, CostError> {
    let makers = kernels(graph);
    let mut members: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for value in graph.values() {
        if let Some(kernel) = makers[value.0] {
            members.entry(kernel).or_default().push(value);
        }
    }
    let model = Model { graph, dims };
    members
        .iter()
        .map(|(&kernel, nodes)| {
            let (flops, bytes) = (model.flops(nodes)?, model.bytes(nodes)?);
            Ok(Cost::of_kernels(model.launches(kernel, nodes), flops, bytes, machine))
        })
        .sum()
}

/// The floating-point operations of the node that makes `value`.
pub fn node_flops(graph: &Graph, value: ValueId, dims: &Dims) -> Result<f64, CostError> {
    let node = graph.node(value);
    let arg = |i: usize| node.args.get(i).map(|&arg| graph.ty(arg));
    let elements = |ty: &Ty| count(&node.name, &ty.shape, dims);
    Ok(match &node.op {
        Op::Einsum(spec) => {
            let mut flops = 2.0;
            for label in spec.labels() {
                let place = |list: &[String], ty: Option<&Ty>| {
                    list.iter()
                        .position(|l| l == label)
                        .and_then(|i| ty?.shape.get(i).copied())
                };
                let dim = place(&spec.a, arg(0)).or_else(|| place(&spec.b, arg(1)));
                flops *= count(&node.name, dim.as_slice(), dims)?;
            }
            flops
        }
        Op::Input { .. } | Op::Slice { .. } | Op::Reshape | Op::Concat { .. } | Op::CacheWrite | Op::CacheRead => 0.0,
        Op::Rope { .. } => 3.0 * elements(&node.ty)?,
        Op::RmsNorm { .. } | Op::Softmax => 4.0 * elements(&node.ty)?,
        Op::InvRms { .. } => 2.0 * arg(0).map_or(Ok(0.0), elements)?,
        Op::Add | Op::Mul | Op::ScaleRows | Op::Scale { .. } | Op::Mask | Op::Cast => elements(&node.ty)?,
    })
}

fn count(node: &str, shape: &[Dim], dims: &Dims) -> Result<f64, CostError> {
    shape
        .iter()
        .try_fold(1.0, |product, &dim| match (dim.value(dims), dim) {
            (None, Dim::Sym(symbol)) => Err(CostError {
                node: node.to_string(),
                symbol,
            }),
            (n, _) => Ok(product * n.unwrap_or(0) as f64),
        })
}

/// What kernels compute, and what passes between them.
struct Model<'a> {
    graph: &'a Graph,
    dims: &'a Dims,
}

impl Model<'_> {
    /// Kernels of `nodes`, named by `kernel`: attention that is split has one more, which combines the parts.
    fn launches(&self, kernel: ValueId, nodes: &[ValueId]) -> usize {
        let softmax = nodes.iter().any(|&node| self.graph.node(node).op == Op::Softmax);
        1 + usize::from(softmax && nodes.len() > 1 && shares_values(self.graph, kernel))
    }

    /// Operations of the kernel of `nodes`. Constant factors before a softmax are part of its exponent's.
    fn flops(&self, nodes: &[ValueId]) -> Result<f64, CostError> {
        let op = |node: &ValueId| &self.graph.node(*node).op;
        let softmax = nodes.iter().any(|node| *op(node) == Op::Softmax);
        let free = |node: &&ValueId| softmax && matches!(op(node), Op::Scale { .. });
        let paid = nodes.iter().filter(|node| !free(node));
        paid.map(|&node| node_flops(self.graph, node, self.dims)).sum()
    }

    /// Bytes that the kernel of `nodes` reads and writes.
    fn bytes(&self, nodes: &[ValueId]) -> Result<f64, CostError> {
        let mut read: BTreeSet<ValueId> = BTreeSet::new();
        for &node in nodes {
            read.extend(self.rows_read(node).iter().filter(|&&arg| !self.made_by(nodes, arg)));
        }
        let mut bytes = read.iter().map(|&value| self.size(value)).sum::<Result<f64, _>>()?;
        for &node in nodes {
            bytes += self.written(nodes, node)?;
        }
        Ok(bytes)
    }

    /// The arguments that are read row for row. Of tables it is one row a token, for all heads: nothing beside the rest.
    fn rows_read(&self, value: ValueId) -> &[ValueId] {
        let node = self.graph.node(value);
        match (&node.op, node.args.as_slice()) {
            (Op::Rope { .. } | Op::Mask, [x, ..]) => std::slice::from_ref(x),
            (Op::CacheWrite, [_, rows @ .., _, _, _]) => rows,
            (_, args) => args,
        }
    }

    /// Whether `value`, or what it shows elements of, is made by one of `nodes`.
    fn made_by(&self, nodes: &[ValueId], mut value: ValueId) -> bool {
        while let (true, Some(&from)) = (is_view(&self.graph.node(value).op), self.graph.node(value).args.first()) {
            value = from;
        }
        nodes.contains(&value)
    }

    /// Bytes of `value` that are needed outside `nodes`, its kernel.
    fn written(&self, nodes: &[ValueId], value: ValueId) -> Result<f64, CostError> {
        if self.graph.node(value).op == Op::CacheWrite {
            // The new rows; the rest of the cache stays where it is.
            return self.rows_read(value).iter().map(|&rows| self.size(rows)).sum();
        }
        let whole = self.size(value)?;
        let mut parts = 0.0;
        let mut open = vec![value];
        while let Some(shown) = open.pop() {
            let users = self.graph.users(shown);
            let outside = |user: &ValueId| !is_view(&self.graph.node(*user).op) && !nodes.contains(user);
            if self.graph.is_output(shown) || users.iter().any(outside) {
                parts += self.size(shown)?;
            }
            open.extend(users.iter().filter(|user| is_view(&self.graph.node(**user).op)));
        }
        Ok(f64::min(parts, whole))
    }

    fn size(&self, value: ValueId) -> Result<f64, CostError> {
        let node = self.graph.node(value);
        Ok(count(&node.name, &node.ty.shape, self.dims)? * node.ty.dtype.size_bytes() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    #[test]
    fn a_contraction_is_the_slower_of_arithmetic_and_traffic() {
        let text = "graph g { %x = input \"x\" : bf16[T, 1000] %w = input \"w\" : bf16[500, 1000]
            %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 500] output \"y\" %y }";
        let graph = parse(text).unwrap();
        let machine = Machine {
            flops_per_s: 1e9,
            bytes_per_s: 1e9,
            launch_s: 1e-6,
        };
        let cost = |t| graph_cost(&graph, &Dims::new().with(Symbol::T, t), &machine).unwrap();
        assert_eq!(
            cost(1),
            Cost {
                flops: 1e6,
                bytes: 2000.0 + 1e6 + 2000.0,
                kernels: 1,
                seconds: 1e-6 + 1.004e-3
            }
        );
        assert_eq!(cost(10).seconds, 1e-6 + 1e-2);
        let error = graph_cost(&graph, &Dims::new(), &machine).unwrap_err();
        assert_eq!(
            error,
            CostError {
                node: "y".into(),
                symbol: Symbol::T
            }
        );
    }

    /// Bytes, kernels and operations of a graph on f32.
    fn counted(body: &str) -> (f64, usize, f64) {
        let graph = parse(&format!("graph g {{ {body} }}")).unwrap();
        let dims = Dims::new().with(Symbol::B, 1).with(Symbol::T, 2).with(Symbol::S, 100);
        let cost = graph_cost(&graph, &dims, &Machine::default()).unwrap();
        (cost.bytes, cost.kernels, cost.flops)
    }

    #[test]
    fn scores_stay_inside_and_rows_are_read_once() {
        let body = "%q = input \"q\" : f32[B, T, 4, 8] %k = input \"k\" : f32[B, S, 8] %len = input \"len\" : i32[B]
            %x = einsum \"b t h c, b s c -> b t h s\" %q, %k : f32[B, T, 4, S] %f = scale factor=0.5 %x : f32[B, T, 4, S]
            %m = mask %f, %len, %len : f32[B, T, 4, S] %p = softmax %m : f32[B, T, 4, S]
            %o = einsum \"b t h s, b s c -> b t h c\" %p, %k : f32[B, T, 4, 8] output \"o\" %o";
        let (rows, queries, scores) = (100.0 * 8.0, 2.0 * 4.0 * 8.0, 2.0 * 4.0 * 100.0);
        let flops = 2.0 * 2.0 * scores * 8.0 + 4.0 * scores + scores;
        assert_eq!(counted(body), (4.0 * (rows + 2.0 * queries), 2, flops));
    }

    #[test]
    fn weights_made_at_load_cost_their_reading_alone() {
        let body = "%x = input \"x\" : f32[T, 8] %v = weight \"v\" : f32[3, 8] %w = weight \"w\" : f32[5, 8]
            %g = weight \"g\" : f32[8] %vw = concat axis=0 %v, %w : f32[8, 8] %vwg = mul %vw, %g : f32[8, 8]
            %y = einsum \"t d, q d -> t q\" %x, %vwg : f32[T, 8] %a = slice axis=1 start=0 len=3 %y : f32[T, 3]
            %s = scale factor=2.0 %a : f32[T, 3] output \"s\" %s";
        // Of the result, only the part that is needed is written.
        assert_eq!(counted(body), (4.0 * (16.0 + 64.0 + 6.0), 1, 256.0 + 6.0));
    }

    #[test]
    fn numbers_are_readable() {
        let cost = Cost {
            flops: 1.07e9,
            bytes: 4_720_000.0,
            kernels: 3,
            seconds: 3.14159e-6,
        };
        assert_eq!(cost.to_string(), "1.07 GFLOP, 4.72 MB, 3.14 us modelled");
        assert_eq!(Cost::default().to_string(), "0 FLOP, 0 B, 0 ns modelled");
        let cost = Cost {
            flops: 999.6,
            bytes: 1e18,
            kernels: 1,
            seconds: 0.25,
        };
        assert_eq!(cost.to_string(), "1.00 kFLOP, 1000000 TB, 250 ms modelled");
        let less = Cost {
            flops: 2999.6,
            bytes: 1e12,
            kernels: 2,
            seconds: 0.2,
        };
        assert_eq!(cost.saved(&less), "-2.00 kFLOP, 999999 TB, -1 kernel and 50.0 ms");
    }
}

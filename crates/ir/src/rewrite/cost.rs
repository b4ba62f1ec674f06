//! What a graph would cost on a machine, one kernel a node: a roofline over floating-point operations and memory bytes.
//! Scores and weights that a fused attention keeps to itself are not counted as memory bytes.

use crate::graph::{Graph, Op, Ty, ValueId};
use crate::plan::kept_from_memory;
use crate::size::{Dim, Dims, Symbol};
use std::collections::BTreeSet;
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// The two limits of a part that the model knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Peak floating-point operations a second in the storage type of the layer.
    pub flops_per_s: f64,
    /// Peak bytes of device memory a second.
    pub bytes_per_s: f64,
}

impl Default for Machine {
    /// An A100 80 GB: 312 TFLOP/s in bf16, 2.0 TB/s.
    fn default() -> Machine {
        Machine {
            flops_per_s: 312e12,
            bytes_per_s: 2.0e12,
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
    /// Modelled time.
    pub seconds: f64,
}

impl Cost {
    /// The cost of one kernel: the slower of its arithmetic and its traffic.
    fn of_kernel(flops: f64, bytes: f64, machine: &Machine) -> Cost {
        Cost {
            flops,
            bytes,
            seconds: (flops / machine.flops_per_s).max(bytes / machine.bytes_per_s),
        }
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            bytes: self.bytes + other.bytes,
            seconds: self.seconds + other.seconds,
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flops, flop_unit) = scaled(self.flops, 1.0, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"]);
        let (bytes, byte_unit) = scaled(self.bytes, 1.0, &["B", "kB", "MB", "GB", "TB"]);
        let (time, time_unit) = scaled(self.seconds, 1e9, &["ns", "us", "ms", "s"]);
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

/// The cost of every node, each as a kernel of its own that reads its arguments and writes its value, as far as attention is
/// not fused around them.
pub fn graph_cost(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Cost, CostError> {
    let kept = kept_from_memory(graph);
    graph
        .values()
        .map(|value| cost(graph, value, &kept, dims, machine))
        .sum()
}

/// The cost of the node that makes `value` as a kernel of its own. Inputs, slices and reshapes are free: they are views.
pub fn node_cost(graph: &Graph, value: ValueId, dims: &Dims, machine: &Machine) -> Result<Cost, CostError> {
    cost(graph, value, &BTreeSet::new(), dims, machine)
}

/// The cost of the node that makes `value` where the values `kept` are in no memory.
fn cost(
    graph: &Graph,
    value: ValueId,
    kept: &BTreeSet<ValueId>,
    dims: &Dims,
    machine: &Machine,
) -> Result<Cost, CostError> {
    let node = graph.node(value);
    let count = |shape: &[Dim]| {
        shape
            .iter()
            .try_fold(1.0, |product, &dim| match (dim.value(dims), dim) {
                (None, Dim::Sym(symbol)) => Err(CostError {
                    node: node.name.clone(),
                    symbol,
                }),
                (n, _) => Ok(product * n.unwrap_or(0) as f64),
            })
    };
    let stored = |value: ValueId| match kept.contains(&value) {
        true => Ok(0.0),
        false => Ok(count(&graph.ty(value).shape)? * graph.ty(value).dtype.size_bytes() as f64),
    };
    let arg = |i: usize| node.args.get(i).map(|&arg| graph.ty(arg));
    let arg_bytes = |i: usize| node.args.get(i).map_or(Ok(0.0), |&arg| stored(arg));
    let (flops, bytes) = match &node.op {
        Op::Input { .. } | Op::Slice { .. } | Op::Reshape => return Ok(Cost::default()),
        Op::Einsum(spec) => {
            let mut flops = 2.0;
            for label in spec.labels() {
                let place = |list: &[String], ty: Option<&Ty>| {
                    list.iter()
                        .position(|l| l == label)
                        .and_then(|i| ty?.shape.get(i).copied())
                };
                let dim = place(&spec.a, arg(0)).or_else(|| place(&spec.b, arg(1)));
                flops *= count(dim.as_slice())?;
            }
            (flops, arg_bytes(0)? + arg_bytes(1)? + stored(value)?)
        }
        // Reads and writes the new rows; the rest of the cache stays where it is.
        Op::CacheWrite => {
            let k_pe = if node.args.len() == 6 { arg_bytes(2)? } else { 0.0 };
            (0.0, 2.0 * (arg_bytes(1)? + k_pe))
        }
        // Reads what it writes, and not the whole cache.
        Op::CacheRead => (0.0, 2.0 * stored(value)?),
        // The tables are read a row a token, once for all heads: nothing beside x.
        Op::Rope { .. } => (3.0 * count(&node.ty.shape)?, arg_bytes(0)? + stored(value)?),
        Op::RmsNorm { .. } | Op::Softmax => (4.0 * count(&node.ty.shape)?, arg_bytes(0)? + stored(value)?),
        Op::InvRms { .. } => {
            let elements = arg(0).map_or(Ok(0.0), |ty| count(&ty.shape))?;
            (2.0 * elements, arg_bytes(0)? + stored(value)?)
        }
        Op::Add | Op::Mul | Op::ScaleRows => (count(&node.ty.shape)?, arg_bytes(0)? + arg_bytes(1)? + stored(value)?),
        Op::Concat { .. } => (0.0, arg_bytes(0)? + arg_bytes(1)? + stored(value)?),
        Op::Scale { .. } | Op::Mask | Op::Cast => (count(&node.ty.shape)?, arg_bytes(0)? + stored(value)?),
    };
    Ok(Cost::of_kernel(flops, bytes, machine))
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
        };
        let cost = |t| graph_cost(&graph, &Dims::new().with(Symbol::T, t), &machine).unwrap();
        assert_eq!(
            cost(1),
            Cost {
                flops: 1e6,
                bytes: 2000.0 + 1e6 + 2000.0,
                seconds: 1.004e-3
            }
        );
        assert_eq!(cost(10).seconds, 1e-2);
        let error = graph_cost(&graph, &Dims::new(), &machine).unwrap_err();
        assert_eq!(
            error,
            CostError {
                node: "y".into(),
                symbol: Symbol::T
            }
        );
    }

    #[test]
    fn numbers_are_readable() {
        let cost = Cost {
            flops: 1.07e9,
            bytes: 4_720_000.0,
            seconds: 3.14159e-6,
        };
        assert_eq!(cost.to_string(), "1.07 GFLOP, 4.72 MB, 3.14 us modelled");
        assert_eq!(Cost::default().to_string(), "0 FLOP, 0 B, 0 ns modelled");
        let cost = Cost {
            flops: 999.6,
            bytes: 1e18,
            seconds: 0.25,
        };
        assert_eq!(cost.to_string(), "1.00 kFLOP, 1000000 TB, 250 ms modelled");
    }
}

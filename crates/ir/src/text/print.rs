//! A graph as text.

use crate::graph::{Graph, Node, Op};
use crate::infer::shape_text;
use std::fmt;

/// The graph in its text form; [`crate::text::parse()`] gives the same graph back if it passes [`crate::verify::verify`].
pub fn print(graph: &Graph) -> String {
    graph.to_string()
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", self.name)?;
        for node in &self.nodes {
            write!(f, "  %{} = {}", node.name, node.op)?;
            for (i, arg) in node.args.iter().enumerate() {
                let separator = if i == 0 { " " } else { ", " };
                write!(f, "{separator}%{}", self.name_of(arg.0))?;
            }
            writeln!(f, " : {}{}", node.ty.dtype, shape_text(&node.ty.shape))?;
        }
        for (name, value) in &self.outputs {
            writeln!(f, "  output \"{name}\" %{}", self.name_of(value.0))?;
        }
        writeln!(f, "}}")
    }
}

impl Graph {
    /// A node's name, even where the graph is broken: such a graph must still print.
    fn name_of(&self, index: usize) -> &str {
        self.nodes.get(index).map_or("<missing>", |node: &Node| &node.name)
    }
}

impl fmt::Display for Op {
    /// The op's word and its attributes. `{:?}` of an f64 is the shortest text that parses to the same bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Op::Input { name, .. } => write!(f, " \"{name}\""),
            Op::Einsum(spec) => write!(f, " \"{spec}\""),
            Op::RmsNorm { eps } | Op::InvRms { eps } => write!(f, " eps={eps:?}"),
            Op::Rope { pairing } => write!(f, " pairing={pairing}"),
            Op::Scale { factor } => write!(f, " factor={factor:?}"),
            Op::Slice { axis, start, len } => write!(f, " axis={axis} start={start} len={len}"),
            Op::Concat { axis } => write!(f, " axis={axis}"),
            Op::Add
            | Op::Mul
            | Op::ScaleRows
            | Op::Mask
            | Op::Softmax
            | Op::Reshape
            | Op::Cast
            | Op::CacheWrite
            | Op::CacheRead => Ok(()),
        }
    }
}

impl Op {
    /// The word for it in the text form and in messages.
    pub fn word(&self) -> &'static str {
        match self {
            Op::Input { constant: false, .. } => "input",
            Op::Input { constant: true, .. } => "weight",
            Op::Einsum(_) => "einsum",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Rope { .. } => "rope",
            Op::Scale { .. } => "scale",
            Op::Add => "add",
            Op::Mul => "mul",
            Op::ScaleRows => "scale_rows",
            Op::InvRms { .. } => "inv_rms",
            Op::Mask => "mask",
            Op::Softmax => "softmax",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Reshape => "reshape",
            Op::Cast => "cast",
            Op::CacheWrite => "cache_write",
            Op::CacheRead => "cache_read",
        }
    }
}

//! Builds a graph node by node, inferring each shape.

use crate::graph::{Graph, Node, Op, Pairing, Ty, ValueId};
use crate::infer::{TypeError, check_type, infer_shape};
use crate::size::Dim;
use crate::verify::is_name;
use mlafuse_tensor::DType;

/// A node that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}`{}: {error}", error.arg().map(|arg| format!(", argument {arg}")).unwrap_or_default())]
pub struct BuildError {
    /// The name it was to have.
    pub node: String,
    /// What is wrong with its types.
    pub error: TypeError,
}

/// A graph under construction. Names that are taken get a number appended.
///
/// Each method appends one node and gives its value; `dtype` is the storage type of the result.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> GraphBuilder {
        GraphBuilder {
            graph: Graph {
                name: name.to_string(),
                ..Graph::default()
            },
        }
    }

    /// Appends any op. `shape` is for the ops whose shape the arguments do not tell (see [`infer_shape`]).
    pub fn push(
        &mut self,
        name: &str,
        op: Op,
        args: &[ValueId],
        dtype: DType,
        shape: &[Dim],
    ) -> Result<ValueId, BuildError> {
        append(&mut self.graph, name, op, args, dtype, shape).map_err(|error| BuildError {
            node: name.to_string(),
            error,
        })
    }

    /// The type of a value built before.
    pub fn ty(&self, value: ValueId) -> &Ty {
        self.graph.ty(value)
    }

    /// An input, bound by `name`; its node has the same name in lower case.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Result<ValueId, BuildError> {
        self.given(name, false, dtype, shape)
    }

    /// A weight: an input that is the same for every launch. Named as [`GraphBuilder::input`] does.
    pub fn weight(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> Result<ValueId, BuildError> {
        self.given(name, true, dtype, shape)
    }

    fn given(&mut self, name: &str, constant: bool, dtype: DType, shape: &[Dim]) -> Result<ValueId, BuildError> {
        let op = Op::Input {
            name: name.to_string(),
            constant,
        };
        self.push(&name.to_ascii_lowercase(), op, &[], dtype, shape)
    }

    /// A contraction, written as in `"b t d, q d -> b t q"`.
    pub fn einsum(
        &mut self,
        name: &str,
        spec: &str,
        a: ValueId,
        b: ValueId,
        dtype: DType,
    ) -> Result<ValueId, BuildError> {
        let fail = |error| BuildError {
            node: name.to_string(),
            error: TypeError::Einsum(error),
        };
        let spec = spec.parse().map_err(fail)?;
        self.push(name, Op::Einsum(spec), &[a, b], dtype, &[])
    }

    /// Root-mean-square norm of the last dimension, times `gain`.
    pub fn rms_norm(
        &mut self,
        name: &str,
        eps: f64,
        x: ValueId,
        gain: ValueId,
        dtype: DType,
    ) -> Result<ValueId, BuildError> {
        self.push(name, Op::RmsNorm { eps }, &[x, gain], dtype, &[])
    }

    /// Rotation by position; `args` are x, cos, sin, q_len and kv_len.
    pub fn rope(
        &mut self,
        name: &str,
        pairing: Pairing,
        args: [ValueId; 5],
        dtype: DType,
    ) -> Result<ValueId, BuildError> {
        self.push(name, Op::Rope { pairing }, &args, dtype, &[])
    }

    /// `x` times a constant.
    pub fn scale(&mut self, name: &str, factor: f64, x: ValueId, dtype: DType) -> Result<ValueId, BuildError> {
        self.push(name, Op::Scale { factor }, &[x], dtype, &[])
    }

    /// The sum of two values, the second of which may be a bias.
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId, dtype: DType) -> Result<ValueId, BuildError> {
        self.push(name, Op::Add, &[a, b], dtype, &[])
    }

    /// The product of two values element by element, the second of which may be a gain.
    pub fn mul(&mut self, name: &str, a: ValueId, b: ValueId, dtype: DType) -> Result<ValueId, BuildError> {
        self.push(name, Op::Mul, &[a, b], dtype, &[])
    }

    /// The rows of `x` times the factors `r`.
    pub fn scale_rows(&mut self, name: &str, x: ValueId, r: ValueId, dtype: DType) -> Result<ValueId, BuildError> {
        self.push(name, Op::ScaleRows, &[x, r], dtype, &[])
    }

    /// What root-mean-square norm divides each row by, inverted.
    pub fn inv_rms(&mut self, name: &str, eps: f64, x: ValueId, dtype: DType) -> Result<ValueId, BuildError> {
        self.push(name, Op::InvRms { eps }, &[x], dtype, &[])
    }

    /// Elements `start..start + len` of dimension `axis`, stored as `x` is.
    pub fn slice(
        &mut self,
        name: &str,
        axis: usize,
        start: usize,
        len: usize,
        x: ValueId,
    ) -> Result<ValueId, BuildError> {
        let dtype = self.ty(x).dtype;
        self.push(name, Op::Slice { axis, start, len }, &[x], dtype, &[])
    }

    /// Names a result.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push((name.to_string(), value));
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}

/// Appends a node to a graph, named `name` or with a number after it. `shape` is as [`infer_shape`] has it.
pub(crate) fn append(
    graph: &mut Graph,
    name: &str,
    op: Op,
    args: &[ValueId],
    dtype: DType,
    shape: &[Dim],
) -> Result<ValueId, TypeError> {
    let types: Vec<&Ty> = args.iter().map(|&arg| graph.ty(arg)).collect();
    let shape = infer_shape(&op, &types, shape)?;
    let ty = Ty { dtype, shape };
    check_type(&op, &types, &ty)?;
    let name = unique_name(&graph.nodes, name);
    graph.nodes.push(Node {
        name,
        op,
        args: args.to_vec(),
        ty,
    });
    Ok(ValueId(graph.nodes.len() - 1))
}

/// `wanted`, or `wanted` with the first number appended that makes it a name no node has.
pub(crate) fn unique_name(nodes: &[Node], wanted: &str) -> String {
    let taken = |name: &str| nodes.iter().any(|node| node.name == name);
    let wanted = if is_name(wanted) { wanted } else { "v" };
    numbered(wanted).find(|name| !taken(name)).unwrap_or_default()
}

/// `name`, and then the same with a number after it: 2, 3, ...
pub(crate) fn numbered(name: &str) -> impl Iterator<Item = String> {
    std::iter::once(name.to_string()).chain((2usize..).map(move |n| format!("{name}_{n}")))
}

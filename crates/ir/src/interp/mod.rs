//! The reference interpreter: what each op means, in f64 or f32.
//!
//! Storage types are ignored: everything between two nodes stays in the interpreter's own type ([`interpret_stored`] is the
//! exception). Integers (lengths and block tables) stay integers.

mod cache;
mod einsum;
mod ops;
mod real;
mod stored;

pub use real::Real;
pub use stored::interpret_stored;

use crate::graph::{Graph, Node, Op, ValueId};
use crate::size::{Dim, Dims, Symbol};
use crate::verify::{VerifyError, verify};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A tensor of the interpreter: row-major elements, shared until someone writes to them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<F> {
    /// Numbers.
    F {
        /// Length of each dimension, outermost first.
        shape: Vec<usize>,
        /// As many elements as the shape says.
        data: Arc<Vec<F>>,
    },
    /// Lengths or page numbers.
    I {
        /// Length of each dimension, outermost first.
        shape: Vec<usize>,
        /// As many elements as the shape says.
        data: Arc<Vec<i32>>,
    },
}

impl<F> Value<F> {
    /// A tensor of numbers; `data` must have the shape's number of elements (checked where it is bound to an input).
    pub fn floats(shape: &[usize], data: Vec<F>) -> Value<F> {
        Value::F {
            shape: shape.to_vec(),
            data: Arc::new(data),
        }
    }

    /// A tensor of integers; `data` must have the shape's number of elements (checked where it is bound to an input).
    pub fn ints(shape: &[usize], data: Vec<i32>) -> Value<F> {
        Value::I {
            shape: shape.to_vec(),
            data: Arc::new(data),
        }
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        match self {
            Value::F { shape, .. } | Value::I { shape, .. } => shape,
        }
    }

    /// The elements, where they are numbers.
    pub fn as_floats(&self) -> Option<&[F]> {
        match self {
            Value::F { data, .. } => Some(data),
            Value::I { .. } => None,
        }
    }

    /// The elements, where they are integers.
    pub fn as_ints(&self) -> Option<&[i32]> {
        match self {
            Value::I { data, .. } => Some(data),
            Value::F { .. } => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Value::F { shape, data } => format!("{} floats of shape {shape:?}", data.len()),
            Value::I { shape, data } => format!("{} integers of shape {shape:?}", data.len()),
        }
    }
}

/// Why a graph could not be interpreted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpError {
    /// The graph is not sound.
    #[error("the graph is not sound: {0}")]
    Graph(#[from] VerifyError),
    /// A symbol of the graph has no value.
    #[error("node `{node}`: dimension {symbol} has no value")]
    Unbound {
        /// The first node whose type has it.
        node: String,
        /// The symbol.
        symbol: Symbol,
    },
    /// A value would have more elements than can be addressed.
    #[error("node `{node}`: shape {shape:?} is too large")]
    TooLarge {
        /// The node.
        node: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// An input was not given.
    #[error("input \"{name}\" is missing")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// An input has another kind, shape or number of elements.
    #[error("input \"{name}\": expected {expected}, got {got}")]
    Input {
        /// The input.
        name: String,
        /// What the graph says.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A length or a page number that the op needs is out of its range.
    #[error("node `{node}`, sequence {sequence}: {what} is {got}, allowed {allowed}")]
    Range {
        /// The node.
        node: String,
        /// The sequence of the batch, from 0.
        sequence: usize,
        /// What is out of range, such as `kv_len`.
        what: String,
        /// Its value.
        got: i64,
        /// The values allowed.
        allowed: String,
    },
}

/// Runs `graph` on `inputs`, bound by input name, with its symbols' values from `dims`. Gives the outputs by name.
///
/// Inputs that the graph does not have are ignored. A value is dropped after its last use.
pub fn interpret<F: Real>(
    graph: &Graph,
    dims: &Dims,
    inputs: &BTreeMap<String, Value<F>>,
) -> Result<BTreeMap<String, Value<F>>, InterpError> {
    walk(graph, dims, inputs, |_, value| value)
}

/// As [`interpret`]; what `stored` makes of a node's result is what the nodes after it read.
fn walk<F: Real>(
    graph: &Graph,
    dims: &Dims,
    inputs: &BTreeMap<String, Value<F>>,
    stored: impl Fn(&Node, Value<F>) -> Value<F>,
) -> Result<BTreeMap<String, Value<F>>, InterpError> {
    verify(graph)?;
    let last_use = last_uses(graph);
    let mut slots: Vec<Option<Value<F>>> = vec![None; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let shape = concrete_shape(node, dims)?;
        let value = match &node.op {
            Op::Input { name, .. } => bind(name, node, &shape, inputs)?,
            _ => {
                let args = take_args(node, index, &last_use, &mut slots);
                stored(node, eval(node, &shape, args)?)
            }
        };
        slots[index] = Some(value);
    }
    let outputs = graph
        .outputs
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), slots[value.0].clone()?)));
    Ok(outputs.collect())
}

/// For each value, the last node that reads it; outputs are read at the very end.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![0; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        node.args.iter().for_each(|arg| last[arg.0] = index);
    }
    graph
        .outputs
        .iter()
        .for_each(|(_, value)| last[value.0] = graph.nodes.len());
    last
}

/// The arguments, moved out of their slots where this is their last use so that the op may write in place.
fn take_args<F: Real>(node: &Node, index: usize, last_use: &[usize], slots: &mut [Option<Value<F>>]) -> Vec<Value<F>> {
    let mut args = Vec::with_capacity(node.args.len());
    for (position, &ValueId(arg)) in node.args.iter().enumerate() {
        let again = node.args[position + 1..].contains(&ValueId(arg));
        let value = if last_use[arg] == index && !again {
            slots[arg].take()
        } else {
            slots[arg].clone()
        };
        args.extend(value);
    }
    args
}

fn concrete_shape(node: &Node, dims: &Dims) -> Result<Vec<usize>, InterpError> {
    let mut shape = Vec::with_capacity(node.ty.shape.len());
    for &dim in &node.ty.shape {
        match (dim.value(dims), dim) {
            (Some(n), _) => shape.push(n),
            (None, Dim::Sym(symbol)) => {
                return Err(InterpError::Unbound {
                    node: node.name.clone(),
                    symbol,
                });
            }
            (None, Dim::Const(n)) => shape.push(n),
        }
    }
    match shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)) {
        Some(elements) if elements < isize::MAX as usize / 8 => Ok(shape),
        _ => Err(InterpError::TooLarge {
            node: node.name.clone(),
            shape,
        }),
    }
}

fn bind<F: Real>(
    name: &str,
    node: &Node,
    shape: &[usize],
    inputs: &BTreeMap<String, Value<F>>,
) -> Result<Value<F>, InterpError> {
    let value = inputs
        .get(name)
        .ok_or_else(|| InterpError::MissingInput { name: name.to_string() })?;
    let elements: usize = shape.iter().product();
    let (fits, kind) = match (value, node.ty.dtype.is_float()) {
        (Value::F { shape: s, data }, true) => (s == shape && data.len() == elements, "floats"),
        (Value::I { shape: s, data }, false) => (s == shape && data.len() == elements, "integers"),
        (_, float) => (false, if float { "floats" } else { "integers" }),
    };
    if !fits {
        let expected = format!("{elements} {kind} of shape {shape:?}");
        return Err(InterpError::Input {
            name: name.to_string(),
            expected,
            got: value.describe(),
        });
    }
    Ok(value.clone())
}

/// A tensor of numbers on its way through an op.
struct Tensor<F> {
    shape: Vec<usize>,
    data: Arc<Vec<F>>,
}

impl<F: Real> Tensor<F> {
    fn new(shape: &[usize], data: Vec<F>) -> Tensor<F> {
        Tensor {
            shape: shape.to_vec(),
            data: Arc::new(data),
        }
    }

    /// The elements to write to: this tensor's own where nothing else holds them, else a copy.
    fn data_mut(&mut self) -> &mut [F] {
        Arc::make_mut(&mut self.data).as_mut_slice()
    }

    /// Length of the last dimension; 1 for a scalar.
    fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// One node other than an input. Arguments were checked by [`verify`], so kinds and shapes are right.
fn eval<F: Real>(node: &Node, shape: &[usize], args: Vec<Value<F>>) -> Result<Value<F>, InterpError> {
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    for arg in args {
        match arg {
            Value::F { shape, data } => floats.push(Tensor { shape, data }),
            Value::I { shape, data } => ints.push((shape, data)),
        }
    }
    let ints: Vec<(&[usize], &[i32])> = ints.iter().map(|(s, d)| (s.as_slice(), d.as_slice())).collect();
    let mut floats = floats.into_iter();
    let mut next = || floats.next().unwrap_or_else(|| Tensor::new(&[0], Vec::new()));
    let x = next();
    let result = match &node.op {
        Op::Input { .. } | Op::Cast => x,
        Op::Einsum(spec) => einsum::einsum(spec, &x, &next(), shape),
        Op::RmsNorm { eps } => ops::rms_norm(*eps, x, &next()),
        Op::Rope { pairing } => {
            let (cos, sin) = (next(), next());
            let [q_len, kv_len] = lengths(&ints);
            ops::rope(node, *pairing, x, &cos, &sin, q_len, kv_len)?
        }
        Op::Scale { factor } => ops::scale(*factor, x),
        Op::Add => ops::add(x, &next()),
        Op::Mul => ops::mul(x, &next()),
        Op::ScaleRows => ops::scale_rows(x, &next()),
        Op::InvRms { eps } => ops::inv_rms(*eps, &x, shape),
        Op::Mask => {
            let [q_len, kv_len] = lengths(&ints);
            ops::mask(x, q_len, kv_len)
        }
        Op::Softmax => ops::softmax(x),
        Op::Slice { axis, start, len } => ops::slice(*axis, *start, *len, &x),
        Op::Concat { axis } => ops::concat(*axis, &x, &next()),
        Op::Reshape => Tensor {
            shape: shape.to_vec(),
            data: x.data,
        },
        Op::CacheWrite => {
            let latent = next();
            let k_pe = (node.args.len() == 6).then(&mut next);
            cache::write(node, x, &latent, k_pe.as_ref(), &ints)?
        }
        Op::CacheRead => cache::read(node, &x, &ints, shape)?,
    };
    Ok(Value::F {
        shape: result.shape,
        data: result.data,
    })
}

/// The last two integer arguments: q_len and kv_len, both \[B\].
fn lengths<'a>(ints: &[(&'a [usize], &'a [i32])]) -> [&'a [i32]; 2] {
    match ints {
        [.., (_, q_len), (_, kv_len)] => [q_len, kv_len],
        _ => [&[], &[]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    fn run(body: &str, inputs: &BTreeMap<String, Value<f64>>) -> BTreeMap<String, Value<f64>> {
        let graph = parse(&format!("graph g {{ %x = input \"x\" : f64[T, 2] {body} }}")).unwrap();
        interpret(&graph, &Dims::new().with(Symbol::T, 2), inputs).unwrap()
    }

    #[test]
    fn a_norm_is_rows_times_their_inverse_rms_times_a_gain() {
        let inputs = BTreeMap::from([
            ("x".to_string(), Value::floats(&[2, 2], vec![1.0, -2.0, 3.0, 0.5])),
            ("g".to_string(), Value::floats(&[2], vec![2.0, 0.25])),
        ]);
        let body = "%g = weight \"g\" : f64[2] %norm = rms_norm eps=0.5 %x, %g : f64[T, 2]
            %r = inv_rms eps=0.5 %x : f64[T] %rows = scale_rows %x, %r : f64[T, 2] %all = mul %rows, %g : f64[T, 2]
            output \"norm\" %norm output \"all\" %all output \"r\" %r";
        let outputs = run(body, &inputs);
        assert_eq!(outputs["r"].as_floats().unwrap()[0], 1.0 / 3f64.sqrt());
        let pairs = outputs["norm"]
            .as_floats()
            .unwrap()
            .iter()
            .zip(outputs["all"].as_floats().unwrap());
        pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-15, "{a} {b}"));
    }

    #[test]
    fn a_value_may_be_read_twice_and_inputs_stay_as_they_are() {
        let inputs = BTreeMap::from([("x".to_string(), Value::floats(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]))]);
        let body = "%y = scale factor=10.0 %x : f64[T, 2] %z = add %y, %y : f64[T, 2] %u = add %z, %x : f64[T, 2]
            %flat = reshape %u : f64[2, T] %all = concat axis=1 %x, %u : f64[T, 4]
            output \"flat\" %flat output \"all\" %all output \"z\" %z";
        let outputs = run(body, &inputs);
        assert_eq!(outputs["z"].as_floats().unwrap(), [20.0, 40.0, 60.0, 80.0]);
        assert_eq!(outputs["flat"], Value::floats(&[2, 2], vec![21.0, 42.0, 63.0, 84.0]));
        assert_eq!(
            outputs["all"].as_floats().unwrap(),
            [1.0, 2.0, 21.0, 42.0, 3.0, 4.0, 63.0, 84.0]
        );
        assert_eq!(inputs["x"].as_floats().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}

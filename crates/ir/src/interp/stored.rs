//! The interpreter as a plain implementation: every node's result is rounded to the type that it is stored in.

use super::{InterpError, Value, walk};
use crate::graph::{Graph, Node};
use crate::size::Dims;
use half::{bf16, f16};
use mlafuse_tensor::DType;
use std::collections::BTreeMap;
use std::sync::Arc;

/// As [`interpret`](super::interpret) in f32, but each node's result is rounded to the node's element type before another
/// node reads it: what a framework gets that runs one kernel a node. Its error against f64 is what storage in that type
/// costs, whatever a compiler does. Inputs are taken as they are.
pub fn interpret_stored(
    graph: &Graph,
    dims: &Dims,
    inputs: &BTreeMap<String, Value<f32>>,
) -> Result<BTreeMap<String, Value<f32>>, InterpError> {
    walk(graph, dims, inputs, rounded)
}

fn rounded(node: &Node, value: Value<f32>) -> Value<f32> {
    let round: fn(f32) -> f32 = match node.ty.dtype {
        DType::BF16 => |x| bf16::from_f32(x).to_f32(),
        DType::F16 => |x| f16::from_f32(x).to_f32(),
        _ => return value,
    };
    match value {
        Value::F { shape, mut data } => {
            Arc::make_mut(&mut data).iter_mut().for_each(|x| *x = round(*x));
            Value::F { shape, data }
        }
        ints => ints,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Symbol;
    use crate::text::parse;

    #[test]
    fn each_node_rounds_to_its_own_type() {
        let text = "graph g { %x = input \"x\" : f32[T]
            %b = scale factor=1.0 %x : bf16[T] %h = scale factor=1.0 %x : f16[T] %f = scale factor=1.0 %x : f32[T]
            output \"b\" %b output \"h\" %h output \"f\" %f }";
        let x = 1.0 + 2f32.powi(-12);
        let inputs = BTreeMap::from([("x".to_string(), Value::floats(&[2], vec![x, 1.0 + 2f32.powi(-9)]))]);
        let dims = Dims::new().with(Symbol::T, 2);
        let outputs = interpret_stored(&parse(text).unwrap(), &dims, &inputs).unwrap();
        assert_eq!(outputs["b"].as_floats().unwrap(), [1.0, 1.0]);
        assert_eq!(outputs["h"].as_floats().unwrap(), [1.0, 1.0 + 2f32.powi(-9)]);
        assert_eq!(outputs["f"].as_floats().unwrap()[0], x);
    }
}

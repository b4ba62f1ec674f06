//! The layer as the interpreter computes it: unrewritten, in f32 or f64, whatever the storage types say; or, as a plain
//! implementation, rounding where the graph says that something is stored.

use std::collections::BTreeMap;

use mlafuse_ir::graph::{Graph, Op};
use mlafuse_ir::interp::{InterpError, Real, Value, interpret};
use mlafuse_ir::rope::RopeTable;
use mlafuse_ir::size::Dims;
use mlafuse_tensor::HostTensor;

use crate::Error;
use crate::load::{LoadProgress, Report};
use crate::step::Batch;
use crate::weights::{LayerWeights, constant_shape};

/// The graph and the weights in the interpreter's type.
pub(crate) struct Reference<F> {
    graph: Graph,
    weights: BTreeMap<String, Value<F>>,
    interpret: Interpret<F>,
}

/// The interpreter, one way or another.
type Interpret<F> = fn(&Graph, &Dims, &BTreeMap<String, Value<F>>) -> Result<BTreeMap<String, Value<F>>, InterpError>;

/// A number type of the interpreter, and host tensors of it.
pub(crate) trait Number: Real {
    fn values(tensor: &HostTensor) -> Vec<Self>;
    fn tensor(shape: &[usize], values: &[Self]) -> Result<HostTensor, Error>;
}

impl Number for f32 {
    fn values(tensor: &HostTensor) -> Vec<f32> {
        tensor.to_f32_vec()
    }

    fn tensor(shape: &[usize], values: &[f32]) -> Result<HostTensor, Error> {
        Ok(HostTensor::from_f32(shape, values)?)
    }
}

impl Number for f64 {
    fn values(tensor: &HostTensor) -> Vec<f64> {
        tensor.to_f64_vec()
    }

    fn tensor(shape: &[usize], values: &[f64]) -> Result<HostTensor, Error> {
        Ok(HostTensor::from_f64(shape, values)?)
    }
}

impl<F: Number> Reference<F> {
    pub fn new(graph: Graph, weights: &LayerWeights, report: Report<'_>) -> Result<Reference<F>, Error> {
        let inputs = graph.nodes.iter().filter_map(|node| match &node.op {
            Op::Input { name, constant: true } => Some((name, constant_shape(&node.ty))),
            _ => None,
        });
        let bytes = |shape: &[usize]| shape.iter().product::<usize>() * size_of::<F>();
        let total = inputs.clone().map(|(_, shape)| bytes(&shape)).sum();
        let mut done = 0;
        let mut values = BTreeMap::new();
        for (name, shape) in inputs {
            let tensor = weights.read(name, &shape)?;
            values.insert(name.clone(), Value::floats(&shape, F::values(&tensor)));
            done += bytes(&shape);
            report(LoadProgress {
                weight: name,
                done,
                total,
            });
        }
        Ok(Reference {
            graph,
            weights: values,
            interpret: interpret::<F>,
        })
    }

    /// The same, interpreted another way.
    pub fn interpreted(self, interpret: Interpret<F>) -> Reference<F> {
        Reference { interpret, ..self }
    }

    /// One step: the output \[B, T, d_model\], and the cache with the new rows.
    pub fn step(
        &self,
        batch: &Batch<'_>,
        dims: &Dims,
        rope: &RopeTable,
        cache: &mut Value<F>,
    ) -> Result<HostTensor, Error> {
        let mut inputs = self.weights.clone();
        let mut bind = |name: &str, value| inputs.insert(name.to_string(), value);
        bind("hidden", Value::floats(batch.hidden.shape(), F::values(batch.hidden)));
        let table = |values: &[f32]| {
            let values = values.iter().map(|&x| F::from_f64(x.into())).collect();
            Value::floats(&[rope.positions, rope.d_half], values)
        };
        bind("rope_cos", table(&rope.cos));
        bind("rope_sin", table(&rope.sin));
        bind(
            "block_table",
            Value::ints(
                &[batch.lists.q_len.len(), batch.table_width],
                batch.lists.block_table.clone(),
            ),
        );
        bind(
            "q_len",
            Value::ints(&[batch.lists.q_len.len()], batch.lists.q_len.clone()),
        );
        bind(
            "kv_len",
            Value::ints(&[batch.lists.kv_len.len()], batch.lists.kv_len.clone()),
        );
        bind("cache", cache.clone());
        let mut outputs = (self.interpret)(&self.graph, dims, &inputs)?;
        let out = outputs.remove("out").unwrap_or_else(|| Value::floats(&[0], Vec::new()));
        if let Some(written) = outputs.remove("cache") {
            *cache = written;
        }
        F::tensor(out.shape(), out.as_floats().unwrap_or_default())
    }
}

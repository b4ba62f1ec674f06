//! Loading: a layer's prepared weights, made on a device one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlafuse_ir::graph::{Graph, Node, Op, Ty};
use mlafuse_ir::plan::unfused;
use mlafuse_ir::prepare::{PART, Part, PreparedWeight};
use mlafuse_ir::size::Dims;
use mlafuse_runtime::{Buffer, Device, DeviceSpec, Executable, open};
use mlafuse_tensor::HostTensor;

use crate::Error;
use crate::memory::Place;
use crate::weights::{LayerWeights, constant_shape};

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress<'a> {
    /// The weight that is being made, by its name in the plan: `W_O`, or `W_DKV|W_KR` for two side by side.
    pub weight: &'a str,
    /// Bytes of weights that are in place.
    pub done: usize,
    /// Bytes of all the layer's weights, as they are stored on the device.
    pub total: usize,
}

/// Who is told how far loading has come.
pub(crate) type Report<'a> = &'a mut dyn FnMut(LoadProgress<'_>);

/// Makes `wanted` on `device`, by name.
///
/// Each goes to its place part by part. What is computed is computed on the processor, whatever the device, in f32, and rounded
/// once to the storage type. Beside what is in place there is at no time more in memory than one part: the original weights
/// that it is made of, the newest as the checkpoint stores it, and what is computed from them.
pub(crate) fn load(
    device: &dyn Device,
    wanted: &[PreparedWeight],
    weights: &LayerWeights,
    report: Report<'_>,
) -> Result<BTreeMap<String, Buffer>, Error> {
    let loader = Loader {
        processor: open(DeviceSpec::Cpu)?,
        weights,
    };
    let total = wanted.iter().map(|weight| weight.bytes).sum();
    let mut done = 0;
    let mut buffers = BTreeMap::new();
    for weight in wanted {
        let buffer = device.alloc(&weight.name, weight.bytes)?;
        let (mut offset, stride) = (0, weight.parts.iter().map(|part| part.run).sum());
        for Part { graph, run } in &weight.parts {
            let place = Place {
                device,
                buffer: &buffer,
                offset,
                run: *run,
                stride,
            };
            done += loader.make(graph, &place)?;
            offset += run;
            report(LoadProgress {
                weight: &weight.name,
                done,
                total,
            });
        }
        buffers.insert(weight.name.clone(), buffer);
    }
    Ok(buffers)
}

struct Loader<'a> {
    processor: Arc<dyn Device>,
    weights: &'a LayerWeights,
}

impl Loader<'_> {
    /// Makes a part in its place, and says how many bytes it takes.
    fn make(&self, part: &Graph, place: &Place<'_>) -> Result<usize, Error> {
        if let [
            Node {
                op: Op::Input { name, .. },
                ty,
                ..
            },
        ] = part.nodes.as_slice()
        {
            let tensor = self.read(name, ty)?;
            place.write(&tensor, ty.dtype)?;
            return Ok(tensor.numel() * ty.dtype.size_bytes());
        }
        let made = self.compute(part)?;
        place.copy(self.processor.as_ref(), &made)?;
        Ok(made.len())
    }

    /// A part's value, on the processor.
    fn compute(&self, part: &Graph) -> Result<Buffer, Error> {
        let mut inputs = BTreeMap::new();
        for node in &part.nodes {
            let Op::Input { name, .. } = &node.op else { continue };
            let (tensor, dtype) = (self.read(name, &node.ty)?, node.ty.dtype);
            let buffer = self.processor.alloc(name, tensor.numel() * dtype.size_bytes())?;
            Place::whole(self.processor.as_ref(), &buffer).write(&tensor, dtype)?;
            inputs.insert(name.clone(), buffer);
        }
        let executable = Executable::new(Arc::clone(&self.processor), unfused(part)?, &Dims::new())?;
        let mut run = executable.run(&Dims::new(), &inputs)?;
        run.outputs.remove(PART).ok_or(Error::MissingOutput { name: PART })
    }

    fn read(&self, name: &str, ty: &Ty) -> Result<HostTensor, Error> {
        self.weights.read(name, &constant_shape(ty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::config::MlaConfig;
    use mlafuse_ir::interp::{Value, interpret_stored};
    use mlafuse_ir::prepare::prepare;
    use mlafuse_ir::target::Arch;
    use mlafuse_ir::text::parse;
    use mlafuse_ir::weights::tensors;
    use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
    use mlafuse_tensor::DType;

    /// Side by side along both dimensions, with gains, sums and slices.
    const GRAPH: &str = "graph g {
        %w_dq = weight \"W_DQ\" : bf16[5, 8] %g_q = weight \"g_q\" : bf16[5]
        %w_uq = weight \"W_UQ\" : bf16[2, 3, 5] %w_qr = weight \"W_QR\" : bf16[2, 2, 5]
        %w_dkv = weight \"W_DKV\" : bf16[8, 8] %w_kr = weight \"W_KR\" : bf16[2, 8]
        %down = concat axis=0 %w_dq, %w_dkv : bf16[13, 8] %three = concat axis=0 %down, %w_kr : bf16[15, 8]
        %uq = mul %w_uq, %g_q : bf16[2, 3, 5] %qr = mul %w_qr, %g_q : bf16[2, 2, 5]
        %up = concat axis=1 %uq, %qr : bf16[2, 5, 5]
        %twice = add %w_kr, %w_kr : bf16[2, 8] %half = scale factor=0.3 %twice : bf16[2, 8]
        %left = slice axis=1 start=3 len=5 %w_dkv : bf16[8, 5] %right = slice axis=1 start=0 len=5 %w_dq : bf16[5, 5]
        %mixed = concat axis=0 %left, %right : bf16[13, 5]
        output \"three\" %three output \"up\" %up output \"half\" %half output \"mixed\" %mixed }";

    fn weights() -> LayerWeights {
        let config =
            MlaConfig::from_inline("heads=2,d_model=8,d_latent=8,d_rope=2,d_nope=3,d_v=4,d_q_latent=5").unwrap();
        let specs = tensors(&config).into_iter().enumerate();
        let given = specs.map(|(n, spec)| {
            let values: Vec<f32> = (0..spec.shape.iter().product())
                .map(|i: usize| ((i * 37 + n * 11) % 101) as f32 * 0.013 - 0.6)
                .collect();
            let tensor = HostTensor::from_f32(&spec.shape, &values).unwrap();
            (spec.suffix.to_string(), tensor)
        });
        LayerWeights::from_tensors(&config, &given.collect()).unwrap()
    }

    /// What the graph's outputs are, with weights and results rounded to their storage types once.
    fn expected(graph: &Graph, weights: &LayerWeights) -> BTreeMap<String, Value<f32>> {
        let given = graph.nodes.iter().filter_map(|node| match &node.op {
            Op::Input { name, .. } => Some((name.clone(), constant_shape(&node.ty))),
            _ => None,
        });
        let inputs = given.map(|(name, shape)| {
            let stored = weights.read(&name, &shape).unwrap().to_dtype(DType::BF16);
            (name, Value::floats(&shape, stored.to_f32_vec()))
        });
        interpret_stored(graph, &Dims::new(), &inputs.collect()).unwrap()
    }

    fn check(device: &dyn Device) {
        let (graph, weights) = (parse(GRAPH).unwrap(), weights());
        let prepared = prepare(&graph).unwrap();
        let mut told = Vec::new();
        let mut report = |at: LoadProgress<'_>| told.push((at.weight.to_string(), at.done, at.total));
        let buffers = load(device, &prepared.weights, &weights, &mut report).unwrap();
        let expected = expected(&graph, &weights);
        for ((output, _), weight) in prepared.graph.outputs.iter().zip(&prepared.weights) {
            let mut bytes = vec![0; weight.bytes];
            device.read(&buffers[&weight.name], 0, &mut bytes).unwrap();
            let found = HostTensor::from_bytes(DType::BF16, &constant_shape(&weight.ty), &bytes).unwrap();
            assert_eq!(found.to_f32_vec(), expected[output].as_floats().unwrap(), "{output}");
        }
        let expected = [
            ("W_DQ|W_DKV|W_KR", 80),
            ("W_DQ|W_DKV|W_KR", 208),
            ("W_DQ|W_DKV|W_KR", 240),
            ("W_UQ*g_q|W_QR*g_q", 300),
            ("W_UQ*g_q|W_QR*g_q", 340),
            ("W_KR*W_KR", 372),
            ("W_DKV|W_DQ", 452),
            ("W_DKV|W_DQ", 502),
        ];
        assert_eq!(told, expected.map(|(name, done)| (name.to_string(), done, 502)));
    }

    #[test]
    fn weights_are_computed_and_put_side_by_side() {
        check(open(DeviceSpec::Cpu).unwrap().as_ref());
        if nvrtc_or_skip().is_some() {
            check(open(DeviceSpec::sim(Arch::Sm80)).unwrap().as_ref());
        }
    }
}

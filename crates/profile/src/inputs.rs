//! Random memory for the buffers of a plan: weights, new tokens, a cache that holds its tokens already, results of kernels before.

use std::collections::BTreeMap;

use mlafuse_ir::plan::{self, BufferRole, Plan};
use mlafuse_ir::size::{Dim, Dims, Symbol};
use mlafuse_runtime::{Buffer, Device};
use mlafuse_tensor::HostTensor;

use crate::ProfileError;

/// Elements that are made at a time: weights can be large, and f32 copies of them larger.
const CHUNK: usize = 1 << 16;

/// A buffer for each input of `plan`, by name, in launches of the sizes in `dims`: the same for the same `dims`. Every sequence
/// has `S` tokens, `T` of them new, on pages in random order; the pages are filled, so that no prefill need be computed.
///
/// # Errors
/// Where a size is unknown, memory does not suffice, or an integer input is not known.
pub fn random_inputs(device: &dyn Device, plan: &Plan, dims: &Dims) -> Result<BTreeMap<String, Buffer>, ProfileError> {
    let _span = tracing::info_span!("inputs", graph = %plan.graph.name).entered();
    let mut inputs = BTreeMap::new();
    for buffer in &plan.buffers {
        if let BufferRole::Input(name) = &buffer.role {
            inputs.insert(name.clone(), random_buffer(device, buffer, dims)?);
        }
    }
    Ok(inputs)
}

/// Memory for one buffer of a plan, as [`random_inputs`] makes it; for one between kernels as if a kernel had filled it.
///
/// # Errors
/// As [`random_inputs`].
pub fn random_buffer(device: &dyn Device, buffer: &plan::Buffer, dims: &Dims) -> Result<Buffer, ProfileError> {
    match &buffer.role {
        _ if buffer.dtype.is_float() => floats(device, buffer, dims),
        BufferRole::Input(name) => integers(device, name, buffer, dims),
        BufferRole::Output(_) | BufferRole::Temp => integers(device, &buffer.name, buffer, dims),
    }
}

fn floats(device: &dyn Device, buffer: &plan::Buffer, dims: &Dims) -> Result<Buffer, ProfileError> {
    let size = buffer.dtype.size_bytes();
    let count = buffer.bytes(dims)? / size;
    let memory = device.alloc(&buffer.name, count * size)?;
    let (mut random, range) = (Random::new(&buffer.name), range(&buffer.shape));
    for start in (0..count).step_by(CHUNK) {
        let values: Vec<f32> = (start..count.min(start + CHUNK))
            .map(|_| random.uniform() * range)
            .collect();
        let values = HostTensor::from_f32(&[values.len()], &values)?.to_dtype(buffer.dtype);
        device.write(&memory, start * size, values.bytes())?;
    }
    Ok(memory)
}

/// The largest magnitude: variance 1, and 1/columns in a matrix of weights, so that values stay about as large from one
/// contraction to the next.
fn range(shape: &[Dim]) -> f32 {
    let fixed: Option<Vec<usize>> = shape
        .iter()
        .map(|dim| match dim {
            Dim::Const(n) => Some(*n),
            Dim::Sym(_) => None,
        })
        .collect();
    let variance = match fixed.as_deref() {
        Some([_, .., columns]) => 1.0 / (*columns).max(1) as f32,
        _ => 1.0,
    };
    (3.0 * variance).sqrt()
}

fn integers(device: &dyn Device, name: &str, buffer: &plan::Buffer, dims: &Dims) -> Result<Buffer, ProfileError> {
    let count = buffer.bytes(dims)? / buffer.dtype.size_bytes();
    let repeated = |symbol: Symbol| vec![dims.get(symbol).unwrap_or(0); count];
    let values = match name {
        "q_len" => repeated(Symbol::T),
        "kv_len" => repeated(Symbol::S),
        "block_table" => pages(count, dims.get(Symbol::N).unwrap_or(0)),
        _ => return Err(ProfileError::UnknownInput { name: name.to_string() }),
    };
    let values: Vec<i32> = values
        .into_iter()
        .map(|value| i32::try_from(value).unwrap_or(i32::MAX))
        .collect();
    let tensor = HostTensor::from_i32(&[count], &values)?.to_dtype(buffer.dtype);
    let memory = device.alloc(&buffer.name, tensor.bytes().len())?;
    device.write(&memory, 0, tensor.bytes())?;
    Ok(memory)
}

/// `count` of the cache's pages in random order, each once (Fisher and Yates).
fn pages(count: usize, all: usize) -> Vec<usize> {
    let mut random = Random::new("pages");
    let mut order: Vec<usize> = (0..all).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
    order.truncate(count);
    order
}

/// Even random numbers: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for each name (FNV-1a).
    pub fn new(name: &str) -> Random {
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::unfused;
    use mlafuse_ir::text::parse;
    use mlafuse_runtime::{DeviceSpec, open};

    #[test]
    fn pages_are_a_permutation() {
        let mut table = pages(100, 100);
        assert_ne!(table, (0..100).collect::<Vec<_>>());
        table.sort_unstable();
        assert_eq!(table, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mut random = Random::new("x");
        let values: Vec<f32> = (0..10_000).map(|_| random.uniform()).collect();
        let mean = values.iter().sum::<f32>() / 1e4;
        let square = values.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(
            mean.abs() < 0.02 && (square - 1.0 / 3.0).abs() < 0.01,
            "{mean} {square}"
        );
        assert!(values.iter().all(|x| (-1.0..1.0).contains(x)));
    }

    #[test]
    fn every_input_has_its_memory() {
        let text = "graph g { %x = input \"x\" : bf16[T, 70000] %w = input \"w\" : bf16[3, 70000]
            %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 3] output \"y\" %y }";
        let plan = unfused(&parse(text).unwrap()).unwrap();
        let device = open(DeviceSpec::Cpu).unwrap();
        let inputs = random_inputs(device.as_ref(), &plan, &Dims::new().with(Symbol::T, 2)).unwrap();
        assert_eq!((inputs["x"].len(), inputs["w"].len()), (280_000, 420_000));
        let mut last = [0; 2];
        device.read(&inputs["x"], 279_998, &mut last).unwrap();
        assert_ne!(last, [0; 2]);
        assert!(random_inputs(device.as_ref(), &plan, &Dims::new()).is_err());
    }
}

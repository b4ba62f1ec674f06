//! What the benchmarks share: attention cores with their inputs in a device's memory, and the simulator's counters.

pub mod counters;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use mlafuse::{AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor, launch_dims};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_runtime::{Buffer, Device, Executable, open};

/// Tokens in a cache page.
pub const PAGE_SIZE: usize = 64;

/// DeepSeek-V3's attention core with `n_heads` heads, in bf16.
pub fn shape(n_heads: usize) -> AttentionShape {
    let (d_latent, d_rope, d_nope) = (512, 64, 128);
    let softmax_scale = ((d_nope + d_rope) as f64).powf(-0.5);
    AttentionShape {
        n_heads,
        d_latent,
        d_rope,
        dtype: DType::BF16,
        page_size: PAGE_SIZE,
        softmax_scale,
    }
}

/// An attention core on the CPU device, one new token a sequence, everything it reads already there.
pub struct Core {
    executable: Executable,
    dims: Dims,
    inputs: BTreeMap<String, Buffer>,
    /// Floating-point operations of one run: 2 · B · H · S · (d_latent + d_rope + d_latent).
    pub flops: u64,
}

impl Core {
    /// `sequences` sequences of `cached` tokens each, with made-up values.
    pub fn new(shape: AttentionShape, sequences: usize, cached: usize) -> Result<Core, Box<dyn Error>> {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            page_size,
            ..
        } = shape;
        let attention = DecodeAttention::new(shape, DeviceSpec::Cpu)?;
        let device = open(DeviceSpec::Cpu)?;
        let row = d_latent + d_rope;
        let pages = cached.div_ceil(page_size);
        let dims = launch_dims(sequences, 1, cached, page_size)
            .with(Symbol::R, row)
            .with(Symbol::G, row * page_size);
        let ints = |values: Vec<i32>| HostTensor::from_i32(&[values.len()], &values);
        let tensors = [
            ("q_latent", wave(&[sequences, 1, n_heads, d_latent], dtype)?),
            ("q_pe", wave(&[sequences, 1, n_heads, d_rope], dtype)?),
            ("cache", wave(&[sequences * pages, page_size, row], dtype)?),
            ("block_table", ints((0..(sequences * pages) as i32).collect())?),
            ("q_len", ints(vec![1; sequences])?),
            ("kv_len", ints(vec![cached as i32; sequences])?),
        ];
        let inputs = tensors
            .iter()
            .map(|(name, tensor)| Ok((name.to_string(), upload(device.as_ref(), name, tensor)?)))
            .collect::<Result<_, Box<dyn Error>>>()?;
        let executable = Executable::new(Arc::clone(&device), attention.plan().clone(), &dims)?;
        let flops = 2 * (sequences * n_heads * cached * (row + d_latent)) as u64;
        Ok(Core {
            executable,
            dims,
            inputs,
            flops,
        })
    }

    /// Runs attention and combine once.
    pub fn run(&self) -> Result<(), Box<dyn Error>> {
        self.executable.run(&self.dims, &self.inputs)?;
        Ok(())
    }
}

fn upload(device: &dyn Device, name: &str, tensor: &HostTensor) -> Result<Buffer, Box<dyn Error>> {
    let buffer = device.alloc(name, tensor.bytes().len())?;
    device.write(&buffer, 0, tensor.bytes())?;
    Ok(buffer)
}

/// Values between -1 and 1 that repeat nowhere near.
fn wave(shape: &[usize], dtype: DType) -> Result<HostTensor, Box<dyn Error>> {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| (i as f32 * 0.618).sin())
        .collect();
    Ok(HostTensor::from_f32(shape, &values)?.to_dtype(dtype))
}

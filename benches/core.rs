//! An attention core on the CPU device, one new token a sequence, everything it reads already in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use mlafuse::{AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor, launch_dims};
use mlafuse_ir::size::Dims;
use mlafuse_profile::random_inputs;
use mlafuse_runtime::{Buffer, Device, Executable, open};
use mlafuse_tensor::write_safetensors;
use serde_json::{Value, json};

use crate::work::{Subject, Work};

/// Tokens in a cache page.
pub const PAGE_SIZE: usize = 64;

/// DeepSeek-V3's attention core with `n_heads` heads.
pub fn shape(n_heads: usize, dtype: DType) -> AttentionShape {
    let (d_latent, d_rope, d_nope) = (512, 64, 128);
    let softmax_scale = ((d_nope + d_rope) as f64).powf(-0.5);
    AttentionShape {
        n_heads,
        d_latent,
        d_rope,
        dtype,
        page_size: PAGE_SIZE,
        softmax_scale,
    }
}

/// Attention and combine, with their inputs.
pub struct Core {
    shape: AttentionShape,
    sequences: usize,
    cached: usize,
    device: Arc<dyn Device>,
    executable: Executable,
    dims: Dims,
    inputs: BTreeMap<String, Buffer>,
}

impl Core {
    /// `sequences` sequences of `cached` tokens each, with made-up values, on pages in random order.
    ///
    /// # Errors
    /// Where there is not memory enough.
    pub fn new(shape: AttentionShape, sequences: usize, cached: usize) -> Result<Core> {
        let attention = DecodeAttention::new(shape, DeviceSpec::Cpu)?;
        let device = open(DeviceSpec::Cpu)?;
        let row = shape.d_latent + shape.d_rope;
        let dims = launch_dims(sequences, 1, cached, shape.page_size).with_cache_strides(row, shape.page_size);
        let inputs = random_inputs(device.as_ref(), attention.plan(), &dims)?;
        let executable = Executable::new(Arc::clone(&device), attention.plan().clone(), &dims)?;
        Ok(Core {
            shape,
            sequences,
            cached,
            device,
            executable,
            dims,
            inputs,
        })
    }

    /// The first bytes of a buffer as a tensor.
    fn tensor(&self, buffer: &Buffer, dtype: DType, shape: &[usize]) -> Result<HostTensor> {
        let mut tensor = HostTensor::zeros(dtype, shape)?;
        self.device.read(buffer, 0, tensor.bytes_mut())?;
        Ok(tensor)
    }
}

impl Subject for Core {
    fn run(&mut self) -> Result<()> {
        self.executable.run(&self.dims, &self.inputs)?;
        Ok(())
    }

    fn output(&mut self) -> Result<HostTensor> {
        let run = self.executable.run(&self.dims, &self.inputs)?;
        let out = run.outputs.get("out").context("the core has no output `out`")?;
        let shape = [self.sequences, self.shape.n_heads, self.shape.d_latent];
        Ok(self.tensor(out, self.shape.dtype, &shape)?.to_dtype(DType::F32))
    }

    fn work(&self) -> Result<Work> {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            ..
        } = self.shape;
        let row = d_latent + d_rope;
        let (rows, queries) = (self.sequences * self.cached, self.sequences * n_heads);
        Ok(Work {
            flops: 2 * (queries * self.cached * (row + d_latent)) as u64,
            bytes: ((rows * row + queries * (row + d_latent)) * dtype.size_bytes()) as u64,
            dtype,
        })
    }

    fn save(&self, inputs: &Path) -> Result<Value> {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            page_size,
            softmax_scale,
        } = self.shape;
        let (sequences, pages) = (self.sequences, self.cached.div_ceil(self.shape.page_size));
        let shapes = [
            ("q_latent", dtype, vec![sequences, 1, n_heads, d_latent]),
            ("q_pe", dtype, vec![sequences, 1, n_heads, d_rope]),
            ("cache", dtype, vec![sequences * pages, page_size, d_latent + d_rope]),
            ("block_table", DType::I32, vec![sequences, pages]),
        ];
        let tensors = shapes.iter().map(|(name, dtype, shape)| {
            let buffer = self
                .inputs
                .get(*name)
                .with_context(|| format!("the core has no input `{name}`"))?;
            Ok((*name, self.tensor(buffer, *dtype, shape)?))
        });
        write_safetensors(inputs, &tensors.collect::<Result<Vec<_>>>()?)?;
        Ok(json!({ "scale": softmax_scale, "d_latent": d_latent, "cached": self.cached }))
    }
}

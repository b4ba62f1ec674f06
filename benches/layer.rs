//! A whole attention layer on the CPU device, through the interface that users have.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use mlafuse::config::MlaConfig;
use mlafuse::{
    DType, DeviceSpec, HostTensor, LayerOptions, LayerWeights, MlaLayer, PagedKvCache, PlanKind, PreparedLayer,
    checkpoint_tensors, launch_dims, layer_graph, machine_of,
};
use mlafuse_ir::presets::preset;
use mlafuse_profile::{Random, kernel_work};
use mlafuse_runtime::{open, with_splits};
use mlafuse_tensor::write_safetensors;
use serde_json::{Value, json};

use crate::work::{Subject, Work};

/// Decode steps, each of which adds a token, until the prompt is prefilled anew.
const ROOM: usize = 1024;

/// A layer of one sequence in bf16: either a prefill of an empty cache, or decode steps, each with one token more than that before.
pub struct Layer {
    layer: MlaLayer,
    cache: PagedKvCache,
    tensors: BTreeMap<String, HostTensor>,
    /// What was cached before the first run.
    prompt: Option<HostTensor>,
    hidden: HostTensor,
}

impl Layer {
    /// Decode steps of the named model's layer; the first has `cached` tokens, its own included.
    ///
    /// # Errors
    /// Where there is no such preset, or not memory enough.
    pub fn decode(model: &str, cached: usize) -> Result<Layer> {
        Layer::new(model, cached.saturating_sub(1), 1)
    }

    /// Prefills of `tokens` tokens.
    ///
    /// # Errors
    /// As [`Layer::decode`].
    pub fn prefill(model: &str, tokens: usize) -> Result<Layer> {
        Layer::new(model, 0, tokens)
    }

    fn new(model: &str, before: usize, tokens: usize) -> Result<Layer> {
        let config = preset(model)?;
        let tensors = weights(&config)?;
        let loaded = LayerWeights::from_tensors(&config, &tensors)?;
        let layer = MlaLayer::new(&loaded, &config, LayerOptions::default())?;
        let room = if before > 0 { ROOM } else { tokens };
        let cache = layer.new_cache(1, before + room)?;
        let states = |name, count| random(name, &[1, count, config.d_model], 3f32.sqrt());
        let prompt = (before > 0).then(|| states("prompt", before)).transpose()?;
        let mut layer = Layer {
            hidden: states("hidden", tokens)?,
            layer,
            cache,
            tensors,
            prompt,
        };
        layer.begin()?;
        Ok(layer)
    }

    fn step(&mut self) -> Result<HostTensor> {
        let (before, new) = self.tokens();
        if before == 0 || self.cache.len(0) >= Some(before + ROOM) {
            self.begin()?;
        }
        Ok(self.layer.step(&mut self.cache, &self.hidden, &[new])?.out)
    }

    /// Leaves the prompt alone in the cache.
    fn begin(&mut self) -> Result<()> {
        self.cache.release(0)?;
        if let Some(prompt) = &self.prompt {
            self.layer.step(&mut self.cache, prompt, &[prompt.shape()[1]])?;
        }
        Ok(())
    }

    /// Tokens cached before the first run, and new ones.
    fn tokens(&self) -> (usize, usize) {
        let count = |states: &HostTensor| states.shape()[1];
        (self.prompt.as_ref().map_or(0, count), count(&self.hidden))
    }

    /// Operations of the contractions of the fused plan.
    fn flops(&self) -> Result<u64> {
        let (config, LayerOptions { dtype, page_size, .. }) = (self.layer.config(), *self.layer.options());
        let device = open(DeviceSpec::Cpu)?;
        let graph = layer_graph(config, dtype, page_size)?;
        let (before, new) = self.tokens();
        let dims = launch_dims(1, new, before + new, page_size).with_cache_strides(self.cache.row_stride(), page_size);
        let prepared = PreparedLayer::new(&graph, &machine_of(device.as_ref(), dtype), None)?;
        let plan = prepared.plan(PlanKind::Fused, &dims)?.plan;
        let dims = with_splits(&dims, device.as_ref());
        let kernels = plan
            .kernels
            .iter()
            .map(|region| Ok(kernel_work(&plan, region, &dims)?.flops));
        kernels.sum()
    }
}

/// Elements that are made at a time.
const CHUNK: usize = 1 << 16;

/// Values up to `range`, the same for the same name, in bf16.
fn random(name: &str, shape: &[usize], range: f32) -> Result<HostTensor> {
    let mut random = Random::new(name);
    let mut tensor = HostTensor::zeros(DType::BF16, shape)?;
    for chunk in tensor.bytes_mut().chunks_mut(CHUNK * DType::BF16.size_bytes()) {
        let count = chunk.len() / DType::BF16.size_bytes();
        let values: Vec<f32> = (0..count).map(|_| random.uniform() * range).collect();
        chunk.copy_from_slice(HostTensor::from_f32(&[count], &values)?.to_dtype(DType::BF16).bytes());
    }
    Ok(tensor)
}

/// A checkpoint's tensors with values such that no layer's outputs grow or vanish.
fn weights(config: &MlaConfig) -> Result<BTreeMap<String, HostTensor>> {
    let tensors = checkpoint_tensors(config).into_iter().map(|spec| {
        let columns = match spec.shape.as_slice() {
            [_, columns] => *columns,
            _ => 1,
        };
        let tensor = random(spec.suffix, &spec.shape, (3.0 / columns as f32).sqrt())?;
        Ok((spec.suffix.to_string(), tensor))
    });
    tensors.collect()
}

impl Subject for Layer {
    fn run(&mut self) -> Result<()> {
        self.step().map(drop)
    }

    fn output(&mut self) -> Result<HostTensor> {
        self.step()
    }

    fn work(&self) -> Result<Work> {
        let (before, new) = self.tokens();
        let config = self.layer.config();
        let elements = self.tensors.values().map(HostTensor::numel).sum::<usize>()
            + (before + new) * config.cache_row_elems()
            + 2 * new * config.d_model;
        Ok(Work {
            flops: self.flops()?,
            bytes: (elements * DType::BF16.size_bytes()) as u64,
            dtype: DType::BF16,
        })
    }

    fn save(&self, inputs: &Path) -> Result<Value> {
        let states = [("prompt", self.prompt.as_ref()), ("hidden", Some(&self.hidden))];
        let states = states
            .into_iter()
            .filter_map(|(name, tensor)| Some((name, tensor?.clone())));
        let weights = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()));
        write_safetensors(inputs, &weights.chain(states).collect::<Vec<_>>()).context("the layer's inputs")?;
        Ok(json!({ "config": self.layer.config().to_checkpoint_json() }))
    }
}

//! Fused Multi-head Latent Attention for any shape: MlaLayer, PagedKvCache, DecodeAttention.
//!
//! [`MlaLayer`] is an attention layer of a checkpoint with its cache, [`DecodeAttention`] the attention core alone.
//! [`layer_graph`], [`PreparedLayer`] and [`plan_for`] are the way from a config to kernels, for those who want to see or compile them.
//!
//! ```
//! use std::collections::BTreeMap;
//! use mlafuse::config::MlaConfig;
//! use mlafuse::{HostTensor, LayerOptions, LayerWeights, MlaLayer, checkpoint_tensors};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = MlaConfig::from_inline("heads=3,d_model=24,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=12")?;
//! // Made-up weights; `MlaLayer::load` reads those of a checkpoint.
//! let wave = |shape: &[usize]| {
//!     let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin() * 0.3).collect();
//!     HostTensor::from_f32(shape, &values)
//! };
//! let mut tensors = BTreeMap::new();
//! for spec in checkpoint_tensors(&config) {
//!     tensors.insert(spec.suffix.to_string(), wave(&spec.shape)?);
//! }
//! let weights = LayerWeights::from_tensors(&config, &tensors)?;
//! let layer = MlaLayer::new(&weights, &config, LayerOptions::default())?;
//!
//! // Two sequences, of 5 and 3 tokens, then one token more each.
//! let mut cache = layer.new_cache(2, 64)?;
//! let prefill = layer.step(&mut cache, &wave(&[2, 5, 24])?, &[5, 3])?;
//! assert_eq!(prefill.out.shape(), [2, 5, 24]);
//! let decode = layer.step(&mut cache, &wave(&[2, 1, 24])?, &[1, 1])?;
//! assert_eq!((cache.len(0), cache.len(1)), (Some(6), Some(4)));
//! assert!(decode.out.to_f32_vec().iter().all(|x| x.is_finite()));
//! # Ok(())
//! # }
//! ```

mod attention;
mod cache;
mod error;
mod fusion;
mod layer;
mod load;
mod memory;
mod on_device;
mod pages;
mod plan;
mod reference;
mod step;
mod weights;

pub use attention::{AttentionInputs, AttentionOutput, AttentionShape, DecodeAttention};
pub use cache::PagedKvCache;
pub use error::Error;
pub use layer::{LayerOptions, MlaLayer};
pub use load::LoadProgress;
pub use plan::{
    LayerPlan, PlanKind, PreparedLayer, UnknownPlan, launch_dims, layer_graph, machine, machine_of, plan_for,
};
pub use step::Step;
pub use weights::LayerWeights;

pub use mlafuse_ir::config;
pub use mlafuse_ir::weights::{default_prefix, tensors as checkpoint_tensors};
pub use mlafuse_runtime::{Counters, DeviceSpec, KernelTime, RuntimeError, Splits, Statistics, UnknownSplits};
pub use mlafuse_tensor::{Checkpoint, DType, HostTensor};
pub use mlafuse_tune::Records as TuningRecords;

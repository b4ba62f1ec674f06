//! The weights of one attention layer, by the paper's names.

use std::collections::BTreeMap;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::weights::{Part, Role, WeightSpec, parts, tensors};
use mlafuse_tensor::{Checkpoint, HostTensor};

use crate::Error;

/// The paper's matrices, norm gains and biases of one attention layer, checked against its config.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    by_paper_name: BTreeMap<&'static str, HostTensor>,
}

impl LayerWeights {
    /// Reads the layer at `prefix` (as `model.layers.0.self_attn`) of a checkpoint.
    ///
    /// # Errors
    /// Where a tensor is missing, has another shape than `config` says, or holds integers.
    pub fn load(checkpoint: &Checkpoint, prefix: &str, config: &MlaConfig) -> Result<LayerWeights, Error> {
        let _span = tracing::info_span!("load", prefix).entered();
        LayerWeights::new(config, |spec| {
            let name = format!("{prefix}.{}", spec.suffix);
            let tensor = checkpoint.tensor_shaped(&name, &spec.shape)?;
            is_float(name, tensor)
        })
    }

    /// From tensors as a checkpoint stores them: by the name after the layer's prefix, as `kv_b_proj.weight`, in the
    /// shapes of [`mlafuse_ir::weights::tensors`].
    ///
    /// # Errors
    /// As [`LayerWeights::load`].
    pub fn from_tensors(config: &MlaConfig, given: &BTreeMap<String, HostTensor>) -> Result<LayerWeights, Error> {
        LayerWeights::new(config, |spec| {
            let name = spec.suffix.to_string();
            let tensor = given.get(spec.suffix).ok_or_else(|| Error::MissingWeight {
                name: name.clone(),
                shape: spec.shape.clone(),
            })?;
            if tensor.shape() != spec.shape {
                let found = tensor.shape().to_vec();
                return Err(Error::WeightShape {
                    name,
                    expected: spec.shape.clone(),
                    found,
                });
            }
            is_float(name, tensor.clone())
        })
    }

    fn new(
        config: &MlaConfig,
        mut read: impl FnMut(&WeightSpec) -> Result<HostTensor, Error>,
    ) -> Result<LayerWeights, Error> {
        let mut stored: BTreeMap<Role, HostTensor> = BTreeMap::new();
        for spec in tensors(config) {
            stored.insert(spec.role, read(&spec)?);
        }
        let mut by_paper_name = BTreeMap::new();
        for part in parts(config) {
            if let Some(tensor) = stored.get(&part.from) {
                by_paper_name.insert(part.paper, take(tensor, &part)?);
            }
        }
        Ok(LayerWeights { by_paper_name })
    }

    /// Each weight with its paper name (`W_UK`), in the shape of the layer graph's input of that name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &HostTensor)> {
        self.by_paper_name.iter().map(|(name, tensor)| (*name, tensor))
    }
}

fn is_float(name: String, tensor: HostTensor) -> Result<HostTensor, Error> {
    match tensor.dtype().is_float() {
        true => Ok(tensor),
        false => Err(Error::WeightType {
            name,
            found: tensor.dtype(),
        }),
    }
}

/// The rows of a checkpoint's tensor that are one of the paper's matrices.
fn take(tensor: &HostTensor, part: &Part) -> Result<HostTensor, Error> {
    let grouped = tensor.reshape(&[part.heads, part.rows_per_head, part.cols])?;
    let rows = if part.rows == (0..part.rows_per_head) {
        grouped
    } else {
        grouped.slice_axis(1, part.rows.clone())?
    };
    Ok(rows.reshape(&part.shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_tensor::DType;

    fn given(config: &MlaConfig) -> BTreeMap<String, HostTensor> {
        let counted = |spec: WeightSpec| {
            let values: Vec<f32> = (0..spec.shape.iter().product::<usize>()).map(|i| i as f32).collect();
            (
                spec.suffix.to_string(),
                HostTensor::from_f32(&spec.shape, &values).unwrap(),
            )
        };
        tensors(config).into_iter().map(counted).collect()
    }

    fn config() -> MlaConfig {
        MlaConfig::from_inline("heads=2,d_model=8,d_latent=8,d_rope=2,d_nope=3,d_v=4,d_q_latent=5").unwrap()
    }

    #[test]
    fn per_head_rows_go_to_keys_and_values() {
        let config = config();
        let weights = LayerWeights::from_tensors(&config, &given(&config)).unwrap();
        let of = |name: &str| weights.iter().find(|(paper, _)| *paper == name).unwrap().1.clone();
        // kv_b_proj has 3 rows of keys, then 4 of values, for each of 2 heads, 8 wide.
        assert_eq!(of("W_UK").shape(), [2, 3, 8]);
        assert_eq!(of("W_UV").shape(), [2, 4, 8]);
        assert_eq!(of("W_UV").to_f32_vec()[0], 24.0);
        assert_eq!(of("W_UK").to_f32_vec()[24], 56.0);
        assert_eq!(of("W_KR").to_f32_vec()[0], 64.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let config = config();
        let mut tensors = given(&config);
        tensors.insert("o_proj.weight".into(), HostTensor::zeros(DType::F32, &[8, 7]).unwrap());
        let error = LayerWeights::from_tensors(&config, &tensors).unwrap_err().to_string();
        assert_eq!(error, "weight o_proj.weight: expected shape [8, 8], got [8, 7]");
        tensors.insert("o_proj.weight".into(), HostTensor::zeros(DType::I64, &[8, 8]).unwrap());
        let error = LayerWeights::from_tensors(&config, &tensors).unwrap_err().to_string();
        assert_eq!(
            error,
            "weight o_proj.weight has element type i64; allowed: f64, f32, f16, bf16"
        );
        tensors.remove("o_proj.weight");
        let error = LayerWeights::from_tensors(&config, &tensors).unwrap_err().to_string();
        assert_eq!(error, "weight o_proj.weight is missing; expected shape [8, 8]");
    }
}

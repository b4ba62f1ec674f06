//! The weights of one attention layer, by the paper's names.

use std::collections::BTreeMap;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Ty;
use mlafuse_ir::size::Dims;
use mlafuse_ir::weights::{Part, Role, WeightSpec, parts, tensors};
use mlafuse_tensor::{Checkpoint, DType, HostTensor, StoredTensor};

use crate::Error;

/// The paper's matrices, norm gains and biases of one attention layer, checked against its config. Those of a checkpoint stay
/// in its files until they are read, one at a time.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    by_paper_name: BTreeMap<&'static str, Weight>,
}

/// One of the paper's matrices, and the tensor it lies in.
#[derive(Clone, Debug)]
struct Weight {
    part: Part,
    from: Source,
}

#[derive(Clone, Debug)]
enum Source {
    File(StoredTensor),
    Memory(HostTensor),
}

impl LayerWeights {
    /// The layer at `prefix` (as `model.layers.0.self_attn`) of a checkpoint. Its files are mapped and their headers checked;
    /// nothing else is read yet.
    ///
    /// # Errors
    /// Where a tensor is missing, has another shape than `config` says, or holds integers.
    pub fn load(checkpoint: &Checkpoint, prefix: &str, config: &MlaConfig) -> Result<LayerWeights, Error> {
        LayerWeights::new(config, |spec| {
            let name = format!("{prefix}.{}", spec.suffix);
            let tensor = checkpoint.stored_shaped(&name, &spec.shape)?;
            check_float(name, tensor.dtype())?;
            Ok(Source::File(tensor))
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
            check_float(name, tensor.dtype())?;
            Ok(Source::Memory(tensor.clone()))
        })
    }

    fn new(
        config: &MlaConfig,
        mut find: impl FnMut(&WeightSpec) -> Result<Source, Error>,
    ) -> Result<LayerWeights, Error> {
        let mut found: BTreeMap<Role, Source> = BTreeMap::new();
        for spec in tensors(config) {
            found.insert(spec.role, find(&spec)?);
        }
        let weights = parts(config).into_iter().filter_map(|part| {
            let from = found.get(&part.from)?.clone();
            Some((part.paper, Weight { part, from }))
        });
        Ok(LayerWeights {
            by_paper_name: weights.collect(),
        })
    }

    /// The weight of this paper name (`W_UK`), which must have this shape, that of the layer graph's input of the name; in the
    /// type that it is stored in.
    ///
    /// # Errors
    /// [`Error::MissingWeight`] and [`Error::WeightShape`], where these are another config's weights; where the weight cannot
    /// be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<HostTensor, Error> {
        let weight = self.by_paper_name.get(name).ok_or_else(|| Error::MissingWeight {
            name: name.to_string(),
            shape: shape.to_vec(),
        })?;
        if weight.part.shape != shape {
            return Err(Error::WeightShape {
                name: name.to_string(),
                expected: shape.to_vec(),
                found: weight.part.shape.clone(),
            });
        }
        match &weight.from {
            Source::File(stored) => take(&stored.read()?, &weight.part),
            Source::Memory(tensor) => take(tensor, &weight.part),
        }
    }
}

/// The shape of a weight in a graph.
pub(crate) fn constant_shape(ty: &Ty) -> Vec<usize> {
    let none = Dims::new();
    ty.shape.iter().filter_map(|dim| dim.value(&none)).collect()
}

fn check_float(name: String, found: DType) -> Result<(), Error> {
    match found.is_float() {
        true => Ok(()),
        false => Err(Error::WeightType { name, found }),
    }
}

/// The rows of a checkpoint's tensor that are one of the paper's matrices: a copy where they lie apart.
fn take(tensor: &HostTensor, part: &Part) -> Result<HostTensor, Error> {
    let rows = if part.heads == 1 || part.rows == (0..part.rows_per_head) {
        let first = part.rows.start..part.rows.start + part.heads * part.rows.len();
        tensor
            .reshape(&[part.heads * part.rows_per_head, part.cols])?
            .slice_outer(first)?
    } else {
        tensor
            .reshape(&[part.heads, part.rows_per_head, part.cols])?
            .slice_axis(1, part.rows.clone())?
    };
    Ok(rows.reshape(&part.shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let of = |name: &str, shape: &[usize]| weights.read(name, shape).unwrap().to_f32_vec();
        // kv_b_proj has 3 rows of keys, then 4 of values, for each of 2 heads, 8 wide.
        assert_eq!(of("W_UV", &[2, 4, 8])[0], 24.0);
        assert_eq!(of("W_UK", &[2, 3, 8])[24], 56.0);
        assert_eq!(of("W_KR", &[2, 8])[0], 64.0);
        assert_eq!(of("W_O", &[8, 2, 4])[63], 63.0);
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
        let weights = LayerWeights::from_tensors(&config, &given(&config)).unwrap();
        let error = weights.read("W_O", &[8, 8]).unwrap_err().to_string();
        assert_eq!(error, "weight W_O: expected shape [8, 8], got [8, 2, 4]");
        let error = weights.read("b_O", &[8]).unwrap_err().to_string();
        assert_eq!(error, "weight b_O is missing; expected shape [8]");
    }
}

//! The exact tensor-core mode against dot products recorded on GPUs.
//!
//! A file holds sets of four f32 tensors: `NAME.TYPE.a` and `.b` \[rows, k\], `.c` and `.d` \[rows\], with d = a·b + c; TYPE is
//! `bf16` or `fp16`. k = 8 was recorded on Ampere or Ada tensor cores, k = 16 on Hopper's or Blackwell's.

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::numeric::half_ops::{f16_from_f32, f16_value};
use crate::numeric::soft::Format;
use crate::numeric::tensor_core::{self, Accumulator, Factor, Lanes, TensorCore};

/// How many of a set's outputs the exact mode reproduces.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SetResult {
    /// The set's name, as in `A100.bf16`.
    pub name: String,
    /// Rows equal bit for bit.
    pub matched: usize,
    /// Rows.
    pub total: usize,
}

/// A file that cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not of the safetensors format.
    #[error("{path} is not a safetensors file: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: safetensors::SafeTensorError,
    },
    /// There is no set in the file.
    #[error("{path} has no tensors named NAME.bf16.d or NAME.fp16.d")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A set lacks a tensor.
    #[error("the set {set} has no tensor {tensor}")]
    Missing {
        /// The set.
        set: String,
        /// The tensor's last name.
        tensor: &'static str,
    },
    /// A tensor has another type or shape.
    #[error("{set}.{tensor} is {dtype:?} {shape:?}, expected F32 {expected}")]
    Tensor {
        /// The set.
        set: String,
        /// The tensor's last name.
        tensor: &'static str,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// What was expected.
        expected: &'static str,
    },
    /// A factor is not a number of the set's type.
    #[error("{set}.{tensor}[{index}] = {value} is not a {kind}")]
    Value {
        /// The set.
        set: String,
        /// The tensor's last name.
        tensor: &'static str,
        /// The flat index.
        index: usize,
        /// The number.
        value: f32,
        /// The set's type.
        kind: &'static str,
    },
}

/// Computes every set of a file in exact mode and counts the outputs that agree bit for bit, in the order of the names.
pub fn check_vectors(path: &Path) -> Result<Vec<SetResult>, VectorsError> {
    let read = |source| VectorsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    // SAFETY: the mapping is read only, and like every reader of a mapped file this one relies on nobody truncating it meanwhile.
    let map = unsafe { Mmap::map(&file) }.map_err(read)?;
    check_bytes(path, &map)
}

fn check_bytes(path: &Path, bytes: &[u8]) -> Result<Vec<SetResult>, VectorsError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|source| VectorsError::Format {
        path: path.to_owned(),
        source,
    })?;
    let mut sets: Vec<(&str, FactorType)> = tensors.names().into_iter().filter_map(set_name).collect();
    sets.sort_by_key(|(name, _)| *name);
    if sets.is_empty() {
        return Err(VectorsError::Empty { path: path.to_owned() });
    }
    sets.into_iter()
        .map(|(name, kind)| check_set(&tensors, name, kind))
        .collect()
}

#[derive(Clone, Copy)]
enum FactorType {
    Bf16,
    Fp16,
}

fn set_name(tensor: &str) -> Option<(&str, FactorType)> {
    let set = tensor.strip_suffix(".d")?;
    match set.rsplit_once('.')?.1 {
        "bf16" => Some((set, FactorType::Bf16)),
        "fp16" => Some((set, FactorType::Fp16)),
        _ => None,
    }
}

impl FactorType {
    fn name(self) -> &'static str {
        match self {
            FactorType::Bf16 => "bf16",
            FactorType::Fp16 => "fp16",
        }
    }

    /// A factor of the value, if the type has it.
    fn factor(self, value: f32) -> Option<Factor> {
        let (same, format) = match self {
            FactorType::Bf16 => (value.to_bits() & 0xffff == 0, Format::BF16),
            FactorType::Fp16 => (f16_value(f16_from_f32(value)) == value || value.is_nan(), Format::F16),
        };
        same.then(|| Factor::new(value, format.min_exponent()))
    }
}

fn check_set(tensors: &SafeTensors, set: &str, kind: FactorType) -> Result<SetResult, VectorsError> {
    let a = tensor(tensors, set, "a")?;
    let [rows, k] = *a.shape() else {
        return Err(shape_error(set, "a", &a, "[rows, 8 or 16]"));
    };
    let core = match k {
        8 => TensorCore::Ampere,
        16 => TensorCore::Hopper,
        _ => return Err(shape_error(set, "a", &a, "[rows, 8 or 16]")),
    };
    let factors = |name| -> Result<Vec<Factor>, VectorsError> {
        let view = shaped(tensors, set, name, &[rows, k], "[rows, k], as a")?;
        let convert = |(index, value)| {
            let wrong = || VectorsError::Value {
                set: set.into(),
                tensor: name,
                index,
                value,
                kind: kind.name(),
            };
            kind.factor(value).ok_or_else(wrong)
        };
        floats(&view).enumerate().map(convert).collect()
    };
    let (a, b) = (factors("a")?, factors("b")?);
    let c = shaped(tensors, set, "c", &[rows], "[rows], as a")?;
    let d = shaped(tensors, set, "d", &[rows], "[rows], as a")?;
    let arithmetic = core.arithmetic(2, Accumulator::F32);
    let rows_of_factors = a.chunks_exact(k).zip(b.chunks_exact(k));
    let matched = rows_of_factors
        .zip(floats(&c))
        .zip(floats(&d))
        .filter(|(((a, b), c), d)| {
            let special = a.iter().chain(*b).any(|factor| factor.is_special());
            tensor_core::dot(arithmetic, a, &single_column(b), [c.to_bits()], special) == [d.to_bits()]
        });
    let matched = matched.count();
    Ok(SetResult {
        name: set.to_owned(),
        matched,
        total: rows,
    })
}

fn single_column(factors: &[Factor]) -> Vec<Lanes<1>> {
    let lanes = |factor: &Factor| {
        let mut lanes = Lanes::ZERO;
        lanes.set(0, *factor);
        lanes
    };
    factors.iter().map(lanes).collect()
}

fn tensor<'a>(tensors: &SafeTensors<'a>, set: &str, name: &'static str) -> Result<TensorView<'a>, VectorsError> {
    let view = tensors
        .tensor(&format!("{set}.{name}"))
        .map_err(|_| VectorsError::Missing {
            set: set.to_owned(),
            tensor: name,
        })?;
    if view.dtype() == Dtype::F32 {
        Ok(view)
    } else {
        Err(shape_error(set, name, &view, "of any shape"))
    }
}

fn shaped<'a>(
    tensors: &SafeTensors<'a>,
    set: &str,
    name: &'static str,
    shape: &[usize],
    expected: &'static str,
) -> Result<TensorView<'a>, VectorsError> {
    let view = tensor(tensors, set, name)?;
    if view.shape() == shape {
        Ok(view)
    } else {
        Err(shape_error(set, name, &view, expected))
    }
}

fn shape_error(set: &str, tensor: &'static str, view: &TensorView, expected: &'static str) -> VectorsError {
    VectorsError::Tensor {
        set: set.to_owned(),
        tensor,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        expected,
    }
}

fn floats<'a>(view: &'a TensorView) -> impl Iterator<Item = f32> + 'a {
    view.data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::serialize;

    fn reproduced(path: &Path, total: usize) {
        let results = check_vectors(path).unwrap();
        assert_eq!(results.len(), 8);
        for result in results {
            assert_eq!((result.matched, result.total), (total, total), "{}", result.name);
        }
    }

    fn recorded() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tensor_core.safetensors")
    }

    #[test]
    fn recorded_outputs_are_reproduced() {
        reproduced(&recorded(), 200);
    }

    /// All of the recordings, where they lie beside the repository.
    #[test]
    fn every_recorded_output_is_reproduced() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/tensor_core/recorded.safetensors");
        if !all.exists() && std::env::var_os("MLAFUSE_REQUIRE_FIXTURES").is_none() {
            println!("skipped: {} is not there", all.display());
            return;
        }
        reproduced(&all, 5000);
    }

    fn file(tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let view = |(i, (name, shape, _)): (usize, &(&str, Vec<usize>, Vec<f32>))| {
            (
                name.to_string(),
                TensorView::new(Dtype::F32, shape.clone(), &bytes[i]).unwrap(),
            )
        };
        serialize(tensors.iter().enumerate().map(view), None).unwrap()
    }

    fn set(a: Vec<f32>, d: f32) -> Vec<u8> {
        let k = a.len();
        file(&[
            ("X.bf16.a", vec![1, k], a),
            ("X.bf16.b", vec![1, k], vec![1.0; k]),
            ("X.bf16.c", vec![1], vec![0.5]),
            ("X.bf16.d", vec![1], vec![d]),
        ])
    }

    #[test]
    fn a_wrong_output_is_counted() {
        let check =
            |bytes: Vec<u8>| check_bytes(Path::new("x"), &bytes).map(|results| (results[0].matched, results[0].total));
        assert_eq!(check(set(vec![1.0; 8], 8.5)).unwrap(), (1, 1));
        assert_eq!(check(set(vec![1.0; 16], 16.5)).unwrap(), (1, 1));
        assert_eq!(check(set(vec![1.0; 8], 8.25)).unwrap(), (0, 1));
    }

    #[test]
    fn bad_files_are_errors() {
        let path = Path::new("x");
        let error = |bytes: &[u8]| check_bytes(path, bytes).unwrap_err().to_string();
        assert!(error(b"nonsense").contains("not a safetensors"));
        assert!(error(&std::fs::read(recorded()).unwrap()[..4000]).contains("not a safetensors"));
        assert!(error(&file(&[("a", vec![1], vec![1.0])])).contains("no tensors named"));
        assert!(error(&file(&[("X.bf16.d", vec![1], vec![1.0])])).contains("no tensor a"));
        assert!(error(&set(vec![1.0; 4], 1.0)).contains("8 or 16"));
        assert!(error(&set(vec![1.0 + f32::EPSILON; 8], 1.0)).contains("X.bf16.a[0]"));
        assert!(
            check_vectors(Path::new("does-not-exist"))
                .unwrap_err()
                .to_string()
                .contains("does-not-exist")
        );
    }
}

//! Element types, host tensors, safetensors files and comparison metrics.
//!
//! A [`HostTensor`] is a dense row-major array in host memory. It owns a 64-byte aligned buffer or
//! borrows a memory-mapped file, and cloning, reshaping and taking rows of it copy nothing.
//! [`SafetensorsFile`] and [`Checkpoint`] read tensors, [`write_safetensors`] writes them whole or
//! not at all, [`compare`] and [`UlpHistogram`] say how far a result is from the truth.
//!
//! Nothing here panics on bad input: every failure is a [`TensorError`] that names the file, the
//! tensor, what was expected and what was found. As is usual for error types with a source, its
//! `Display` leaves the source out, so print the whole chain.
//!
//! ```
//! use mlafuse_tensor::{DType, HostTensor, SafetensorsFile, compare, write_safetensors};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("latent.safetensors");
//! // A latent cache row block, [T, d_latent] = [2, 3].
//! let latent = HostTensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.015625])?;
//! write_safetensors(&path, &[("latent", latent.to_dtype(DType::BF16))])?;
//!
//! let file = SafetensorsFile::open(&path)?;
//! let stored = file.tensor_shaped("latent", &[2, 3])?;
//! assert_eq!(stored.dtype(), DType::BF16);
//! assert_eq!(stored.to_f32_vec()[5], 6.0); // bf16 keeps 8 bits of precision
//!
//! let difference = compare(&stored, &latent)?;
//! assert_eq!(difference.max_abs, 0.015625);
//! assert!(difference.rel_l2 < 4e-3);
//! # Ok(())
//! # }
//! ```

#[cfg(target_endian = "big")]
compile_error!("tensors are viewed in place in safetensors' little-endian order");

mod aligned;
mod checkpoint;
mod compare;
mod convert;
mod dtype;
mod error;
mod safetensors_file;
mod stored;
mod tensor;
mod ulp;
mod write;

pub use checkpoint::Checkpoint;
pub use compare::{Comparison, compare};
pub use convert::{bf16_from_f64, f16_from_f64};
pub use dtype::DType;
pub use error::{Result, TensorError};
pub use safetensors_file::SafetensorsFile;
pub use stored::StoredTensor;
pub use tensor::HostTensor;
pub use ulp::UlpHistogram;
pub use write::{write_file_atomic, write_safetensors};

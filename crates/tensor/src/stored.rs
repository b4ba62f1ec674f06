//! Tensors of a file that nobody has read yet.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{DType, HostTensor, Result, TensorError};

/// A tensor of a mapped file, by its place: it takes no memory of its own until it is read.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) map: Arc<Mmap>,
    /// Its bytes in the map.
    pub(crate) range: Range<usize>,
}

impl StoredTensor {
    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor, without copying it unless the file stores it unaligned.
    ///
    /// # Errors
    /// [`TensorError::TensorInFile`].
    pub fn read(&self) -> Result<HostTensor> {
        HostTensor::from_map(self.dtype, &self.shape, &self.map, self.range.clone()).map_err(|source| {
            TensorError::TensorInFile {
                path: self.path.clone(),
                name: self.name.clone(),
                source: Box::new(source),
            }
        })
    }
}

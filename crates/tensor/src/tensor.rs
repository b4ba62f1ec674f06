//! Dense tensors in host memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};
use memmap2::Mmap;

use crate::aligned::AlignedBytes;
use crate::compare::check_shapes;
use crate::convert::{convert, convert_into};
use crate::{DType, Result, TensorError};

#[derive(Clone)]
enum Storage {
    Owned(Arc<AlignedBytes>),
    Mapped(Arc<Mmap>),
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(buffer) => buffer.as_slice(),
            Self::Mapped(map) => map,
        }
    }
}

/// A dense row-major tensor: the last dimension is contiguous.
///
/// Its bytes are part of an owned 64-byte aligned buffer or of a memory-mapped file; either is
/// shared between clones, reshapes and row slices, and copied on the first write through
/// [`bytes_mut`](Self::bytes_mut). A shape `[]` is a scalar; a shape with a 0 has no elements.
///
/// The bytes always start on a multiple of the element size. A tensor that a file stores at an odd
/// offset is therefore copied when it is loaded; every other one stays in the file.
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    storage: Storage,
    /// Bytes of `storage` that are this tensor's.
    range: Range<usize>,
}

impl HostTensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`TensorError::ShapeTooLarge`], or [`TensorError::OutOfMemory`] when the allocator refuses.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = numel_of(shape)? * dtype.size_bytes();
        let buffer = AlignedBytes::try_zeroed(bytes).ok_or_else(|| TensorError::OutOfMemory {
            shape: shape.to_vec(),
            bytes,
        })?;
        Ok(Self::owned(dtype, shape.to_vec(), buffer))
    }

    /// An f32 tensor with these values, row-major.
    ///
    /// # Errors
    /// [`TensorError::ElementCount`] when there are not exactly `shape`'s many;
    /// [`TensorError::ShapeTooLarge`].
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::from_values(DType::F32, shape, values)
    }

    /// An f64 tensor with these values, row-major. Errors as [`from_f32`](Self::from_f32).
    pub fn from_f64(shape: &[usize], values: &[f64]) -> Result<Self> {
        Self::from_values(DType::F64, shape, values)
    }

    /// An i32 tensor with these values, row-major. Errors as [`from_f32`](Self::from_f32).
    pub fn from_i32(shape: &[usize], values: &[i32]) -> Result<Self> {
        Self::from_values(DType::I32, shape, values)
    }

    /// A tensor from its bytes: row-major, little-endian. The bytes are copied to an aligned buffer.
    ///
    /// # Errors
    /// [`TensorError::ByteCount`] when `bytes` is not exactly the tensor's size;
    /// [`TensorError::ShapeTooLarge`].
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        check_byte_count(dtype, shape, bytes.len())?;
        let buffer = AlignedBytes::copy_of(bytes);
        Ok(Self::owned(dtype, shape.to_vec(), buffer))
    }

    /// The tensor at `range` of a mapped file: a view, or a copy when `range` is not aligned.
    pub(crate) fn from_map(dtype: DType, shape: &[usize], map: &Arc<Mmap>, range: Range<usize>) -> Result<Self> {
        let bytes = map.get(range.clone()).unwrap_or_default();
        check_byte_count(dtype, shape, bytes.len())?;
        if !bytes.as_ptr().addr().is_multiple_of(dtype.size_bytes()) {
            return Self::from_bytes(dtype, shape, bytes);
        }
        Ok(Self {
            dtype,
            shape: shape.to_vec(),
            storage: Storage::Mapped(Arc::clone(map)),
            range,
        })
    }

    fn from_values<T: Pod>(dtype: DType, shape: &[usize], values: &[T]) -> Result<Self> {
        let expected = numel_of(shape)?;
        if expected != values.len() {
            return Err(TensorError::ElementCount {
                shape: shape.to_vec(),
                expected,
                got: values.len(),
            });
        }
        let buffer = AlignedBytes::copy_of(bytemuck::cast_slice(values));
        Ok(Self::owned(dtype, shape.to_vec(), buffer))
    }

    fn owned(dtype: DType, shape: Vec<usize>, buffer: AlignedBytes) -> Self {
        let range = 0..buffer.as_slice().len();
        Self {
            dtype,
            shape,
            storage: Storage::Owned(Arc::new(buffer)),
            range,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements: the product of the dimensions.
    pub fn numel(&self) -> usize {
        self.range.len() / self.dtype.size_bytes()
    }

    /// The elements' bytes: row-major, little-endian, aligned for the element type.
    pub fn bytes(&self) -> &[u8] {
        &self.storage.as_slice()[self.range.clone()]
    }

    /// The elements' bytes, to write. Copies them first when they are shared or belong to a file:
    /// no clone, slice or file ever sees the writes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.is_sole_owner() {
            let buffer = AlignedBytes::copy_of(self.bytes());
            *self = Self::owned(self.dtype, std::mem::take(&mut self.shape), buffer);
        }
        match &mut self.storage {
            Storage::Owned(buffer) => &mut Arc::make_mut(buffer).as_mut_slice()[self.range.clone()],
            Storage::Mapped(_) => unreachable!("a mapped tensor was made an owned one above"),
        }
    }

    fn is_sole_owner(&mut self) -> bool {
        match &mut self.storage {
            Storage::Owned(buffer) => Arc::get_mut(buffer).is_some(),
            Storage::Mapped(_) => false,
        }
    }

    /// The same values as elements of `dtype`; a cheap clone when that is the type already.
    ///
    /// To a float: nearest, ties to even, past the largest finite value infinity (an i64 beyond
    /// 2^53 is first rounded to f64). To an integer: toward zero, clamped to its range, NaN to 0;
    /// use [`to_i32_vec`](Self::to_i32_vec) where a clamped value would be wrong.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let buffer = convert(self.dtype, self.bytes(), dtype);
        Self::owned(dtype, self.shape.clone(), buffer)
    }

    /// Takes the values of `other`, of the same shape, converted as [`to_dtype`](Self::to_dtype) does. Allocates nothing where the
    /// elements are this tensor's alone.
    ///
    /// # Errors
    /// [`TensorError::ShapeMismatch`].
    pub fn copy_from(&mut self, other: &HostTensor) -> Result<()> {
        check_shapes(other, self)?;
        convert_into(other.dtype, other.bytes(), self.dtype, self.bytes_mut());
        Ok(())
    }

    /// The values as f64, row-major. Exact for all but i64 beyond 2^53.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        bytemuck::cast_slice(self.to_dtype(DType::F64).bytes()).to_vec()
    }

    /// The values as f32, row-major, rounded as [`to_dtype`](Self::to_dtype) does.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        bytemuck::cast_slice(self.to_dtype(DType::F32).bytes()).to_vec()
    }

    /// The values of an i32 or i64 tensor, row-major.
    ///
    /// # Errors
    /// [`TensorError::DTypeMismatch`] for floats, [`TensorError::IntegerRange`] for a value that
    /// does not fit.
    pub fn to_i32_vec(&self) -> Result<Vec<i32>> {
        match self.dtype {
            DType::I32 => Ok(self.as_i32()?.to_vec()),
            DType::I64 => self.as_i64()?.iter().enumerate().map(i32_exact).collect(),
            got => Err(TensorError::DTypeMismatch {
                expected: "i32 or i64",
                got,
            }),
        }
    }

    /// The same elements under another shape of as many. Copies nothing.
    ///
    /// # Errors
    /// [`TensorError::Reshape`], [`TensorError::ShapeTooLarge`].
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let to_numel = numel_of(shape)?;
        if to_numel != self.numel() {
            return Err(TensorError::Reshape {
                from: self.shape.clone(),
                from_numel: self.numel(),
                to: shape.to_vec(),
                to_numel,
            });
        }
        Ok(Self {
            shape: shape.to_vec(),
            ..self.clone()
        })
    }

    /// Rows `rows` of the first dimension: `[n, ...]` to `[rows.len(), ...]`. Copies nothing.
    ///
    /// # Errors
    /// [`TensorError::Axis`] for a scalar, [`TensorError::SliceRange`] for rows that are not there.
    pub fn slice_outer(&self, rows: Range<usize>) -> Result<Self> {
        let shape = self.sliced_shape(0, &rows)?;
        let row_bytes = self.stride_bytes(0);
        let start = self.range.start + rows.start * row_bytes;
        Ok(Self {
            shape,
            range: start..start + rows.len() * row_bytes,
            ..self.clone()
        })
    }

    /// Indices `indices` of one axis, as a copy: `[a, n, b]` with axis 1 to `[a, indices.len(), b]`.
    ///
    /// # Errors
    /// [`TensorError::Axis`], [`TensorError::SliceRange`].
    pub fn slice_axis(&self, axis: usize, indices: Range<usize>) -> Result<Self> {
        let shape = self.sliced_shape(axis, &indices)?;
        let stride = self.stride_bytes(axis);
        let take = indices.len() * stride;
        let mut buffer = AlignedBytes::zeroed(numel_of(&shape)? * self.dtype.size_bytes());
        if take != 0 {
            let from = self.bytes().chunks_exact(self.shape[axis] * stride);
            let to = buffer.as_mut_slice().chunks_exact_mut(take);
            for (to, from) in to.zip(from) {
                to.copy_from_slice(&from[indices.start * stride..][..take]);
            }
        }
        Ok(Self::owned(self.dtype, shape, buffer))
    }

    fn sliced_shape(&self, axis: usize, indices: &Range<usize>) -> Result<Vec<usize>> {
        let mut shape = self.shape.clone();
        let Some(dim) = shape.get_mut(axis) else {
            return Err(TensorError::Axis { axis, shape });
        };
        if indices.start > indices.end || indices.end > *dim {
            return Err(TensorError::SliceRange {
                axis,
                start: indices.start,
                end: indices.end,
                shape,
            });
        }
        *dim = indices.len();
        Ok(shape)
    }

    /// Bytes from one index of `axis` to the next. Cannot overflow: see [`numel_of`].
    fn stride_bytes(&self, axis: usize) -> usize {
        self.shape[axis + 1..].iter().product::<usize>() * self.dtype.size_bytes()
    }

    /// The elements of an f64 tensor.
    ///
    /// # Errors
    /// [`TensorError::DTypeMismatch`] for any other type; so do the other views.
    pub fn as_f64(&self) -> Result<&[f64]> {
        self.view(DType::F64, "f64")
    }

    /// The elements of an f32 tensor. Errors as [`as_f64`](Self::as_f64).
    pub fn as_f32(&self) -> Result<&[f32]> {
        self.view(DType::F32, "f32")
    }

    /// The elements of an f16 tensor. Errors as [`as_f64`](Self::as_f64).
    pub fn as_f16(&self) -> Result<&[f16]> {
        self.view(DType::F16, "f16")
    }

    /// The elements of a bf16 tensor. Errors as [`as_f64`](Self::as_f64).
    pub fn as_bf16(&self) -> Result<&[bf16]> {
        self.view(DType::BF16, "bf16")
    }

    /// The elements of an i32 tensor. Errors as [`as_f64`](Self::as_f64).
    pub fn as_i32(&self) -> Result<&[i32]> {
        self.view(DType::I32, "i32")
    }

    /// The elements of an i64 tensor. Errors as [`as_f64`](Self::as_f64).
    pub fn as_i64(&self) -> Result<&[i64]> {
        self.view(DType::I64, "i64")
    }

    fn view<T: Pod>(&self, dtype: DType, expected: &'static str) -> Result<&[T]> {
        if self.dtype != dtype {
            return Err(TensorError::DTypeMismatch {
                expected,
                got: self.dtype,
            });
        }
        Ok(bytemuck::cast_slice(self.bytes()))
    }
}

impl fmt::Debug for HostTensor {
    /// Type, shape and where the bytes are; not the values, which may be gigabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.storage {
            Storage::Owned(_) => "owned",
            Storage::Mapped(_) => "mapped",
        };
        write!(f, "HostTensor({} {:?}, {place})", self.dtype, self.shape)
    }
}

fn i32_exact((index, &value): (usize, &i64)) -> Result<i32> {
    i32::try_from(value).map_err(|_| TensorError::IntegerRange { index, value })
}

/// Elements in a shape.
///
/// Refuses a shape whose dimensions, with zeros taken as ones, multiply to more than the widest
/// element type can address. So no product of some of the dimensions and an element size can
/// overflow afterwards, whichever type the tensor is converted to.
fn numel_of(shape: &[usize]) -> Result<usize> {
    let limit = isize::MAX as usize / DType::F64.size_bytes();
    shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)))
        .filter(|&product| product <= limit)
        .ok_or_else(|| TensorError::ShapeTooLarge { shape: shape.to_vec() })?;
    Ok(shape.iter().product())
}

fn check_byte_count(dtype: DType, shape: &[usize], got: usize) -> Result<()> {
    let expected = numel_of(shape)? * dtype.size_bytes();
    if expected != got {
        return Err(TensorError::ByteCount {
            dtype,
            shape: shape.to_vec(),
            expected,
            got,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counting(shape: &[usize]) -> HostTensor {
        let values: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
        HostTensor::from_i32(shape, &values).unwrap()
    }

    #[test]
    fn writes_never_reach_a_clone_or_a_slice() {
        let mut a = counting(&[4, 2]);
        let (clone, row) = (a.clone(), a.slice_outer(1..2).unwrap());
        a.bytes_mut().fill(0);
        assert_eq!(a.as_i32().unwrap(), [0; 8]);
        assert_eq!(clone.as_i32().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row.as_i32().unwrap(), [2, 3]);

        let mut row = row;
        row.bytes_mut().fill(0xff);
        assert_eq!(row.as_i32().unwrap(), [-1, -1]);
        assert_eq!(row.shape(), [1, 2]);
        assert_eq!(clone.as_i32().unwrap()[2], 2);
    }

    #[test]
    fn a_sole_owner_writes_in_place() {
        let mut a = counting(&[3]);
        let before = a.bytes().as_ptr();
        assert_eq!(a.bytes_mut().as_ptr(), before);
        let slice = a.slice_outer(1..3).unwrap();
        drop(a);
        let mut slice = slice;
        slice.bytes_mut()[0] = 9;
        assert_eq!(slice.as_i32().unwrap(), [9, 2]);
    }

    #[test]
    fn views_share_memory() {
        let a = counting(&[2, 6]);
        let b = a.reshape(&[3, 4]).unwrap().slice_outer(1..3).unwrap();
        assert_eq!(b.shape(), [2, 4]);
        assert_eq!(b.bytes().as_ptr(), a.bytes()[16..].as_ptr());
        assert_eq!(a.to_dtype(DType::I32).bytes().as_ptr(), a.bytes().as_ptr());
    }

    #[test]
    fn slice_axis_takes_columns() {
        let a = counting(&[2, 3, 2]).slice_axis(1, 1..3).unwrap();
        assert_eq!(a.shape(), [2, 2, 2]);
        assert_eq!(a.as_i32().unwrap(), [2, 3, 4, 5, 8, 9, 10, 11]);
        let empty = counting(&[2, 3]).slice_axis(1, 3..3).unwrap();
        assert_eq!((empty.shape(), empty.numel()), ([2, 0].as_slice(), 0));
    }

    #[test]
    fn bad_requests_say_what_was_expected() {
        let a = counting(&[2, 3]);
        let scalar = HostTensor::from_f64(&[], &[1.0]).unwrap();
        let backwards = Range { start: 2, end: 1 };
        let cases = [
            (
                HostTensor::from_f32(&[2, 2], &[0.0; 3]).unwrap_err(),
                "takes 4 elements, got 3",
            ),
            (
                HostTensor::from_bytes(DType::BF16, &[2], vec![0; 3]).unwrap_err(),
                "takes 4 bytes, got 3",
            ),
            (a.reshape(&[4]).unwrap_err(), "[2, 3] (6 elements) to [4] (4 elements)"),
            (a.slice_outer(0..3).unwrap_err(), "range 0..3 on axis 0"),
            (a.slice_axis(1, backwards).unwrap_err(), "range 2..1 on axis 1"),
            (a.slice_axis(2, 0..0).unwrap_err(), "axis below 2"),
            (scalar.slice_outer(0..1).unwrap_err(), "axis below 0"),
            (a.as_bf16().unwrap_err(), "expected elements of type bf16, got i32"),
            (scalar.to_i32_vec().unwrap_err(), "i32 or i64, got f64"),
        ];
        for (error, text) in cases {
            assert!(error.to_string().contains(text), "{error} lacks {text}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        for shape in [
            [usize::MAX, 2],
            [1 << 32, 1 << 32],
            [0, usize::MAX],
            [usize::MAX, 0],
            [1 << 60, 1],
        ] {
            let error = HostTensor::zeros(DType::BF16, &shape).unwrap_err();
            assert!(matches!(error, TensorError::ShapeTooLarge { .. }), "{error}");
        }
        let error = HostTensor::zeros(DType::BF16, &[1 << 59]).unwrap_err();
        assert!(matches!(error, TensorError::OutOfMemory { .. }), "{error}");
    }

    #[test]
    fn empty_tensors_work() {
        let a = HostTensor::zeros(DType::F32, &[0, 1 << 40]).unwrap();
        assert_eq!((a.numel(), a.to_f64_vec().len()), (0, 0));
        assert!(a.to_dtype(DType::BF16).as_bf16().unwrap().is_empty());
        assert_eq!(a.slice_axis(1, 5..9).unwrap().shape(), [0, 4]);
        assert_eq!(a.reshape(&[3, 0]).unwrap().slice_outer(1..2).unwrap().numel(), 0);
    }

    #[test]
    fn i64_that_does_not_fit_names_its_place() {
        let bytes: Vec<u8> = [1i64, i64::from(i32::MAX) + 1].map(i64::to_le_bytes).concat();
        let a = HostTensor::from_bytes(DType::I64, &[2], bytes).unwrap();
        let message = a.to_i32_vec().unwrap_err().to_string();
        assert!(message.contains("element 1 is 2147483648"), "{message}");
        assert_eq!(a.slice_outer(0..1).unwrap().to_i32_vec().unwrap(), [1]);
    }

    proptest! {
        #[test]
        fn slicing_agrees_with_indexing(
            shape in proptest::collection::vec(1usize..5, 3),
            axis in 0usize..3,
            ends in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            let a = counting(&shape);
            let at = |x: f64| (x * (shape[axis] + 1) as f64) as usize;
            let (start, end) = (at(ends.0.min(ends.1)), at(ends.0.max(ends.1)));
            let sliced = a.slice_axis(axis, start..end).unwrap();
            let inner: usize = shape[axis + 1..].iter().product();
            let expected: Vec<i32> = (0..a.numel())
                .filter(|i| (start..end).contains(&(i / inner % shape[axis])))
                .map(|i| i as i32)
                .collect();
            prop_assert_eq!(sliced.as_i32().unwrap(), &expected);
            if axis == 0 {
                let rows = a.slice_outer(start..end).unwrap();
                prop_assert_eq!(rows.shape(), sliced.shape());
                prop_assert_eq!(rows.bytes(), sliced.bytes());
            }
        }

        #[test]
        fn f32_to_bf16_and_back_is_half_s(values in proptest::collection::vec(any::<f32>(), 0..50)) {
            let a = HostTensor::from_f32(&[values.len()], &values).unwrap();
            let back = a.to_dtype(DType::BF16).to_dtype(DType::F32);
            let bits: Vec<u32> = back.as_f32().unwrap().iter().map(|x| x.to_bits()).collect();
            let half: Vec<u32> = values.iter().map(|&x| bf16::from_f32(x).to_f32().to_bits()).collect();
            prop_assert_eq!(bits, half);
        }
    }
}

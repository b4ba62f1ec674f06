//! The two number types the interpreter computes in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// f32 or f64.
pub trait Real:
    sealed::Sealed
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// Minus infinity: the score of a key that a token may not see.
    const NEG_INFINITY: Self;

    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;

    /// The value as f64, exactly.
    fn to_f64(self) -> f64;

    /// e to the power of this.
    fn exp(self) -> Self;

    /// Square root.
    fn sqrt(self) -> Self;

    /// `c[i, j] += sum over l of a[i, l] · b[l, j]` for an \[m, k\] by \[k, n\] product.
    ///
    /// # Panics
    /// If a stride leads outside its slice.
    fn gemm(size: GemmSize, a: Matrix<'_, Self>, b: Matrix<'_, Self>, c: MatrixMut<'_, Self>);
}

/// The size of a matrix product: \[m, k\] by \[k, n\].
#[derive(Clone, Copy, Debug)]
pub struct GemmSize {
    /// Rows of the first factor and of the product.
    pub m: usize,
    /// Columns of the first factor, rows of the second.
    pub k: usize,
    /// Columns of the second factor and of the product.
    pub n: usize,
}

/// A matrix to read: elements from the start of `data`, `row` and `column` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, F> {
    /// The elements.
    pub data: &'a [F],
    /// Distance of rows.
    pub row: usize,
    /// Distance of columns.
    pub column: usize,
}

/// A matrix to write to.
#[derive(Debug)]
pub struct MatrixMut<'a, F> {
    /// The elements.
    pub data: &'a mut [F],
    /// Distance of rows.
    pub row: usize,
    /// Distance of columns.
    pub column: usize,
}

/// Panics unless a `rows` × `columns` matrix of these strides lies within `len` elements.
fn check(len: usize, rows: usize, columns: usize, row: usize, column: usize) {
    let last = row
        .checked_mul(rows - 1)
        .zip(column.checked_mul(columns - 1))
        .and_then(|(r, c)| r.checked_add(c));
    assert!(
        last.is_some_and(|last| last < len && len <= isize::MAX as usize),
        "matrix outside its slice"
    );
}

macro_rules! real {
    ($t:ty, $gemm:path) => {
        impl Real for $t {
            const NEG_INFINITY: $t = <$t>::NEG_INFINITY;

            fn from_f64(x: f64) -> $t {
                x as $t
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn exp(self) -> $t {
                <$t>::exp(self)
            }

            fn sqrt(self) -> $t {
                <$t>::sqrt(self)
            }

            fn gemm(size: GemmSize, a: Matrix<'_, $t>, b: Matrix<'_, $t>, c: MatrixMut<'_, $t>) {
                let GemmSize { m, k, n } = size;
                if m == 0 || n == 0 || k == 0 {
                    return;
                }
                check(a.data.len(), m, k, a.row, a.column);
                check(b.data.len(), k, n, b.row, b.column);
                check(c.data.len(), m, n, c.row, c.column);
                // Two elements of `c` at one address would be written through aliasing pointers.
                let apart = c.row.min(c.column) >= 1 && (c.row >= c.column * n || c.column >= c.row * m);
                assert!(apart || m == 1 || n == 1, "the product's elements overlap");
                let (a_ptr, b_ptr, c_ptr) = (a.data.as_ptr(), b.data.as_ptr(), c.data.as_mut_ptr());
                let (ar, ac) = (a.row as isize, a.column as isize);
                let (br, bc) = (b.row as isize, b.column as isize);
                let (cr, cc) = (c.row as isize, c.column as isize);
                // SAFETY: `check` shows that every element the three matrices name lies within its slice, `c` is
                // borrowed mutably and so apart from `a` and `b`, and its elements are at distinct addresses.
                unsafe { $gemm(m, k, n, 1.0, a_ptr, ar, ac, b_ptr, br, bc, 1.0, c_ptr, cr, cc) }
            }
        }
    };
}

real!(f32, matrixmultiply::sgemm);
real!(f64, matrixmultiply::dgemm);

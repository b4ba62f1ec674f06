//! The shapes of blocks of sums.

use super::super::ROWS;

/// Tiles of rows × tiles of columns of a block of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    TwoByTwo,
    FourByOne,
    OneByFour,
    One,
}

impl Shape {
    /// Where the tiles of sums are whose first is at `at`, in rows `stride` apart.
    pub(super) fn sums(self, at: *mut f32, stride: usize) -> [*mut f32; 4] {
        let row = ROWS * stride;
        let places = match self {
            Shape::TwoByTwo => [0, ROWS, row, row + ROWS],
            Shape::FourByOne => [0, row, 2 * row, 3 * row],
            Shape::OneByFour | Shape::One => [0, ROWS, 2 * ROWS, 3 * ROWS],
        };
        places.map(|place| at.wrapping_add(place))
    }
}

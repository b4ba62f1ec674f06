use proptest::prelude::*;

use super::*;
use crate::convert::Element;
use crate::expr::Scalar;
use crate::scratch::Elements;
use crate::view::RowsCode;

const COLS: usize = 64;
/// Two whole groups and a part of one.
const ROWS_OF_TILE: usize = 2 * ROWS + 8;

/// A load of rows from variable 0 on, of those before `limit`, from pages that table 1 names.
fn paged(page_size: i64, limit: i64) -> Transfer {
    let stride = COLS as i64;
    Transfer {
        tile: Slot::of_halves(0, ROWS_OF_TILE, COLS, Elements::Halves).unwrap(),
        cols: 0..COLS,
        view: ViewCode {
            tensor: 0,
            element: Element::of(mlafuse_tensor::DType::BF16).unwrap(),
            offset: Scalar::Const(0),
            rows: RowsCode::Paged {
                start: Scalar::Var(0),
                limit: Scalar::Const(limit),
                table: 1,
                table_offset: Scalar::Const(0),
                page_size,
                page_stride: Scalar::Const(page_size * stride),
                row_stride: Scalar::Const(stride),
            },
            col_start: Scalar::Const(0),
            col_limit: Scalar::Const(stride),
            col_stride: Scalar::Const(1),
            align: 8,
            mask: None,
        },
    }
}

/// What [`look_up`] finds and what [`borrow`] leaves, of rows from `start` on of a cache of so many pages.
fn both(load: &Transfer, start: i64, table: &[i32], bytes: usize) -> (Borrowed, Result<Borrowed, Fault>) {
    let cache = vec![0u8; bytes];
    let tensors = [Bound::Read(&cache), Bound::Read(bytemuck::cast_slice(table))];
    let env = Env {
        params: &[],
        vars: &[start],
        block: [0; 3],
        tensors: &tensors,
    };
    let mut arena = vec![0.0; load.tile.len];
    let (mut found, mut left) = (Borrowed::default(), Borrowed::default());
    look_up(load, &env, &arena, &mut found);
    let left = borrow(load, &env, &mut arena, &mut left).map(|_| left);
    (found, left)
}

proptest! {
    #[test]
    fn what_is_looked_up_is_what_a_load_leaves(
        page_size in 1i64..70, limit in 0i64..200, start in 0i64..200, pages in Just((0..200).collect::<Vec<i32>>()).prop_shuffle(),
    ) {
        let load = paged(page_size, limit);
        let bytes = 200 * page_size as usize * COLS * 2;
        let (found, left) = both(&load, start, &pages, bytes);
        let left = left.unwrap();
        prop_assert_eq!((found.tensor, found.stride), (left.tensor, left.stride));
        prop_assert_eq!(&found.groups[..], &left.groups[..2]);
    }

    #[test]
    fn nothing_is_found_past_a_page_that_is_none(bad in prop_oneof![Just(-1), 4i32..], at in 0usize..3) {
        let mut table = [2, 0, 1];
        table[at] = bad;
        let (load, rows) = (paged(16, 48), 4 * 16);
        let (found, left) = both(&load, 0, &table, rows * COLS * 2);
        prop_assert!(left.is_err());
        let expected = [2, 0].map(|page| Some(page * 16 * COLS));
        prop_assert_eq!(&found.groups[..], &expected[..at.min(2)]);
    }
}

//! What statements ask of the tiles they use.

use super::super::text::decl_text;
use super::super::{Columns, Form, Space, Tile, TileId, TileProgram};
use super::{Fault, tile};
use mlafuse_tensor::DType;

/// What a statement asks of an operand; `None` leaves it open.
pub(super) struct Want {
    space: Space,
    form: Form,
    dtype: Option<DType>,
    rows: Option<usize>,
    cols: Option<usize>,
}

impl Want {
    /// A shared tile.
    pub(super) fn shared(dtype: Option<DType>, rows: Option<usize>) -> Want {
        Want {
            space: Space::Shared,
            form: Form::Matrix,
            dtype,
            rows,
            cols: None,
        }
    }

    /// A fragment matrix.
    pub(super) fn fragment(rows: Option<usize>, cols: Option<usize>) -> Want {
        Want::matrix(Form::Matrix, rows, cols)
    }

    /// A fragment of the form of a matrix or matrix partial.
    pub(super) fn matrix(form: Form, rows: Option<usize>, cols: Option<usize>) -> Want {
        Want {
            space: Space::Fragment,
            form,
            dtype: Some(DType::F32),
            rows,
            cols,
        }
    }

    /// A row vector or row partial.
    pub(super) fn vector(form: Form, rows: usize) -> Want {
        Want {
            space: Space::Fragment,
            form,
            dtype: Some(DType::F32),
            rows: Some(rows),
            cols: Some(1),
        }
    }

    fn fits(&self, tile: &Tile) -> bool {
        self.space == tile.space
            && self.form == tile.form
            && self.dtype.is_none_or(|dtype| dtype == tile.dtype)
            && self.rows.is_none_or(|rows| rows == tile.rows)
            && self.cols.is_none_or(|cols| cols == tile.cols)
    }

    /// As a declaration, with `_` for what is open.
    fn text(&self) -> String {
        let open = |n: Option<usize>| n.map_or_else(|| "_".to_string(), |n| n.to_string());
        let dtype = self.dtype.map_or_else(|| "_".to_string(), |dtype| dtype.to_string());
        let (rows, cols) = (open(self.rows), open(self.cols));
        match (self.form, self.space) {
            (Form::RowVector, _) => format!("row {dtype}[{rows}]"),
            (Form::RowPartial, _) => format!("partial {dtype}[{rows}]"),
            (Form::MatrixPartial, _) => format!("partial {dtype}[{rows}, {cols}]"),
            (Form::Matrix, Space::Shared) => format!("shared {dtype}[{rows}, {cols}]"),
            (Form::Matrix, Space::Fragment) => format!("fragment {dtype}[{rows}, {cols}]"),
        }
    }
}

/// Requires a tile to be as the statement needs it.
pub(super) fn operand(program: &TileProgram, role: &'static str, id: TileId, want: Want) -> Result<(), Fault> {
    let tile = tile(program, id)?;
    if want.fits(tile) {
        Ok(())
    } else {
        Err(unfit(role, tile, &want.text()))
    }
}

/// The fault of a tile that cannot play its role.
pub(super) fn unfit(role: &'static str, tile: &Tile, expected: &str) -> Fault {
    Fault::Operand {
        role,
        tile: tile.name.clone(),
        expected: expected.to_string(),
        got: decl_text(tile),
    }
}

/// Requires a tile of floats, as stage, gemm and rotate do.
pub(super) fn float_tile(program: &TileProgram, role: &'static str, id: TileId) -> Result<(), Fault> {
    let tile = tile(program, id)?;
    if tile.dtype.is_float() {
        Ok(())
    } else {
        Err(unfit(role, tile, "a tile of a float type"))
    }
}

/// Requires columns that the tile has.
pub(super) fn check_columns(tile: &Tile, got: &Columns) -> Result<(), Fault> {
    if got.start < got.end && got.end <= tile.cols {
        return Ok(());
    }
    Err(Fault::Columns {
        tile: tile.name.clone(),
        got: got.clone(),
        cols: tile.cols,
    })
}

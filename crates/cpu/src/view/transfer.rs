//! Loads, which bring tiles what views show, and stores.

use std::ops::Range;

use super::{Resolved, ResolvedRows, ViewCode, multiply_add};
use crate::convert::{add_row, copy_halves, read_row, read_strided, store_row};
use crate::error::Fault;
use crate::expr::Env;
use crate::gemm::bf16::{Halves, ROWS};
use crate::gemm::split::{self, Pairs};
use crate::level::Level;
use crate::memory::Bound;
use crate::rows::scale_row;
use crate::scratch::{Borrowed, Elements, Slot};

/// Elements that are gathered, and then split, at a time.
const PIECE: usize = 256;

/// A rectangle of a tile and the view it is loaded from or stored to.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) tile: Slot,
    pub(crate) cols: Range<usize>,
    pub(crate) view: ViewCode,
}

/// What a transfer reads: rows that lie evenly apart. Equal places of one tensor hold equal elements throughout a launch, which
/// writes nothing that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    first: i64,
    stride: i64,
    rows: i64,
    col_stride: i64,
    cols: usize,
}

impl Transfer {
    /// Where its rows lie, all of which a mask lets through; `None` where that is more than a place says.
    pub(crate) fn place(&self, env: &Env<'_>) -> Result<Option<Place>, Fault> {
        let view = self.view.resolve(env, self.cols.len())?;
        let ResolvedRows::Strided { start, stride, limit } = view.rows else {
            return Ok(None);
        };
        let place = Place {
            first: multiply_add(start, stride, view.base)?,
            stride,
            rows: limit.saturating_sub(start).clamp(0, self.tile.rows as i64),
            col_stride: view.col_stride,
            cols: view.present,
        };
        Ok(Some(place))
    }
}

/// Loads; what is not there becomes zero. Gives the number of leading tile rows beyond which no row was there. Rows that are split
/// are packed to `pairs` meanwhile.
pub(crate) fn load(
    t: &Transfer,
    level: Level,
    env: &Env<'_>,
    arena: &mut [f32],
    pairs: Option<Pairs<'_>>,
) -> Result<usize, Fault> {
    let view = t.view.resolve(env, t.cols.len())?;
    let bytes = bytes_of(t, env);
    match t.tile.elements {
        Elements::Floats => {}
        Elements::Halves => return load_halves(t, &view, bytes, 0..t.tile.rows, arena),
        Elements::Pieces => return load_pieces(t, level, &view, bytes, arena, pairs),
    }
    if let Some(rows) = load_vector(t, level, &view, bytes, arena)? {
        return Ok(rows);
    }
    let mut rows = 0;
    for i in 0..t.tile.rows {
        let first = view.first(i, arena)?;
        let to = &mut arena[t.tile.row(i, t.cols.clone())];
        let Some(first) = first else {
            to.fill(0.0);
            continue;
        };
        rows = i + 1;
        let (there, beyond) = to.split_at_mut(view.present);
        beyond.fill(0.0);
        view.read(level, bytes, first, there);
    }
    Ok(rows)
}

/// [`load`] of a vector from rows that lie evenly apart, none of them masked, as if they were columns; `None` for another.
fn load_vector(
    t: &Transfer,
    level: Level,
    view: &Resolved<'_>,
    bytes: &[u8],
    arena: &mut [f32],
) -> Result<Option<usize>, Fault> {
    let (ResolvedRows::Strided { .. }, Some(stride)) = (&view.rows, view.stride()) else {
        return Ok(None);
    };
    if t.tile.stride != 1 || view.code.mask.is_some() {
        return Ok(None);
    }
    let there = view.run(0).clamp(0, t.tile.rows as i64) as usize;
    let ends = match there.checked_sub(1) {
        Some(last) => (view.first(0, arena)?, view.first(last, arena)?),
        None => (None, None),
    };
    let (to, beyond) = arena[t.tile.start..][..t.tile.rows].split_at_mut(there);
    beyond.fill(0.0);
    let (element, size) = (t.view.element, t.view.element.size());
    match (ends, stride) {
        ((Some(first), Some(last)), 1) => read_row(level, element, &bytes[first * size..(last + 1) * size], to),
        ((Some(first), Some(_)), _) => read_strided(element, &bytes[first * size..], stride * size, to),
        _ => to.fill(0.0),
    }
    Ok(Some(if ends.0.is_some() { there } else { 0 }))
}

/// dst\[i, j\] += by\[i\] · element j of row i, where rows of f32 lie and columns are neighbours; a row that is not there
/// is zeros.
pub(crate) fn add_rows(
    t: &Transfer,
    [dst, by]: [Slot; 2],
    level: Level,
    env: &Env<'_>,
    arena: &mut [f32],
) -> Result<(), Fault> {
    let view = t.view.resolve(env, t.cols.len())?;
    let bytes = bytes_of(t, env);
    for i in 0..dst.rows {
        let factor = arena[by.start + i];
        let first = view.first(i, arena)?;
        let to = &mut arena[dst.row(i, 0..dst.cols)];
        match first {
            Some(first) => add_row(level, &bytes[4 * first..4 * (first + view.present)], factor, to),
            // Zeros times what is finite.
            None if factor == 0.0 => {}
            None => to.iter_mut().for_each(|x| *x += 0.0 * factor),
        }
    }
    Ok(())
}

fn bytes_of<'a>(t: &Transfer, env: &Env<'a>) -> &'a [u8] {
    match env.tensors.get(t.view.tensor) {
        Some(&Bound::Read(bytes)) => bytes,
        _ => &[],
    }
}

/// [`load`] to a whole tile of bf16 bits that gemms take as their b: what can be read where it lies is not copied.
pub(crate) fn borrow(t: &Transfer, env: &Env<'_>, arena: &mut [f32], borrowed: &mut Borrowed) -> Result<usize, Fault> {
    let view = t.view.resolve(env, t.cols.len())?;
    borrowed.tensor = t.view.tensor;
    borrowed.stride = view.stride().unwrap_or(0);
    borrowed.groups.clear();
    let mut rows = 0;
    for first in (0..t.tile.rows).step_by(ROWS) {
        let group = first..(first + ROWS).min(t.tile.rows);
        let place = match group.len() {
            ROWS => view.group(first, t.cols.len(), arena)?,
            _ => None,
        };
        borrowed.groups.push(place);
        rows = match place {
            Some(_) => group.end,
            None => rows.max(load_halves(t, &view, bytes_of(t, env), group, arena)?),
        };
    }
    Ok(rows)
}

/// What [`borrow`] would leave where it lies, as far as that can be told: nothing is read but block tables.
pub(crate) fn look_up(t: &Transfer, env: &Env<'_>, arena: &[f32], borrowed: &mut Borrowed) {
    borrowed.groups.clear();
    let Ok(view) = t.view.resolve(env, t.cols.len()) else {
        return;
    };
    borrowed.tensor = t.view.tensor;
    borrowed.stride = view.stride().unwrap_or(0);
    let groups = (0..t.tile.rows / ROWS).map_while(|group| view.group(group * ROWS, t.cols.len(), arena).ok());
    borrowed.groups.extend(groups);
}

/// [`load`] of these rows to a tile of bf16 bits. Also zeroes what a row has beyond the tile's columns, which a gemm reads.
fn load_halves(
    t: &Transfer,
    view: &Resolved<'_>,
    bytes: &[u8],
    range: Range<usize>,
    arena: &mut [f32],
) -> Result<usize, Fault> {
    let mut rows = 0;
    let last = t.cols.end == t.tile.cols;
    let end = if last { t.tile.stride } else { t.cols.end };
    for i in range {
        let first = view.first(i, arena)?;
        let tile: &mut [u16] = bytemuck::cast_slice_mut(&mut arena[t.tile.range()]);
        let to = &mut tile[i * t.tile.stride + t.cols.start..i * t.tile.stride + end];
        let Some(first) = first else {
            to.fill(0);
            continue;
        };
        rows = i + 1;
        let (there, beyond) = to.split_at_mut(view.present);
        beyond.fill(0);
        let step = view.col_stride.unsigned_abs() as usize;
        if view.col_stride >= 0 {
            copy_halves(&bytes[2 * first..], 2 * step, there);
        } else {
            copy_halves(&bytes[2 * (first - (view.present - 1) * step)..], 2 * step, there);
            there.reverse();
        }
    }
    Ok(rows)
}

/// [`load`] to a tile of pieces. Also zeroes what a row has beyond the tile's columns, which a gemm reads.
fn load_pieces(
    t: &Transfer,
    level: Level,
    view: &Resolved<'_>,
    bytes: &[u8],
    arena: &mut [f32],
    mut pairs: Option<Pairs<'_>>,
) -> Result<usize, Fault> {
    let mut rows = 0;
    let last = t.cols.end == t.tile.cols;
    let end = if last { t.tile.stride } else { t.cols.end };
    let (plane, mut piece) = (t.tile.plane(), [0.0; PIECE]);
    for i in 0..t.tile.rows {
        let first = view.first(i, arena)?;
        let tile: &mut [u16] = bytemuck::cast_slice_mut(&mut arena[t.tile.range()]);
        let to = &mut tile[i * t.tile.stride..];
        let mut there = 0;
        if let Some(first) = first {
            (rows, there) = (i + 1, view.present);
            let to = &mut to[t.cols.start..];
            match view.floats(bytes, first) {
                Some(row) => split::row(row, to, plane),
                None => {
                    for start in (0..there).step_by(PIECE) {
                        let piece = &mut piece[..PIECE.min(there - start)];
                        let at = first as i64 + start as i64 * view.col_stride;
                        view.read(level, bytes, at as usize, piece);
                        split::row(piece, &mut to[start..], plane);
                    }
                }
            }
        }
        for of_plane in to.chunks_mut(plane).take(split::PIECES) {
            of_plane[t.cols.start + there..end].fill(0);
        }
        if let (Some(pairs), 1) = (&mut pairs, i % 2) {
            let stride = t.tile.stride;
            let planes = [0, 1, 2].map(|piece| Halves {
                data: &tile[piece * plane..],
                stride,
            });
            pairs.pack(i - 1, planes);
        }
    }
    Ok(rows)
}

/// Stores; what is not there is not written. Before, row i of the tile is multiplied by element i of `by` where one is given.
pub(crate) fn store(
    t: &Transfer,
    by: Option<Slot>,
    level: Level,
    env: &Env<'_>,
    arena: &mut [f32],
) -> Result<(), Fault> {
    let view = t.view.resolve(env, t.cols.len())?;
    let Some(Bound::Write(stores)) = env.tensors.get(t.view.tensor) else {
        return Ok(());
    };
    for i in 0..t.tile.rows {
        if let Some(by) = by {
            scale_row(level, t.tile, by, i, arena);
        }
        let Some(first) = view.first(i, arena)? else { continue };
        let from = &arena[t.tile.row(i, t.cols.start..t.cols.start + view.present)];
        match usize::try_from(view.col_stride) {
            Ok(step) => store_row(level, t.view.element, *stores, first, step, from),
            Err(_) => {
                let step = view.col_stride.unsigned_abs() as usize;
                for (j, x) in from.iter().enumerate() {
                    store_row(
                        level,
                        t.view.element,
                        *stores,
                        first - j * step,
                        1,
                        std::slice::from_ref(x),
                    );
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

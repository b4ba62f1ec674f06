//! Matrices across a warp: `ldmatrix`, `stmatrix`, `movmatrix` and `mma`.

use super::access::{Direction, Places};
use super::block::{Block, Flow, Stop};
use super::race::Kind;
use super::registers::{LANES, Lanes, lanes_of};
use super::report::Checker;
use super::warp::{State, Warp};
use crate::numeric::mma::WarpRegister;
use crate::program::Reg;
use crate::program::op::{MatrixMove, MatrixShape, MmaOp};

/// Bytes of a row that one lane gives the address of.
const ROW: u32 = 16;

impl Block<'_> {
    /// Whether the whole warp executes an aligned instruction, else what the fragment waits for.
    pub(crate) fn aligned(&mut self, warp: &Warp, index: usize, mask: u32) -> Result<Option<Flow>, Stop> {
        if mask == u32::MAX {
            return Ok(None);
        }
        if warp.fragments[index].mask != warp.live {
            return Ok(Some(Flow::Wait(State::Converge(warp.live))));
        }
        let message = format!("only lanes {mask:#010x} execute this, which needs the whole warp");
        self.report(warp, mask, Checker::Synccheck, message)?;
        Ok(None)
    }

    /// The rows of a matrix instruction: each of the first lanes gives one.
    fn rows(
        &mut self,
        warp: &Warp,
        index: usize,
        op: &MatrixMove,
        mask: u32,
        direction: Direction,
    ) -> Result<Places, Stop> {
        let rows = match op.shape {
            MatrixShape::M16N16B8 => op.registers.len() / 2 * 16,
            _ => op.registers.len() * 8,
        };
        let givers = mask & (u32::MAX >> (32 - rows));
        self.shared_places(warp, index, &op.address, givers, ROW, direction)
    }

    pub(crate) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        index: usize,
        op: &MatrixMove,
        mask: u32,
    ) -> Result<Flow, Stop> {
        if let Some(flow) = self.aligned(warp, index, mask)? {
            return Ok(flow);
        }
        let rows = self.rows(warp, index, op, mask, Direction::Read)?;
        self.count(&rows, Direction::Read);
        let mut data = [[0_u32; 4]; LANES];
        for lane in lanes_of(rows.mask) {
            let offset = rows.offsets[lane] as u32;
            data[lane] = std::array::from_fn(|word| self.shared.load(offset + 4 * word as u32, 4));
            if !self.shared.is_written(offset, ROW) {
                self.uninitialised(warp, lane, &rows)?;
            }
            self.observe(warp, lane, &rows, Kind::Read, false)?;
        }
        for (number, dst) in op.registers.iter().enumerate() {
            let value: Lanes = std::array::from_fn(|lane| loaded(op, &data, number, lane));
            warp.registers.set(mask, *dst, &value);
        }
        Ok(Flow::Next)
    }

    pub(crate) fn store_matrix(
        &mut self,
        warp: &mut Warp,
        index: usize,
        op: &MatrixMove,
        mask: u32,
    ) -> Result<Flow, Stop> {
        if let Some(flow) = self.aligned(warp, index, mask)? {
            return Ok(flow);
        }
        let rows = self.rows(warp, index, op, mask, Direction::Write)?;
        self.count(&rows, Direction::Write);
        let mut data = [[0_u8; ROW as usize]; LANES];
        for (number, src) in op.registers.iter().enumerate() {
            for (lane, word) in warp.registers.lanes(*src).iter().enumerate() {
                scatter(op, &mut data, number, lane, *word);
            }
        }
        for lane in lanes_of(rows.mask) {
            let offset = rows.offsets[lane] as u32;
            let words: [u32; 4] = std::array::from_fn(|word| {
                let bytes = &data[lane][4 * word..4 * word + 4];
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            });
            let same = (0..4).all(|word| self.shared.load(offset + 4 * word as u32, 4) == words[word]);
            self.observe(warp, lane, &rows, Kind::Write, same)?;
            for (word, value) in words.into_iter().enumerate() {
                self.shared.store(offset + 4 * word as u32, 4, value);
            }
        }
        self.progress += 1;
        Ok(Flow::Next)
    }

    pub(crate) fn move_matrix(
        &mut self,
        warp: &mut Warp,
        index: usize,
        dst: Reg,
        src: Reg,
        mask: u32,
    ) -> Result<Flow, Stop> {
        if let Some(flow) = self.aligned(warp, index, mask)? {
            return Ok(flow);
        }
        let words = *warp.registers.lanes(src);
        // Element (row, column) lies in lane 4·row + column/2.
        let element = |row: usize, column: usize| words[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let value: Lanes = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            element(column, row) | element(column + 1, row) << 16
        });
        warp.registers.set(mask, dst, &value);
        Ok(Flow::Next)
    }

    pub(crate) fn multiply(&mut self, warp: &mut Warp, index: usize, op: &MmaOp, mask: u32) -> Result<Flow, Stop> {
        if let Some(flow) = self.aligned(warp, index, mask)? {
            return Ok(flow);
        }
        let gather = |registers: &[Reg]| {
            let mut fragment: [WarpRegister; 4] = [[0; LANES]; 4];
            for (words, reg) in fragment.iter_mut().zip(registers) {
                *words = *warp.registers.lanes(*reg);
            }
            fragment
        };
        let (a, b, c) = (gather(&op.a), gather(&op.b), gather(&op.c));
        let mut d: [WarpRegister; 4] = [[0; LANES]; 4];
        op.mma.run_into(
            self.env.mma,
            &a[..op.a.len()],
            &b[..op.b.len()],
            &c[..op.c.len()],
            &mut d,
        );
        for (dst, words) in op.d.iter().zip(&d) {
            warp.registers.set(mask, *dst, words);
        }
        self.counters.tensor_flops += op.mma.operations();
        self.counters.tensor_instructions += 1;
        Ok(Flow::Next)
    }
}

/// What `ldmatrix` gives a lane in one of its registers; `data` has the rows.
fn loaded(op: &MatrixMove, data: &[[u32; 4]; LANES], number: usize, lane: usize) -> u32 {
    let (group, thread) = (lane / 4, lane % 4);
    let byte = |row: usize, column: usize| data[row][column / 4] >> (8 * (column % 4)) & 0xff;
    let half = |row: usize, column: usize| data[row][column / 2] >> (16 * (column % 2)) & 0xffff;
    match (op.shape, op.transposed) {
        (MatrixShape::M8N8B16, false) => data[8 * number + group][thread],
        (MatrixShape::M8N8B16, true) => {
            let row = 8 * number + 2 * thread;
            half(row, group) | half(row + 1, group) << 16
        }
        // Register r of a 16×16 matrix holds row group + 8·r of its transpose (CUTLASS, traits of SM100_U8x8_LDSM_T).
        _ => {
            let (first, column) = (number / 2 * 16, group + 8 * (number % 2));
            (0..4).fold(0, |word, i| word | byte(first + 4 * thread + i, column) << (8 * i))
        }
    }
}

/// Puts a lane's register of `stmatrix` into the rows that are stored.
fn scatter(op: &MatrixMove, data: &mut [[u8; 16]; LANES], number: usize, lane: usize, word: u32) {
    let (group, thread) = (lane / 4, lane % 4);
    let bytes = word.to_le_bytes();
    match (op.shape, op.transposed) {
        (MatrixShape::M8N8B16, false) => {
            data[8 * number + group][4 * thread..4 * thread + 4].copy_from_slice(&bytes);
        }
        (MatrixShape::M8N8B16, true) => {
            for (i, half) in bytes.chunks(2).enumerate() {
                let row = &mut data[8 * number + 2 * thread + i];
                row[2 * group..2 * group + 2].copy_from_slice(half);
            }
        }
        // A 16×8 matrix of bytes, stored transposed: lane 4·g + t has bytes 2·t and 2·t + 1 of columns g and g + 8
        // (CUTLASS, traits of SM100_U8x4_STSM_T).
        _ => {
            for (i, byte) in bytes.into_iter().enumerate() {
                data[8 * number + 2 * thread + i % 2][group + 8 * (i / 2)] = byte;
            }
        }
    }
}

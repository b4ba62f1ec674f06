//! ldmatrix and mma, as the PTX ISA lays their fragments over a warp.

use super::Stats;
use super::shared::Shared;
use half::{bf16, f16};
use mlafuse_tensor::DType;

/// Rows of one 8 × 8 matrix, 16 bytes each, as lanes 8 i .. 8 i + 8 of the warp give their addresses; one register a matrix.
/// Lane l then has elements (l / 4, 2 (l mod 4)) and the next of the row; transposed, (2 (l mod 4), l / 4) and that below.
pub(super) fn load_matrices(
    shared: &mut Shared,
    warp: usize,
    addresses: &[i64],
    transposed: bool,
    stats: &mut Stats,
) -> Result<Vec<[u32; 32]>, String> {
    let mut registers = Vec::new();
    for (matrix, rows) in addresses.chunks(8).enumerate() {
        let mut elements = [[0u16; 8]; 8];
        for (row, &address) in rows.iter().enumerate() {
            let bytes = shared.read(address, 16, warp * 32 + matrix * 8 + row)?;
            for (element, pair) in elements[row].iter_mut().zip(bytes.chunks(2)) {
                *element = u16::from_le_bytes([pair[0], pair[1]]);
            }
        }
        count_phase(rows, stats);
        registers.push(std::array::from_fn(|lane| {
            let (row, col) = (lane / 4, lane % 4 * 2);
            let [low, high] = match transposed {
                false => [elements[row][col], elements[row][col + 1]],
                true => [elements[col][row], elements[col + 1][row]],
            };
            u32::from(low) | u32::from(high) << 16
        }));
    }
    Ok(registers)
}

/// Eight rows of 16 bytes are one wavefront where they lie in eight bank groups.
fn count_phase(rows: &[i64], stats: &mut Stats) {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows.dedup();
    let mut groups = [0usize; 8];
    rows.iter().for_each(|row| groups[(row / 16 % 8) as usize] += 1);
    stats.matrix_phases += 1;
    stats.matrix_conflicts += groups.into_iter().max().unwrap_or(1) - 1;
}

fn unpack(dtype: DType, word: u32) -> [f64; 2] {
    [word as u16, (word >> 16) as u16].map(|bits| match dtype {
        DType::F16 => f16::from_bits(bits).to_f64(),
        _ => bf16::from_bits(bits).to_f64(),
    })
}

/// c \[16, 8\] + a \[16, 16\] · b \[16, 8\] of one warp.
///
/// With g = lane / 4 and t = lane mod 4: a is (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each and the next column;
/// b is (2t, g), (2t + 8, g), each and the next row; c is (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
pub(super) fn product(dtype: DType, c: &mut [[f32; 32]; 4], a: &[[u32; 32]; 4], b: &[[u32; 32]; 2]) {
    let mut rows = [[0f64; 16]; 16];
    let mut cols = [[0f64; 16]; 8];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (register, words) in a.iter().enumerate() {
            let (row, col) = (g + register % 2 * 8, 2 * t + register / 2 * 8);
            [rows[row][col], rows[row][col + 1]] = unpack(dtype, words[lane]);
        }
        for (register, words) in b.iter().enumerate() {
            let row = 2 * t + register * 8;
            [cols[g][row], cols[g][row + 1]] = unpack(dtype, words[lane]);
        }
    }
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (register, values) in c.iter_mut().enumerate() {
            let (row, col) = (g + register / 2 * 8, 2 * t + register % 2);
            let sum: f64 = rows[row].iter().zip(&cols[col]).map(|(x, y)| x * y).sum();
            values[lane] = (f64::from(values[lane]) + sum) as f32;
        }
    }
}

//! Matrices across a warp, against the index formulas of the PTX ISA.

use super::{Case, case, each};
use crate::machine::MmaArithmetic;
use crate::numeric::mma::{Mma, MmaMode};
use crate::numeric::tensor_core::TensorCore;

/// 32 rows of 16 bytes that are 48 bytes apart in shared memory, row i at lane i's `%r1`, filled from the second buffer.
const ROWS: &str =
    ".shared .align 16 .b8 tile[1536]; mov.u32 %r1, tile; mad.lo.u32 %r1, %t, 48, %r1; mad.wide.u32 %d1, %t, 16, %a1;
    ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d1]; st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5}; bar.sync 0;\n";

fn rows() -> Vec<u8> {
    each(512, |i| (i as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0])
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(4)
        .map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect()
}

/// Each lane's registers `%r10` and up, `count` of them.
fn registers(instruction: &str, count: usize) -> Vec<u32> {
    let stores: String = (0..count)
        .map(|i| format!("st.global.u32 [%d2+{}], %r{}; ", 4 * i, 10 + i))
        .collect();
    let body = format!(
        "{ROWS}{instruction}\nmad.wide.u32 %d2, %t, {}, %a0; {stores}",
        4 * count
    );
    case(&body)
        .output("out", 32 * count as u64)
        .input("in", &words(&rows()))
        .words()
}

fn list(count: usize, first: usize) -> String {
    each(count, |i| format!("%r{}", first + i)).join(", ")
}

/// Element (row, column) of 16 bits of the matrix that begins at row `first`.
fn half(first: usize, row: usize, column: usize) -> u32 {
    let rows = rows();
    let at = 16 * (first + row) + 2 * column;
    u32::from(rows[at]) | u32::from(rows[at + 1]) << 8
}

#[test]
fn ldmatrix() {
    for count in [1, 2, 4] {
        for (modifier, transposed) in [("", false), (".trans", true)] {
            for (space, address) in [(".shared", ""), ("", "cvt.u64.u32 %d5, %r1; cvta.shared.u64 %d5, %d5;")] {
                let base = if address.is_empty() { "%r1" } else { "%d5" };
                let instruction = format!(
                    "{address} ldmatrix.sync.aligned.m8n8.x{count}{modifier}{space}.b16 {{{}}}, [{base}];",
                    list(count, 10)
                );
                let got = registers(&instruction, count);
                for lane in 0..32 {
                    for register in 0..count {
                        // Row lane/4, columns 2·(lane%4) and the next; or the same of the transpose.
                        let element = |i: usize| match transposed {
                            false => half(8 * register, lane / 4, 2 * (lane % 4) + i),
                            true => half(8 * register, 2 * (lane % 4) + i, lane / 4),
                        };
                        assert_eq!(
                            got[lane * count + register],
                            element(0) | element(1) << 16,
                            "x{count}{modifier} lane {lane}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn stmatrix() {
    for count in [1, 2, 4] {
        for (modifier, transposed) in [("", false), (".trans", true)] {
            let sets: String = (0..count)
                .map(|i| {
                    format!(
                        "mad.lo.u32 %r{}, %t, 0x20002, {}; ",
                        10 + i,
                        0x0001_0000 + 0x0100_0100 * i
                    )
                })
                .collect();
            let body = format!("{ROWS}{sets} stmatrix.sync.aligned.m8n8.x{count}{modifier}.shared.b16 [%r1], {{{}}}; bar.sync 0;
                ld.shared.v4.u32 {{%r2, %r3, %r4, %r5}}, [%r1]; mad.wide.u32 %d1, %t, 16, %a0; st.global.v4.u32 [%d1], {{%r2, %r3, %r4, %r5}};", list(count, 10));
            let got = case(&body).output("out", 128).input("in", &words(&rows())).words();
            for row in 0..32 {
                for column in 0..8 {
                    // Which element of the matrix it is tells which lane's which half has it.
                    let (r, c) = if transposed {
                        (column, row % 8)
                    } else {
                        (row % 8, column)
                    };
                    let (lane, side) = (4 * r + c / 2, c % 2);
                    let stored = (2 * lane + side + 0x100 * (row / 8)) as u32;
                    let expected = if row < 8 * count { stored } else { half(row, 0, column) };
                    assert_eq!(
                        got[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff,
                        expected,
                        "x{count}{modifier} row {row} column {column}"
                    );
                }
            }
        }
    }
}

#[test]
fn ldmatrix_of_bytes() {
    // Register r of a 16 × 16 matrix: byte i of lane l is element (row 4·(l%4) + i, column l/4 + 8·r).
    for count in [1, 2] {
        let instruction = format!(
            "ldmatrix.sync.aligned.m16n16.x{count}.trans.shared.b8 {{{}}}, [%r1];",
            list(2 * count, 10)
        );
        let (got, rows) = (registers(&instruction, 2 * count), rows());
        for lane in 0..32 {
            for register in 0..2 * count {
                let element =
                    |i: usize| rows[16 * (16 * (register / 2) + 4 * (lane % 4) + i) + lane / 4 + 8 * (register % 2)];
                assert_eq!(
                    got[2 * count * lane + register],
                    u32::from_le_bytes(std::array::from_fn(element)),
                    "x{count} lane {lane}"
                );
            }
        }
    }
}

#[test]
fn stmatrix_of_bytes() {
    for count in [1, 2, 4] {
        // Byte i of register r of lane l is 4·l + i + 67·r, of which a byte is kept.
        let sets: String = (0..count)
            .map(|i| {
                let step = 67 * i as u32 * 0x0101_0101;
                // Carries do not pass from byte to byte: 4·l + i is below 128, and 67·r is taken modulo 128.
                let step = step & 0x7f7f_7f7f;
                format!("mad.lo.u32 %r{}, %t, 0x04040404, {}; ", 10 + i, 0x0302_0100 + step)
            })
            .collect();
        let body = format!("{ROWS}{sets} stmatrix.sync.aligned.m16n8.x{count}.trans.shared.b8 [%r1], {{{}}}; bar.sync 0;
            ld.shared.v4.u32 {{%r2, %r3, %r4, %r5}}, [%r1]; mad.wide.u32 %d1, %t, 16, %a0; st.global.v4.u32 [%d1], {{%r2, %r3, %r4, %r5}};", list(count, 10));
        let got = case(&body).output("out", 128).input("in", &words(&rows())).words();
        for row in 0..32 {
            for column in 0..16 {
                // Column g + 8·h of row 2·t + b lies in byte b + 2·h of lane 4·g + t.
                let (lane, i) = (4 * (column % 8) + row % 8 / 2, row % 2 + 2 * (column / 8));
                let expected = match row < 8 * count {
                    true => (4 * lane + i + 67 * (row / 8) % 128) as u8,
                    false => rows()[16 * row + column],
                };
                let found = got[4 * row + column / 4].to_le_bytes()[column % 4];
                assert_eq!(found, expected, "x{count} row {row} column {column}");
            }
        }
    }
}

#[test]
fn movmatrix() {
    let got = registers(
        "mul.lo.u32 %r6, %t, 0x20002; add.u32 %r6, %r6, 0x10000; movmatrix.sync.aligned.m8n8.trans.b16 %r10, %r6;",
        1,
    );
    // Element (row, column) of the source is 8·row + column; a lane gets row lane/4 of the transpose.
    let element = |row: usize, column: usize| (8 * column + row) as u32;
    assert_eq!(
        got,
        each(32, |lane| element(lane / 4, 2 * (lane % 4))
            | element(lane / 4, 2 * (lane % 4) + 1) << 16)
    );
}

/// `mma` with registers filled from a buffer, one word each.
fn mma_case(opcode: &str, [d, a, b, c]: [usize; 4]) -> Case {
    let inputs = a + b + c;
    let loads: String = (0..inputs)
        .map(|i| format!("ld.global.u32 %r{}, [%d1+{}]; ", 10 + i, 4 * i))
        .collect();
    let stores: String = (0..d)
        .map(|i| format!("st.global.u32 [%d2+{}], %r{}; ", 4 * i, 40 + i))
        .collect();
    let body = format!(
        "mad.wide.u32 %d1, %t, {}, %a1; mad.wide.u32 %d2, %t, {}, %a0; {loads} {opcode} {{{}}}, {{{}}}, {{{}}}, {{{}}}; {stores}",
        4 * inputs,
        4 * d,
        list(d, 40),
        list(a, 10),
        list(b, 10 + a),
        list(c, 10 + a + b)
    );
    // Halves near 1, and floats near 1, whichever way they are read.
    let input = each(32 * inputs, |i| {
        0x3f80_3f80 ^ (i as u32).wrapping_mul(0x0137_0253) & 0x80ff_80ff
    });
    case(&body).output("out", 32 * d as u64).input("in", &input)
}

#[test]
fn mma_is_that_of_the_arithmetic() {
    for (opcode, counts) in [
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", [4, 4, 2, 4]),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", [4, 4, 2, 4]),
        ("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", [2, 4, 2, 2]),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", [4, 4, 2, 4]),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", [4, 4, 2, 4]),
    ] {
        let words: Vec<String> = opcode.split('.').map(str::to_owned).collect();
        let mma = Mma::parse(&words).unwrap();
        let [d, a, b, c] = counts;
        let case = mma_case(opcode, counts);
        for (arithmetic, mode) in [
            (MmaArithmetic::Fast, MmaMode::Fast),
            (MmaArithmetic::Exact, MmaMode::Exact(TensorCore::of_sm(100))),
        ] {
            let done = case.clone().with(|options| options.mma = arithmetic).run();
            let (got, input) = (done.clean().words(0), done.words(1));
            let fragment = |first: usize, count: usize| {
                each(count, |i| {
                    std::array::from_fn(|lane| input[lane * (a + b + c) + first + i])
                })
            };
            let mut expected = [[0; 32]; 4];
            mma.run_into(
                mode,
                &fragment(0, a),
                &fragment(a, b),
                &fragment(a + b, c),
                &mut expected,
            );
            assert_eq!(got, each(32 * d, |i| expected[i % d][i / d]), "{opcode}");
            assert_eq!(done.statistics().total.tensor_flops, mma.operations());
        }
    }
}

#[test]
fn rows_outside_of_shared_memory() {
    for address in [
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r1+1500];",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r1+8];",
        "ldmatrix.sync.aligned.m8n8.x1.b16 {%r10}, [%a0];",
    ] {
        let case = case(&format!("{ROWS}{address}"))
            .output("out", 32)
            .input("in", &words(&rows()));
        assert_eq!(case.report().checker, super::Checker::Memcheck);
    }
    // Only the lanes that give rows need good addresses.
    let body = format!(
        "{ROWS} setp.lt.u32 %p0, %t, 16; @!%p0 mov.u32 %r1, 7; ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r10, %r11}}, [%r1];"
    );
    case(&body).output("out", 32).input("in", &words(&rows())).run().clean();
}

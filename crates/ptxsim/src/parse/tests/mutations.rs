//! Thousands of seeded mutations of the real files: the parser never panics, and takes little time for each.

use super::real_files::{CALLS_SM90, CALLS_SM100, SOFTMAX_SM80, TILE_SM80, TILE_SM120};
use super::*;

/// Pieces that matter to the grammar, put in at random places.
const PIECES: [&str; 40] = [
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    "|",
    ",",
    ";",
    ":",
    "@",
    "!",
    "-",
    "+",
    "_",
    ".",
    "\"",
    "//",
    "/*",
    "*/",
    "\\",
    "\u{e9}",
    "\0",
    ".reg",
    ".b32",
    ".v4",
    "::",
    "0f",
    "0x",
    "1e9",
    "4294967296",
    "18446744073709551616",
    "<999999999>",
    "[18446744073709551615]",
    ".section .x {",
    "call (",
    ".callprototype",
    ".loc 1",
];

/// The splitmix64 generator: the same mutations on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Changes `text` once: cut, drop, double, move, overwrite or insert.
fn mutate(text: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(text.len());
    let length = [1, 3, 20, 200][random.below(4)];
    let end = (start + random.below(length) + 1).min(text.len());
    match random.below(8) {
        0 => text.truncate(start),
        1 => drop(text.drain(start..end)),
        2 => {
            let piece = text[start..end].to_vec();
            let copies = 1 + random.below(50);
            text.splice(start..start, piece.repeat(copies));
        }
        3 => {
            let piece: Vec<u8> = text.drain(start..end).collect();
            let target = random.below(text.len() + 1);
            text.splice(target..target, piece);
        }
        4 if start < text.len() => text[start] = random.below(128) as u8,
        _ => {
            let piece = PIECES[random.below(PIECES.len())];
            let copies = if random.below(20) == 0 {
                1 + random.below(5000)
            } else {
                1
            };
            text.splice(start..start, piece.repeat(copies).into_bytes());
        }
    }
}

#[test]
fn mutated_files_are_parsed_or_refused() {
    let files = [TILE_SM80, TILE_SM120, CALLS_SM90, CALLS_SM100, SOFTMAX_SM80];
    let mut random = Random(1);
    let (mut parsed, mut refused) = (0, 0);
    for round in 0..4000 {
        let mut bytes = files[round % files.len()].as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, &mut random);
        }
        let text = String::from_utf8_lossy(&bytes);
        match parse(&text) {
            Ok(_) => parsed += 1,
            Err(error) => {
                refused += 1;
                let line = text
                    .split('\n')
                    .nth(error.line as usize - 1)
                    .expect("the error is on a line of the file");
                assert!(
                    error.column as usize <= line.chars().count() + 1,
                    "round {round}: {error}"
                );
                assert!(error.message.len() < 300, "round {round}: {error}");
            }
        }
    }
    assert!(
        parsed > 100 && refused > 1000,
        "{parsed} parsed, {refused} refused: the mutations do not mean much"
    );
}

#[test]
fn every_truncation_is_parsed_or_refused() {
    let mut cut = SOFTMAX_SM80.len();
    while cut > 0 {
        cut = cut.saturating_sub(7);
        if let Some(text) = SOFTMAX_SM80.get(..cut) {
            // Whatever it says, it returns.
            let _ = parse(text);
        }
    }
}

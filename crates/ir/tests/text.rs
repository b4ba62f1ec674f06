//! The text form: random graphs come back the same, errors name their place, and no text makes the parser panic.

mod support;

use mlafuse_ir::build::GraphBuilder;
use mlafuse_ir::graph::{Graph, Op, Pairing, ValueId};
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::presets::preset;
use mlafuse_ir::size::{Dim, Symbol};
use mlafuse_ir::text::parse;
use mlafuse_ir::verify::verify;
use mlafuse_tensor::DType;
use proptest::prelude::*;
use support::Rng;

const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

fn random_dim(rng: &mut Rng) -> Dim {
    match rng.below(3) {
        0 => Dim::Sym(Symbol::new((b'A' + rng.below(26) as u8) as char).unwrap()),
        _ => Dim::Const(2 * (1 + rng.below(4))),
    }
}

/// A float of random bits, so that the round trip is tested on odd ones.
fn random_float(rng: &mut Rng) -> f64 {
    let x = f64::from_bits(rng.next());
    if x.is_finite() { x } else { -0.0 }
}

fn random_op(rng: &mut Rng) -> Op {
    let axis = rng.below(3);
    match rng.below(16) {
        0 => Op::RmsNorm {
            eps: random_float(rng).abs(),
        },
        1 => Op::Rope {
            pairing: if rng.below(2) == 0 {
                Pairing::Interleaved
            } else {
                Pairing::Halves
            },
        },
        2 => Op::Scale {
            factor: random_float(rng),
        },
        3 => Op::Add,
        4 => Op::Mask,
        5 => Op::Softmax,
        6 => Op::Slice {
            axis,
            start: rng.below(2),
            len: 1 + rng.below(3),
        },
        7 => Op::Concat { axis },
        8 => Op::Reshape,
        9 => Op::Cast,
        10 => Op::CacheWrite,
        11 => Op::CacheRead,
        12 => Op::Mul,
        13 => Op::ScaleRows,
        14 => Op::InvRms {
            eps: random_float(rng).abs(),
        },
        _ => Op::Einsum("a b c, a d -> c d".parse().unwrap()),
    }
}

/// Tries ops on random values and keeps those that fit.
fn random_graph(rng: &mut Rng) -> Graph {
    let mut g = GraphBuilder::new("random");
    let (b, t) = (Dim::Sym(Symbol::B), Dim::Sym(Symbol::T));
    let mut values: Vec<ValueId> = Vec::new();
    for i in 0..4 {
        let shape = [b, t, 8.into()];
        values.push(g.input(&format!("in put.{i}"), FLOATS[rng.below(4)], &shape).unwrap());
    }
    for shape in [vec![b], vec![b], vec![b, Symbol::P.into()]] {
        let n = values.len();
        values.push(g.input(&format!("i{n}"), DType::I32, &shape).unwrap());
    }
    for shape in [
        vec![9.into(), 4.into()],
        vec![9.into(), 4.into()],
        vec![3.into(), 4.into(), 16.into()],
        vec![8.into()],
    ] {
        let n = values.len();
        values.push(g.weight(&format!("f{n}"), DType::F32, &shape).unwrap());
    }
    for i in 0..300 {
        let op = random_op(rng);
        let count = op.arity().chars().filter_map(|c| c.to_digit(10)).next_back().unwrap() as usize;
        let args: Vec<ValueId> = (0..count).map(|_| values[rng.below(values.len())]).collect();
        let shape: Vec<Dim> = (0..rng.below(4)).map(|_| random_dim(rng)).collect();
        let dtype = if rng.below(2) == 0 {
            g.ty(args[0]).dtype
        } else {
            FLOATS[rng.below(4)]
        };
        if let Ok(value) = g.push(&format!("n{}", i % 7), op, &args, dtype, &shape) {
            values.push(value);
        }
    }
    // The usual arguments of the ops that chance seldom finds them for.
    let pairing = Pairing::Halves;
    let rope = [values[0], values[7], values[8], values[4], values[5]];
    values.push(g.rope("rotated", pairing, rope, DType::BF16).unwrap());
    let args = [values[9], values[0], values[1], values[6], values[4], values[5]];
    values.push(g.push("written", Op::CacheWrite, &args, DType::F32, &[]).unwrap());
    let args = [values[9], values[6], values[5]];
    values.push(
        g.push(
            "read",
            Op::CacheRead,
            &args,
            DType::F32,
            &[b, random_dim(rng), 16.into()],
        )
        .unwrap(),
    );
    for i in 0..rng.below(4) {
        g.output(&format!("out {i}"), values[rng.below(values.len())]);
    }
    g.finish()
}

proptest! {
    #[test]
    fn a_printed_graph_parses_to_itself(seed in any::<u64>()) {
        let graph = random_graph(&mut Rng(seed));
        let text = graph.to_string();
        let again = parse(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&again, &graph);
        // Equal floats are not always the same bits: -0.0.
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn comments_and_line_breaks_mean_nothing(seed in any::<u64>()) {
        let graph = random_graph(&mut Rng(seed));
        let text = format!("# before\n{}# after", graph.to_string().replace(" : ", " # in between %x \"\n :\t"));
        prop_assert_eq!(parse(&text), Ok(graph));
    }
}

fn decode_layer() -> String {
    build_layer(&preset("minicpm3").unwrap(), &LayerOptions::default())
        .unwrap()
        .to_string()
}

/// Damages `text` in a few places: drops, repeats, swaps or replaces pieces of it.
fn mutated(text: &str, rng: &mut Rng) -> String {
    let pieces = [
        "%",
        "\"",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "=",
        "->",
        "#",
        "\n",
        "-",
        "1e999",
        "18446744073709551616",
        "9999999999999",
        "0",
        "nan",
        "é",
        "\u{0}",
        "B",
        "output",
        "graph",
        "%hidden",
        "einsum",
        "i32",
        "bf16",
        "-0.0",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(chars.len());
        let end = (at + rng.below(8)).min(chars.len());
        match rng.below(4) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let again: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, again);
            }
            2 => {
                chars.splice(at..end, pieces[rng.below(pieces.len())].chars());
            }
            _ => {
                let other = rng.below(chars.len());
                chars.swap(at, other);
            }
        }
        if chars.is_empty() {
            break;
        }
    }
    chars.into_iter().collect()
}

#[test]
fn damaged_texts_never_panic() {
    let text = decode_layer();
    let mut rng = Rng(11);
    let mut sound = 0;
    for _ in 0..3000 {
        let damaged = mutated(&text, &mut rng);
        if let Ok(graph) = parse(&damaged) {
            sound += 1;
            verify(&graph).unwrap();
            assert_eq!(parse(&graph.to_string()), Ok(graph));
        }
    }
    // Some damage, such as to a name in quotes, leaves a sound graph; most does not.
    assert!((1..1500).contains(&sound), "{sound}");
}

#[track_caller]
fn fails(text: &str, message: &str) {
    let error = parse(text).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn syntax_errors_name_the_place_what_was_found_and_what_was_expected() {
    fails("", "1:1: found the end of the text, expected `graph`");
    fails("graph g {\n  %x : f32[2]\n}", "2:6: found `:`, expected `=`");
    fails(
        "graph g {\n  %x = foo : f32[2]\n}",
        "2:8: found `foo`, expected an op such as `einsum`",
    );
    fails(
        "graph g {\n  %x = input \"x : f32[2]\n}",
        "2:25: found the end of the line, expected a closing `\"`",
    );
    fails(
        "graph g { %x = input \"x\" : f8[2] }",
        "1:28: found `f8`, expected a storage type such as `bf16`",
    );
    fails(
        "graph g { %x = input \"x\" : f32[2 3] }",
        "1:34: found `3`, expected `,`",
    );
    fails(
        "graph g { %x = input \"x\" : f32[b] }",
        "1:32: found `b`, expected a dimension",
    );
    fails(
        "graph g {\n %y = scale factor=2 %x : f32[2] }",
        "2:22: found `%x`, expected the name of a node above",
    );
    fails(
        "graph g { %x = input \"x\" : f32[2]\n %x = cast %x : f32[2] }",
        "2:2: found `%x`, expected a name no other",
    );
    fails(
        "graph g {\n %x = input \"x\" : f32[2]\n %y = scale factor=two %x : f32[2] }",
        "3:20: found `two`, expected a number",
    );
    fails("graph g { ; }", "1:11: found `;`");
    fails("graph g { } graph", "1:13: found `graph`, expected the end of the text");
}

#[test]
fn type_errors_name_the_place_the_node_and_the_argument() {
    let head = "graph g {\n %x = input \"x\" : f32[T, 4]\n %w = input \"w\" : f32[3, 5]\n";
    let text = format!("{head} %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 3]\n}}");
    fails(&text, "4:36: node `y`, argument 1 (`w`): expected 4 along `d`, got 5");
    let text = format!("{head} %y = softmax %x : f32[T, 3]\n}}");
    fails(&text, "4:2: node `y`: result: expected [T, 4], got [T, 3]");
    let text = format!("{head} %y = add %x : f32[T, 4]\n}}");
    fails(&text, "4:2: node `y`: expected 2 arguments, got 1");
    let text = format!("{head} %y = scale factor=inf %x : f32[T, 4]\n}}");
    fails(&text, "factor: expected a finite number, got inf");
    let text = format!("{head} %y = input \"x\" : f32[T, 4]\n}}");
    fails(&text, "4:2: input name \"x\" stands twice");
    let text = format!("{head} output \"o\" %x\n output \"o\" %w\n}}");
    fails(&text, "5:2: output name \"o\" stands twice");
}

//! What is taken out of random graphs and made beforehand means the same.

mod support;

use mlafuse_ir::build::GraphBuilder;
use mlafuse_ir::graph::{Graph, Op, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::plan::unfused;
use mlafuse_ir::prepare::{PART, Prepared, prepare};
use mlafuse_ir::size::{Dim, Dims};
use mlafuse_ir::text::parse;
use mlafuse_ir::verify::verify;
use mlafuse_tensor::DType;
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::Rng;

type Values = BTreeMap<String, Value<f64>>;

/// Random values for the inputs.
fn inputs(graph: &Graph, rng: &mut Rng) -> Values {
    let mut inputs = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        let shape: Vec<usize> = node
            .ty
            .shape
            .iter()
            .map(|dim| dim.value(&Dims::new()).unwrap())
            .collect();
        inputs.insert(name.clone(), Value::floats(&shape, rng.units(shape.iter().product())));
    }
    inputs
}

/// The outputs, with the weights made part by part first.
fn run(prepared: &Prepared, inputs: &Values) -> Values {
    let mut bound = inputs.clone();
    let mut made = BTreeMap::new();
    for weight in &prepared.weights {
        let parts = weight.parts.iter().map(|part| {
            verify(&part.graph).unwrap();
            assert!(part.graph.constants().iter().all(|constant| *constant));
            let outputs = interpret(&part.graph, &Dims::new(), inputs).unwrap();
            (
                part.run / weight.ty.dtype.size_bytes(),
                outputs[PART].as_floats().unwrap().to_vec(),
            )
        });
        let parts: Vec<(usize, Vec<f64>)> = parts.collect();
        let rows = parts[0].1.len() / parts[0].0;
        let runs = (0..rows).flat_map(|row| parts.iter().map(move |(run, data)| &data[row * run..][..*run]));
        let data: Vec<f64> = runs.flatten().copied().collect();
        assert_eq!(parts.iter().map(|(_, data)| data.len()).sum::<usize>(), data.len());
        let shape: Vec<usize> = weight
            .ty
            .shape
            .iter()
            .map(|dim| dim.value(&Dims::new()).unwrap())
            .collect();
        assert_eq!(weight.bytes, data.len() * weight.ty.dtype.size_bytes());
        made.insert(weight.name.clone(), Value::floats(&shape, data));
    }
    bound.retain(|name, _| prepared.graph.input(name).is_some());
    bound.extend(made);
    interpret(&prepared.graph, &Dims::new(), &bound).unwrap()
}

/// Nodes over weights and inputs of few shapes, so that most can be combined.
fn random_graph(rng: &mut Rng) -> Graph {
    let mut g = GraphBuilder::new("random");
    let mut values: Vec<ValueId> = Vec::new();
    let shapes: [&[usize]; 4] = [&[4], &[2, 4], &[4, 4], &[2, 2, 4]];
    for i in 0..6 {
        let shape: Vec<Dim> = shapes[rng.below(4)].iter().map(|&n| n.into()).collect();
        values.push(match i % 3 {
            0 => g.input(&format!("x{i}"), DType::F32, &shape).unwrap(),
            _ => g.weight(&format!("W{i}"), DType::F32, &shape).unwrap(),
        });
    }
    for _ in 0..12 {
        let (a, b) = (values[rng.below(values.len())], values[rng.below(values.len())]);
        values.extend(random_node(&mut g, a, b, rng));
    }
    for i in 0..3 {
        g.output(
            &format!("y{i}"),
            values[values.len() - 1 - rng.below(values.len().min(6))],
        );
    }
    g.finish()
}

/// A node that reads `a` and perhaps `b`, where the two go together.
fn random_node(g: &mut GraphBuilder, a: ValueId, b: ValueId, rng: &mut Rng) -> Option<ValueId> {
    let shape = g.ty(a).shape.clone();
    let axis = rng.below(shape.len());
    let Dim::Const(len) = shape[axis] else { return None };
    // Now and then another storage type: the interpreter does not round.
    let dtype = [DType::F32, DType::F32, DType::BF16][rng.below(3)];
    match rng.below(8) {
        0 => g.scale("s", 0.5, a, dtype).ok(),
        1 => g.slice("part", axis, len / 2, len - len / 2, a).ok(),
        2 => {
            let all = shape
                .iter()
                .map(|dim| dim.value(&Dims::new()).unwrap())
                .product::<usize>();
            let dtype = g.ty(a).dtype;
            g.push("flat", Op::Reshape, &[a], dtype, &[all.into()]).ok()
        }
        3 => g.add("sum", a, b, dtype).ok(),
        4 => g.mul("product", a, b, dtype).ok(),
        _ => g.push("both", Op::Concat { axis }, &[a, b], dtype, &[]).ok(),
    }
}

proptest! {
    #[test]
    fn the_parts_and_the_rest_mean_what_the_graph_means(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let graph = random_graph(&mut rng);
        let inputs = inputs(&graph, &mut rng);
        let prepared = prepare(&graph).unwrap();
        verify(&prepared.graph).unwrap();
        prop_assert_eq!(run(&prepared, &inputs), interpret(&graph, &Dims::new(), &inputs).unwrap(), "{}", graph);
        // Nothing but views is computed from weights alone any more.
        let nodes = prepared.graph.nodes.iter().zip(prepared.graph.constants());
        for (node, constant) in nodes {
            let stays = matches!(node.op, Op::Input { .. } | Op::Slice { .. } | Op::Reshape);
            prop_assert!(stays || !constant, "{}", prepared.graph);
        }
        prop_assert_eq!(prepare(&prepared.graph).unwrap().graph, prepared.graph);
    }
}

#[test]
fn random_graphs_have_weights_to_prepare() {
    let prepared = (0..400).map(|seed| prepare(&random_graph(&mut Rng(seed))).unwrap());
    let weights: Vec<_> = prepared.flat_map(|prepared| prepared.weights).collect();
    let parts = || weights.iter().flat_map(|weight| &weight.parts);
    let several = weights.iter().filter(|weight| weight.parts.len() > 1).count();
    let computed = parts().filter(|part| part.graph.nodes.len() > 1).count();
    let rows = weights
        .iter()
        .filter(|weight| weight.parts.iter().map(|part| part.run).sum::<usize>() < weight.bytes);
    let counts = [several, computed, rows.count()];
    assert!(counts.iter().all(|&count| count > 10), "{counts:?}");
}

/// A gain in one weight, three weights side by side, and a slice of one that is read whole elsewhere.
const LAYER: &str = "graph g {
  %x = input \"x\" : bf16[T, 8]
  %w_a = weight \"W_A\" : bf16[4, 8]
  %w_b = weight \"W_B\" : bf16[2, 8]
  %w_c = weight \"W_C\" : bf16[2, 2, 8]
  %g = weight \"g\" : bf16[8]
  %unused = weight \"W_U\" : bf16[8]
  %folded = mul %w_a, %g : bf16[4, 8]
  %two = concat axis=0 %folded, %w_b : bf16[6, 8]
  %flat = reshape %w_c : bf16[4, 8]
  %all = concat axis=0 %two, %flat : bf16[10, 8]
  %y = einsum \"t d, r d -> t r\" %x, %all : bf16[T, 10]
  %first = slice axis=0 start=0 len=1 %w_b : bf16[1, 8]
  %z = einsum \"t d, r d -> t r\" %x, %first : bf16[T, 1]
  output \"y\" %y
  output \"z\" %z
}";

#[test]
fn names_tell_what_a_weight_is_made_of() {
    let prepared = prepare(&parse(LAYER).unwrap()).unwrap();
    assert_eq!(
        prepared.graph.to_string(),
        "graph g {
  %x = input \"x\" : bf16[T, 8]
  %w_b = weight \"W_B\" : bf16[2, 8]
  %all = weight \"W_A*g|W_B|W_C\" : bf16[10, 8]
  %y = einsum \"t d, r d -> t r\" %x, %all : bf16[T, 10]
  %first = slice axis=0 start=0 len=1 %w_b : bf16[1, 8]
  %z = einsum \"t d, r d -> t r\" %x, %first : bf16[T, 1]
  output \"y\" %y
  output \"z\" %z
}
"
    );
    let [w_b, all] = prepared.weights.as_slice() else {
        panic!()
    };
    assert_eq!((w_b.name.as_str(), w_b.bytes, w_b.parts.len()), ("W_B", 32, 1));
    assert_eq!((all.name.as_str(), all.bytes), ("W_A*g|W_B|W_C", 160));
    let runs: Vec<usize> = all.parts.iter().map(|part| part.run).collect();
    assert_eq!(runs, [64, 32, 64]);
    let parts: Vec<String> = all.parts.iter().map(|part| part.graph.to_string()).collect();
    let expected = [
        "graph folded {
  %w_a = weight \"W_A\" : bf16[4, 8]
  %g = weight \"g\" : bf16[8]
  %folded = mul %w_a, %g : bf16[4, 8]
  output \"part\" %folded
}
",
        "graph w_b {
  %w_b = weight \"W_B\" : bf16[2, 8]
  output \"part\" %w_b
}
",
        "graph w_c {
  %w_c = weight \"W_C\" : bf16[2, 2, 8]
  output \"part\" %w_c
}
",
    ];
    assert_eq!(parts, expected);
}

#[test]
fn heads_side_by_side_are_runs_of_rows() {
    let text = "graph g { %x = input \"x\" : bf16[T, 8] %a = weight \"W_UQ\" : bf16[3, 5, 8] %b = weight \"W_QR\" : bf16[3, 2, 8]
        %g = weight \"g\" : bf16[8] %f = mul %a, %g : bf16[3, 5, 8] %w = concat axis=1 %f, %b : bf16[3, 7, 8]
        %y = einsum \"t d, h n d -> t h n\" %x, %w : bf16[T, 3, 7] output \"y\" %y }";
    let prepared = prepare(&parse(text).unwrap()).unwrap();
    let [weight] = prepared.weights.as_slice() else {
        panic!()
    };
    assert_eq!((weight.name.as_str(), weight.bytes), ("W_UQ*g|W_QR", 2 * 3 * 7 * 8));
    let runs: Vec<usize> = weight.parts.iter().map(|part| part.run).collect();
    assert_eq!(runs, [2 * 5 * 8, 2 * 2 * 8]);
}

#[test]
fn names_are_unique_and_plans_have_them() {
    let text = "graph g { %x = input \"W_A*W_A\" : f32[T, 4] %a = weight \"W_A\" : f32[4]
        %p = mul %a, %a : f32[4] %q = add %a, %a : f32[4]
        %y = mul %x, %p : f32[T, 4] %z = mul %y, %q : f32[T, 4] output \"z\" %z }";
    let prepared = prepare(&parse(text).unwrap()).unwrap();
    let names: Vec<&str> = prepared.weights.iter().map(|weight| weight.name.as_str()).collect();
    assert_eq!(names, ["W_A*W_A_2", "W_A*W_A_3"]);
    let plan = unfused(&prepared.graph).unwrap();
    let kernels: Vec<&str> = plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    assert_eq!(kernels, ["mul_y", "mul_z"]);
    assert!(plan.buffers.iter().any(|buffer| buffer.name == "W_A*W_A_3"));
}

#[test]
fn a_part_that_is_a_slice_has_memory_of_its_own() {
    let text = "graph g { %x = input \"x\" : f32[T, 4] %a = weight \"W_A\" : f32[3, 4] %b = weight \"W_B\" : f32[2, 4]
        %some = slice axis=0 start=1 len=2 %a : f32[2, 4] %w = concat axis=0 %some, %b : f32[4, 4]
        %y = einsum \"t d, r d -> t r\" %x, %w : f32[T, 4] output \"y\" %y }";
    let prepared = prepare(&parse(text).unwrap()).unwrap();
    let [weight] = prepared.weights.as_slice() else {
        panic!()
    };
    let plan = unfused(&weight.parts[0].graph).unwrap();
    assert_eq!(plan.kernels.len(), 1);
    assert!(plan.output(PART).unwrap().offset.is_empty());
}

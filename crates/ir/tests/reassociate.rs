//! Re-association of random contractions keeps their meaning.

mod support;

use mlafuse_ir::build::GraphBuilder;
use mlafuse_ir::graph::{EinsumSpec, Graph, Op, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::rewrite::reassociate::{reassociate, sites};
use mlafuse_ir::rewrite::{Machine, rewrite};
use mlafuse_ir::size::{Dim, Dims};
use mlafuse_ir::verify::verify;
use mlafuse_tensor::DType;
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::Rng;

/// A tree of contractions over random dimensions: each takes two of the values that nothing has read yet.
fn random_graph(rng: &mut Rng) -> Graph {
    let mut g = GraphBuilder::new("random");
    let mut open: Vec<ValueId> = Vec::new();
    for i in 0..3 + rng.below(3) {
        let shape: Vec<Dim> = (0..1 + rng.below(4)).map(|_| Dim::Const(2 + rng.below(2))).collect();
        open.push(g.input(&format!("x{i}"), DType::F32, &shape).unwrap());
    }
    while open.len() > 1 {
        let a = open.swap_remove(rng.below(open.len()));
        let b = open.swap_remove(rng.below(open.len()));
        let spec = random_spec(&g.ty(a).shape, &g.ty(b).shape, rng);
        open.push(g.push("y", Op::Einsum(spec), &[a, b], DType::F32, &[]).unwrap());
    }
    g.output("y", open[0]);
    g.finish()
}

/// Labels drawn from one small alphabet in each node, so that nodes use the same letters for different dimensions.
fn random_spec(a: &[Dim], b: &[Dim], rng: &mut Rng) -> EinsumSpec {
    let mut alphabet: Vec<String> = ('a'..='h').map(String::from).collect();
    let mut fresh = |rng: &mut Rng| alphabet.swap_remove(rng.below(alphabet.len()));
    let first: Vec<String> = a.iter().map(|_| fresh(rng)).collect();
    let mut second: Vec<String> = Vec::new();
    for dim in b {
        let same = first
            .iter()
            .zip(a)
            .filter(|(l, d)| *d == dim && !second.contains(l))
            .map(|(l, _)| l.clone())
            .next();
        second.push(same.filter(|_| rng.below(4) > 0).unwrap_or_else(|| fresh(rng)));
    }
    let mut spec = EinsumSpec {
        a: first,
        b: second,
        out: Vec::new(),
    };
    let mut labels: Vec<String> = spec.labels().cloned().collect();
    while !labels.is_empty() {
        let label = labels.swap_remove(rng.below(labels.len()));
        if spec.out.len() < 4 && rng.below(3) > 0 {
            spec.out.push(label);
        }
    }
    spec
}

/// Small integers: every association is exact.
fn inputs(graph: &Graph, rng: &mut Rng) -> BTreeMap<String, Value<f64>> {
    let mut inputs = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        let shape: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&Dims::new()).unwrap()).collect();
        let data = (0..shape.iter().product()).map(|_| rng.below(7) as f64 - 3.0).collect();
        inputs.insert(name.clone(), Value::floats(&shape, data));
    }
    inputs
}

proptest! {
    #[test]
    fn each_association_means_the_same(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let graph = random_graph(&mut rng);
        let inputs = inputs(&graph, &mut rng);
        let want = interpret(&graph, &Dims::new(), &inputs).unwrap();
        // In a tree nothing is read twice, so the rule applies everywhere.
        let sites: Vec<_> = sites(&graph).into_iter().map(Result::unwrap).collect();
        for site in sites {
            for first in [0, 1] {
                let other = reassociate(&graph, site, first).unwrap();
                verify(&other).unwrap();
                let got = interpret(&other, &Dims::new(), &inputs).unwrap();
                prop_assert_eq!(&got, &want, "{}{}", graph, other);
            }
        }
    }

    #[test]
    fn the_driver_keeps_the_meaning_and_lowers_the_cost(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let graph = random_graph(&mut rng);
        let inputs = inputs(&graph, &mut rng);
        let machine = Machine { flops_per_s: 1e9, bytes_per_s: 1e9 };
        let rewritten = rewrite(&graph, &Dims::new(), &machine).unwrap();
        let want = interpret(&graph, &Dims::new(), &inputs).unwrap();
        prop_assert_eq!(interpret(&rewritten.graph, &Dims::new(), &inputs).unwrap(), want);
        for step in rewritten.steps.iter().filter(|step| step.outcome == mlafuse_ir::rewrite::Outcome::Applied) {
            prop_assert!(step.after.seconds < step.before.seconds);
        }
    }
}

//! Every rule, and the driver over sets of them, keeps the meaning of random graphs.

mod support;

use mlafuse_ir::graph::Graph;
use mlafuse_ir::interp::interpret;
use mlafuse_ir::rewrite::{Machine, Outcome, Rewritten, Rule, rewrite_with};
use mlafuse_ir::size::Dims;
use mlafuse_ir::text::parse;
use mlafuse_ir::verify::verify;
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::{Rng, distance, random};

const ALL: [Rule; 8] = [
    Rule::Reassociate,
    Rule::Merge,
    Rule::Split,
    Rule::NormRows,
    Rule::MoveFactor,
    Rule::MoveRope,
    Rule::FoldFactor,
    Rule::DropCast,
];

/// Fails where the outputs of `other` are not those of `graph`.
fn same_meaning(graph: &Graph, other: &Graph, seed: u64) -> Result<(), TestCaseError> {
    verify(other).map_err(|error| TestCaseError::fail(format!("{error}\n{graph}{other}")))?;
    let inputs = random::inputs(graph, &mut Rng(seed));
    let want = interpret(graph, &Dims::new(), &inputs).unwrap();
    let got = interpret(other, &Dims::new(), &inputs).unwrap();
    prop_assert!(want.keys().eq(got.keys()), "{}{}", graph, other);
    for (name, want) in &want {
        let error = distance(got[name].as_floats().unwrap(), want.as_floats().unwrap());
        prop_assert!(error < 1e-9, "{}: {}\n{}{}", name, error, graph, other);
    }
    Ok(())
}

/// A part whose limits make any of arithmetic, traffic and launches count most.
fn machine(rng: &mut Rng) -> Machine {
    let mut limit = || 10f64.powi(3 + rng.below(7) as i32);
    Machine {
        flops_per_s: limit(),
        bytes_per_s: limit(),
        launch_s: 1.0 / limit(),
    }
}

fn applied(rewritten: &Rewritten) -> usize {
    let applied = |step: &&mlafuse_ir::rewrite::Step| step.outcome == Outcome::Applied;
    rewritten.steps.iter().filter(applied).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_change_keeps_the_meaning(seed in any::<u64>()) {
        let graph = random::dag(&mut Rng(seed));
        for rule in ALL {
            for finding in rule.find(&graph) {
                if let Ok(change) = finding.change {
                    same_meaning(&graph, &change.graph, seed)?;
                }
            }
        }
    }

    #[test]
    fn the_driver_keeps_the_meaning_and_lowers_the_cost(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let (graph, machine) = (random::dag(&mut rng), machine(&mut rng));
        for rules in [&ALL[..], &Rule::LOAD, &Rule::LAUNCH] {
            let rewritten = rewrite_with(&graph, &Dims::new(), &machine, rules).unwrap();
            same_meaning(&graph, &rewritten.graph, seed)?;
            prop_assert_eq!(&rewrite_with(&graph, &Dims::new(), &machine, rules).unwrap(), &rewritten);
            prop_assert_eq!(&parse(&rewritten.to_text()).unwrap(), &rewritten.graph);
            if let Some(last) = applied(&rewritten).checked_sub(1) {
                prop_assert!(rewritten.steps[last].after.seconds < rewritten.steps[0].before.seconds);
            }
            // What is left gains nothing.
            let again = rewrite_with(&rewritten.graph, &Dims::new(), &machine, rules).unwrap();
            prop_assert_eq!(&again.graph, &rewritten.graph);
        }
    }

    #[test]
    fn each_association_of_a_tree_is_the_same_number(seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let graph = random::tree(&mut rng);
        let inputs = random::integers(&graph, &mut rng);
        let want = interpret(&graph, &Dims::new(), &inputs).unwrap();
        for finding in Rule::Reassociate.find(&graph) {
            // In a tree nothing is read twice, so the rule applies everywhere.
            let other = finding.change.unwrap().graph;
            verify(&other).unwrap();
            prop_assert_eq!(&interpret(&other, &Dims::new(), &inputs).unwrap(), &want, "{}{}", graph, other);
        }
    }
}

#[test]
fn the_random_graphs_have_work_for_every_rule() {
    let mut changes = BTreeMap::new();
    for seed in 0..300 {
        let graph = random::dag(&mut Rng(seed));
        for rule in ALL {
            let found = rule
                .find(&graph)
                .iter()
                .filter(|finding| finding.change.is_ok())
                .count();
            *changes.entry(rule.name()).or_insert(0) += found;
        }
    }
    assert!(
        changes.len() == ALL.len() && changes.values().all(|&count| count >= 20),
        "{changes:?}"
    );
}

/// A part with fast memory and no cost of launching: arithmetic alone counts.
const ARITHMETIC: Machine = Machine {
    flops_per_s: 1e9,
    bytes_per_s: 1e18,
    launch_s: 0.0,
};

/// The rules of the steps that a graph takes, of x \[64, 16\], V \[8, 16\] and W \[8, 8\].
fn steps(body: &str) -> Vec<&'static str> {
    let graph = parse(&format!(
        "graph g {{ %x = input \"x\" : f32[64, 16] %r = input \"r\" : f32[64] %v = input \"v\" : f32[8, 16]
         %w = input \"w\" : f32[8, 8] {body} output \"y\" %y }}"
    ))
    .unwrap();
    let rewritten = rewrite_with(&graph, &Dims::new(), &ARITHMETIC, &Rule::LAUNCH).unwrap();
    let steps = rewritten.steps.iter().take(applied(&rewritten));
    steps.map(|step| step.rule).collect()
}

#[test]
fn what_stands_in_the_way_moves_first() {
    let [a, y] = [
        "%a = einsum \"t d, q d -> t q\" %x, %v : f32[64, 8]",
        "%y = einsum \"t q, r q -> t r\" %s, %w : f32[64, 8]",
    ];
    // V·W first is the cheaper association. Moving a row factor behind W gains nothing by itself.
    let plain = format!("{a} {}", y.replace("%s", "%a"));
    assert_eq!(steps(&plain), ["reassociate"]);
    for factor in ["scale factor=2.0 %a", "scale_rows %a, %r"] {
        let rules = steps(&format!("{a} %s = {factor} : f32[64, 8] {y}"));
        assert!(
            rules.starts_with(&["move_factor", "reassociate"]),
            "{factor}: {rules:?}"
        );
    }
    let rules = steps(&format!(
        "{a} %c = cast %a : f32[64, 8] %s = scale factor=2.0 %c : f32[64, 8] {y}"
    ));
    assert!(
        rules.contains(&"drop_cast") && rules.contains(&"reassociate"),
        "{rules:?}"
    );
}

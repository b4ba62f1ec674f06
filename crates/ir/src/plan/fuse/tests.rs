use super::super::*;
use crate::build::GraphBuilder;
use crate::graph::Pairing;
use proptest::prelude::*;

const B: Dim = Dim::Sym(Symbol::B);
const T: Dim = Dim::Sym(Symbol::T);

/// The layer up to its attention, its projections merged: heads of 6 content and 4 rope columns. Of `kept`, bit i makes node i
/// of what may be an output one.
fn front(d_rope: usize, kept: u32) -> Graph {
    let (d_q, d_latent, d_nope, heads, dtype) = (5, 7, 6, 3, DType::BF16);
    let mut g = GraphBuilder::new("front");
    let hidden = g.input("hidden", dtype, &[B, T, 8.into()]).unwrap();
    let lengths = ["q_len", "kv_len"].map(|name| g.input(name, DType::I32, &[B]).unwrap());
    let [q_len, kv_len] = lengths;
    let tables = ["cos", "sin"].map(|name| {
        let shape = [Symbol::L.into(), (d_rope / 2).max(1).into()];
        g.input(name, DType::F32, &shape).unwrap()
    });
    let row = d_latent + d_rope;
    let cache = g
        .input("cache", dtype, &[Symbol::N.into(), 16.into(), row.into()])
        .unwrap();
    let table = g.input("block_table", DType::I32, &[B, Symbol::P.into()]).unwrap();
    let w_d = g.weight("W_D", dtype, &[(d_q + row).into(), 8.into()]).unwrap();
    let down = g.einsum("down", "b t d, r d -> b t r", hidden, w_d, dtype).unwrap();
    let bias = g.weight("b_D", dtype, &[(d_q + row).into()]).unwrap();
    let down = g.add("down_biased", down, bias, dtype).unwrap();
    let latent = g.slice("dq", 2, 0, d_q, down).unwrap();
    let w_q = g
        .weight("W_Q", dtype, &[heads.into(), (d_nope + d_rope).into(), d_q.into()])
        .unwrap();
    let up = g.einsum("up", "b t q, h m q -> b t h m", latent, w_q, dtype).unwrap();
    let r = g.inv_rms("r", 1e-6, latent, DType::F32).unwrap();
    let normed = g.scale_rows("up_normed", up, r, dtype).unwrap();
    let q_nope = g.slice("q_nope", 3, 0, d_nope, normed).unwrap();
    let mut may_keep = vec![up, normed, q_nope, r, latent];
    if d_rope > 0 {
        let q_r = g.slice("q_r", 3, d_nope, d_rope, normed).unwrap();
        let of = [q_r, tables[0], tables[1], q_len, kv_len];
        let q_pe = g.rope("q_pe", Pairing::Halves, of, dtype).unwrap();
        g.output("q_pe", q_pe);
        // What is made first of the kernel is read before its last is made.
        let early = g.scale("early", 2.0, q_pe, dtype).unwrap();
        g.output("early", early);
        may_keep.push(q_r);
    }
    let w_uk = g
        .weight("W_UK", dtype, &[heads.into(), d_nope.into(), d_latent.into()])
        .unwrap();
    let q_abs = g
        .einsum("q_abs", "b t h n, h n c -> b t h c", q_nope, w_uk, dtype)
        .unwrap();
    g.output("q_abs", q_abs);
    let gain = g.weight("g_kv", dtype, &[d_latent.into()]).unwrap();
    let dkv = g.slice("dkv", 2, d_q, d_latent, down).unwrap();
    let c_kv = g.rms_norm("c_kv", 1e-6, dkv, gain, dtype).unwrap();
    let mut args = vec![cache, c_kv];
    if d_rope > 0 {
        let k_r = g.slice("k_r", 2, d_q + d_latent, d_rope, down).unwrap();
        let of = [k_r, tables[0], tables[1], q_len, kv_len];
        args.push(g.rope("k_pe", Pairing::Halves, of, dtype).unwrap());
    }
    may_keep.extend(&args[1..]);
    args.extend([table, q_len, kv_len]);
    let new_cache = g.push("new_cache", Op::CacheWrite, &args, dtype, &[]).unwrap();
    g.output("cache", new_cache);
    for (i, &value) in may_keep.iter().enumerate().filter(|(i, _)| kept >> i & 1 == 1) {
        g.output(&format!("kept{i}"), value);
    }
    g.finish()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect()
}

fn results<'a>(plan: &'a Plan, kernel: &str) -> Vec<&'a str> {
    let values = plan.results(plan.kernel(kernel).unwrap());
    values
        .iter()
        .map(|&value| plan.graph.node(value).name.as_str())
        .collect()
}

#[test]
fn projections_are_three_kernels() {
    let plan = fused(&front(4, 0)).unwrap();
    // What reads the rotated part comes after all of the projection, and that after the factors of its rows.
    let expected = [
        "einsum_down_biased",
        "cache_write_new_cache",
        "project_up",
        "scale_early",
    ];
    assert_eq!(names(&plan), expected, "{plan}");
    assert_eq!(results(&plan, "cache_write_new_cache"), ["r", "new_cache"]);
    assert_eq!(results(&plan, "project_up"), ["q_abs", "q_pe"]);
    let RegionKind::UpProjection(region) = &plan.kernel("project_up").unwrap().kind else {
        panic!("{plan}");
    };
    let columns: Vec<_> = region.parts.iter().map(|part| part.columns.clone()).collect();
    assert_eq!((columns, region.epilogue.len()), (vec![0..6, 6..10], 1));
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
}

#[test]
fn columns_that_others_need_are_stored() {
    let plan = fused(&front(4, 0b100)).unwrap();
    assert_eq!(results(&plan, "project_up"), ["q_nope", "q_pe"]);
    assert!(plan.kernel("einsum_q_abs").is_some(), "{plan}");
    // Where all of it is needed, nothing is left to do but the contraction.
    let plan = fused(&front(4, 0b10)).unwrap();
    assert!(plan.kernel("einsum_up_normed").is_some(), "{plan}");
    assert!(plan.kernel("rope_q_pe").is_some(), "{plan}");
}

#[test]
fn heads_without_rope_are_one_part() {
    let plan = fused(&front(0, 0)).unwrap();
    assert_eq!(results(&plan, "project_up"), ["q_abs"]);
}

/// x · w and what `after` makes of it.
fn contraction(after: impl Fn(&mut GraphBuilder, ValueId) -> ValueId) -> Plan {
    let mut g = GraphBuilder::new("epilogue");
    let x = g.input("x", DType::BF16, &[B, T, 4.into()]).unwrap();
    let w = g.weight("w", DType::BF16, &[6.into(), 4.into()]).unwrap();
    let y = g.einsum("y", "b t d, r d -> b t r", x, w, DType::BF16).unwrap();
    let last = after(&mut g, y);
    g.output("last", last);
    fused(&g.finish()).unwrap()
}

#[test]
fn elements_are_finished_where_they_are_summed() {
    let plan = contraction(|g, y| {
        let bias = g.weight("bias", DType::BF16, &[6.into()]).unwrap();
        let biased = g.add("biased", y, bias, DType::BF16).unwrap();
        let scaled = g.scale("scaled", 0.5, biased, DType::BF16).unwrap();
        let factors = g.input("r", DType::F32, &[B]).unwrap();
        let rows = g.scale_rows("rows", scaled, factors, DType::BF16).unwrap();
        g.push("cast", Op::Cast, &[rows], DType::F32, &[]).unwrap()
    });
    assert_eq!((names(&plan), plan.notes.len()), (vec!["einsum_cast"], 0), "{plan}");
    assert_eq!(results(&plan, "einsum_cast"), ["cast"]);
}

#[test]
fn what_cannot_follow_a_sum_says_why() {
    let plan = contraction(|g, y| {
        let bias = g.weight("bias", DType::BF16, &[6.into()]).unwrap();
        let once = g.add("once", y, bias, DType::BF16).unwrap();
        g.add("twice", once, bias, DType::BF16).unwrap()
    });
    assert_eq!(names(&plan), ["einsum_once", "add_twice"]);
    assert!(
        plan.notes[0].starts_with("`twice` not fused with `y`: "),
        "{:?}",
        plan.notes
    );
    let plan = contraction(|g, y| {
        let factors = g.input("r", DType::F32, &[B, T, 6.into()]).unwrap();
        g.scale_rows("rows", y, factors, DType::BF16).unwrap()
    });
    assert_eq!(names(&plan), ["einsum_y", "scale_rows_rows"]);
    assert!(
        plan.notes[0].starts_with("`rows` not fused with `y`: "),
        "{:?}",
        plan.notes
    );
}

proptest! {
    /// Whatever else is needed: each value is made once, after what it is made of, and every output is in memory.
    #[test]
    fn kernels_make_what_others_read(d_rope in prop_oneof![Just(0usize), Just(4)], kept in 0u32..256) {
        for plan in [fused(&front(d_rope, kept)).unwrap(), unfused(&front(d_rope, kept)).unwrap()] {
            let mut made: BTreeSet<BufferId> = BTreeSet::new();
            let inputs = plan.buffers.iter().enumerate();
            made.extend(inputs.filter(|(_, b)| matches!(b.role, BufferRole::Input(_))).map(|(i, _)| BufferId(i)));
            let mut results = BTreeSet::new();
            for kernel in &plan.kernels {
                prop_assert!(kernel.reads.iter().all(|id| made.contains(id)), "{} of {}", kernel.name, plan);
                made.extend(&kernel.writes);
                for value in plan.results(kernel) {
                    prop_assert!(results.insert(value), "{:?} twice in {}", value, plan);
                }
            }
            for (name, value) in &plan.graph.outputs {
                let view = plan.view(*value);
                prop_assert!(view.is_some_and(|view| made.contains(&view.buffer)), "{name} of {plan}");
            }
        }
    }
}

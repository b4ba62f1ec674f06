use super::*;
use crate::build::GraphBuilder;
use crate::graph::Pairing;

struct Shape {
    heads: usize,
    d_latent: usize,
    d_rope: usize,
}

/// Absorbed attention over a paged cache, from the latents on.
fn decode(shape: Shape) -> Graph {
    let Shape {
        heads,
        d_latent,
        d_rope,
    } = shape;
    let (b, t, s) = (Dim::Sym(Symbol::B), Dim::Sym(Symbol::T), Dim::Sym(Symbol::S));
    let (h, c, r) = (Dim::Const(heads), Dim::Const(d_latent), Dim::Const(d_rope));
    let width = Dim::Const(d_latent + d_rope);
    let bf16 = DType::BF16;
    let mut g = GraphBuilder::new("decode");
    let cache = g.input("cache", bf16, &[Symbol::N.into(), 64.into(), width]).unwrap();
    let table = g.input("block_table", DType::I32, &[b, Symbol::P.into()]).unwrap();
    let q_len = g.input("q_len", DType::I32, &[b]).unwrap();
    let kv_len = g.input("kv_len", DType::I32, &[b]).unwrap();
    let latent = g.input("latent", bf16, &[b, t, c]).unwrap();
    let q_abs = g.input("q_abs", bf16, &[b, t, h, c]).unwrap();
    let mut args = vec![cache, latent];
    let mut q_pe = None;
    if d_rope > 0 {
        let table = [Symbol::L.into(), Dim::Const(d_rope / 2)];
        let cos = g.input("cos", DType::F32, &table).unwrap();
        let sin = g.input("sin", DType::F32, &table).unwrap();
        let k_raw = g.input("k_raw", bf16, &[b, t, r]).unwrap();
        let q_raw = g.input("q_raw", bf16, &[b, t, h, r]).unwrap();
        args.push(
            g.rope("k_pe", Pairing::Interleaved, [k_raw, cos, sin, q_len, kv_len], bf16)
                .unwrap(),
        );
        q_pe = Some(
            g.rope("q_pe", Pairing::Interleaved, [q_raw, cos, sin, q_len, kv_len], bf16)
                .unwrap(),
        );
    }
    args.extend([table, q_len, kv_len]);
    let new_cache = g.push("new_cache", Op::CacheWrite, &args, bf16, &[]).unwrap();
    let rows = g
        .push("rows", Op::CacheRead, &[new_cache, table, kv_len], bf16, &[b, s, width])
        .unwrap();
    let keys = g.slice("c", 2, 0, d_latent, rows).unwrap();
    let mut scores = g
        .einsum("s_nope", "b t h c, b s c -> b t h s", q_abs, keys, DType::F32)
        .unwrap();
    if let Some(q_pe) = q_pe {
        let kr = g.slice("kr", 2, d_latent, d_rope, rows).unwrap();
        let s_pe = g
            .einsum("s_pe", "b t h r, b s r -> b t h s", q_pe, kr, DType::F32)
            .unwrap();
        scores = g.add("scores", scores, s_pe, DType::F32).unwrap();
    }
    let scaled = g.scale("scaled", 0.25, scores, DType::F32).unwrap();
    let masked = g
        .push("masked", Op::Mask, &[scaled, q_len, kv_len], DType::F32, &[])
        .unwrap();
    let p = g.push("p", Op::Softmax, &[masked], DType::F32, &[]).unwrap();
    let o = g
        .einsum("o_latent", "b t h s, b s c -> b t h c", p, keys, bf16)
        .unwrap();
    g.output("o", o);
    g.output("cache", new_cache);
    g.finish()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect()
}

#[test]
fn attention_is_fused() {
    let plan = fused(&decode(Shape {
        heads: 16,
        d_latent: 512,
        d_rope: 64,
    }))
    .unwrap();
    assert_eq!(
        names(&plan),
        ["rope_q_pe", "cache_write_new_cache", "attention", "combine"]
    );
    assert!(plan.notes.is_empty());
    // The key's rope is done where it is written.
    let write = plan.kernel("cache_write_new_cache").unwrap();
    let covered: Vec<_> = write
        .nodes
        .iter()
        .map(|&node| plan.graph.node(node).name.as_str())
        .collect();
    assert_eq!(covered, ["k_pe", "new_cache"]);
    let read: Vec<_> = write
        .reads
        .iter()
        .map(|&buffer| plan.buffer(buffer).name.as_str())
        .collect();
    assert_eq!(
        read,
        ["k_raw", "cos", "sin", "q_len", "kv_len", "latent", "block_table"]
    );
    let RegionKind::Attention(attention) = &plan.kernel("attention").unwrap().kind else {
        panic!()
    };
    assert_eq!(attention.values, 0..512);
    let columns: Vec<_> = attention.queries.iter().map(|part| part.columns.clone()).collect();
    assert_eq!(columns, [0..512, 512..576]);
    assert_eq!((attention.scale, attention.n_heads), (0.25, 16));
    let partial = plan.buffer(attention.partial);
    assert_eq!(partial.size.to_string(), "8192*B*T*Z");
    // What needs no combine attention writes itself: the result is in memory from there on.
    assert_eq!(attention.result, plan.graph.output("o"));
    let result = plan.output("o").unwrap().buffer;
    let kernels =
        ["attention", "combine"].map(|name| plan.kernels.iter().position(|kernel| kernel.name == name).unwrap());
    assert_eq!(plan.lifetime(result), Some(kernels[0]..=kernels[1]));
    assert!(
        plan.view(
            plan.graph
                .values()
                .find(|&v| plan.graph.node(v).name == "rows")
                .unwrap()
        )
        .is_none()
    );
}

#[test]
fn nope_and_single_heads_are_fused() {
    for (heads, d_latent) in [(1, 7), (1, 192), (5, 16)] {
        let plan = fused(&decode(Shape {
            heads,
            d_latent,
            d_rope: 0,
        }))
        .unwrap();
        assert_eq!(
            names(&plan),
            ["cache_write_new_cache", "attention", "combine"],
            "{:?}",
            plan.notes
        );
    }
}

#[test]
fn unfused_has_a_kernel_a_node_and_shares_the_cache() {
    let graph = decode(Shape {
        heads: 2,
        d_latent: 7,
        d_rope: 24,
    });
    let plan = unfused(&graph).unwrap();
    assert_eq!(
        names(&plan),
        [
            "rope_k_pe",
            "rope_q_pe",
            "cache_write_new_cache",
            "cache_read_rows",
            "einsum_s_nope",
            "einsum_s_pe",
            "add_scores",
            "scale_scaled",
            "mask_masked",
            "softmax_p",
            "einsum_o_latent"
        ]
    );
    let cache = plan.view(graph.input("cache").unwrap()).unwrap();
    assert_eq!(plan.output("cache"), Some(cache));
    assert_eq!(plan.buffer(cache.buffer).size.to_string(), "G*N");
    let kr = plan.graph.values().find(|&v| plan.graph.node(v).name == "kr").unwrap();
    assert_eq!(plan.view(kr).unwrap().offset, [Size::constant(7)]);
    assert_eq!(
        plan.buffer(plan.output("o").unwrap().buffer).role,
        BufferRole::Output(vec!["o".into()])
    );
    let text = plan.to_string();
    assert!(text.contains("softmax_p(masked) -> p\n"), "{text}");
    let json = serde_json::to_value(plan.summary()).unwrap();
    assert_eq!(json["kernels"][9]["inputs"][0], "masked");
}

#[test]
fn what_is_needed_elsewhere_is_not_fused() {
    let mut graph = decode(Shape {
        heads: 2,
        d_latent: 8,
        d_rope: 4,
    });
    let p = graph.values().find(|&v| graph.node(v).name == "p").unwrap();
    graph.outputs.push(("weights".into(), p));
    let plan = fused(&graph).unwrap();
    assert_eq!(plan.notes, ["attention not fused: `p` is needed elsewhere too"]);
    assert!(plan.kernel("softmax_p").is_some());
}

#[test]
fn a_stale_cache_is_refused() {
    let mut graph = decode(Shape {
        heads: 2,
        d_latent: 8,
        d_rope: 0,
    });
    let old = graph.input("cache").unwrap();
    let rows = graph.values().find(|&v| graph.node(v).name == "rows").unwrap();
    graph.nodes[rows.0].args[0] = old;
    for plan in [unfused(&graph), fused(&graph)] {
        let error = plan.unwrap_err().to_string();
        assert!(error.contains("reads `cache` after `new_cache`"), "{error}");
    }
}

#[test]
fn reshapes_are_views_of_contiguous_values_only() {
    let mut g = GraphBuilder::new("views");
    let x = g.input("x", DType::F32, &[Symbol::B.into(), 6.into()]).unwrap();
    let y = g
        .push(
            "y",
            Op::Reshape,
            &[x],
            DType::F32,
            &[Symbol::B.into(), 2.into(), 3.into()],
        )
        .unwrap();
    let z = g.slice("z", 2, 1, 2, y).unwrap();
    g.output("z", z);
    let mut graph = g.finish();
    let plan = unfused(&graph).unwrap();
    assert!(plan.kernels.is_empty());
    assert_eq!(
        plan.view(z).unwrap().strides,
        [Size::constant(6), Size::constant(3), Size::one()]
    );
    let shape = vec![Symbol::B.into(), 4.into()];
    graph.nodes.push(crate::graph::Node {
        name: "flat".into(),
        op: Op::Reshape,
        args: vec![z],
        ty: crate::graph::Ty {
            dtype: DType::F32,
            shape,
        },
    });
    assert!(matches!(unfused(&graph), Err(PlanError::Reshape { .. })));
}

#[test]
fn kernel_names_are_unique_identifiers() {
    let mut names = BTreeSet::new();
    assert_eq!(kernel_name("a.b", &mut names), "a_b");
    assert_eq!(kernel_name("a_b", &mut names), "a_b_2");
    assert_eq!(kernel_name("2x", &mut names), "k2x");
}

#[test]
fn a_rope_that_is_needed_elsewhere_keeps_its_kernel() {
    let mut graph = decode(Shape {
        heads: 2,
        d_latent: 16,
        d_rope: 8,
    });
    let key = graph.values().find(|&value| graph.node(value).name == "k_pe").unwrap();
    graph.outputs.push(("k_pe".to_string(), key));
    let plan = fused(&graph).unwrap();
    assert!(plan.kernel("rope_k_pe").is_some(), "{plan}");
    assert_eq!(
        plan.notes,
        ["`k_pe` not fused with `new_cache`: it is needed elsewhere too"]
    );
}

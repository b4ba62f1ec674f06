use super::*;
use crate::build::GraphBuilder;
use crate::plan::{Plan, RegionKind, fused};
use crate::size::Symbol;
use mlafuse_tensor::DType;
use proptest::prelude::*;

const B: Dim = Dim::Sym(Symbol::B);
const T: Dim = Dim::Sym(Symbol::T);
const S: Dim = Dim::Sym(Symbol::S);

/// Ways to write one attention down.
#[derive(Clone, Debug)]
struct Form {
    heads: usize,
    d_latent: usize,
    d_rope: usize,
    d_nope: usize,
    d_v: usize,
    /// Keys and values are parts of one contraction.
    merged: bool,
    /// The keys of the scores are their contractions' first operands.
    keys_first: bool,
    /// The rope part of the scores is added first.
    rope_first: bool,
    scale_after_mask: bool,
    /// The weights are f32 and cast.
    cast: bool,
    /// Rope keys that no cache holds.
    own_rope_keys: bool,
}

fn plain() -> Form {
    Form {
        heads: 2,
        d_latent: 16,
        d_rope: 4,
        d_nope: 8,
        d_v: 6,
        merged: false,
        keys_first: false,
        rope_first: false,
        scale_after_mask: false,
        cast: false,
        own_rope_keys: false,
    }
}

impl Form {
    fn graph(&self) -> Graph {
        let (h, n, v, r) = (self.heads, self.d_nope, self.d_v, self.d_rope);
        let (bf16, f32) = (DType::BF16, DType::F32);
        let dims = |dims: &[usize]| dims.iter().map(|&n| Dim::Const(n)).collect::<Vec<_>>();
        let per_token = |width: usize| [B, T, Dim::Const(h), Dim::Const(width)];
        let width = Dim::Const(self.d_latent + r);
        let mut g = GraphBuilder::new("prefill");
        let cache = g.input("cache", bf16, &[Symbol::N.into(), 16.into(), width]).unwrap();
        let table = g.input("block_table", DType::I32, &[B, Symbol::P.into()]).unwrap();
        let q_len = g.input("q_len", DType::I32, &[B]).unwrap();
        let kv_len = g.input("kv_len", DType::I32, &[B]).unwrap();
        let read = [cache, table, kv_len];
        let rows = g.push("rows", Op::CacheRead, &read, bf16, &[B, S, width]).unwrap();
        let c = g.slice("c", 2, 0, self.d_latent, rows).unwrap();
        let (k, v) = if self.merged {
            let w = g.input("w", bf16, &dims(&[h, n + v, self.d_latent])).unwrap();
            let kv = g.einsum("kv", "b s c, h x c -> b s h x", c, w, bf16).unwrap();
            (g.slice("k", 3, 0, n, kv).unwrap(), g.slice("v", 3, n, v, kv).unwrap())
        } else {
            let w_k = g.input("w_k", bf16, &dims(&[h, n, self.d_latent])).unwrap();
            let w_v = g.input("w_v", bf16, &dims(&[h, v, self.d_latent])).unwrap();
            let k = g.einsum("k", "b s c, h n c -> b s h n", c, w_k, bf16).unwrap();
            (k, g.einsum("v", "b s c, h v c -> b s h v", c, w_v, bf16).unwrap())
        };
        let q = g.input("q", bf16, &per_token(n)).unwrap();
        let mut scores = match self.keys_first {
            true => g.einsum("s_nope", "b s h n, b t h n -> b t h s", k, q, f32).unwrap(),
            false => g.einsum("s_nope", "b t h n, b s h n -> b t h s", q, k, f32).unwrap(),
        };
        if r > 0 {
            let q = g.input("q_pe", bf16, &per_token(r)).unwrap();
            let k = match self.own_rope_keys {
                true => g.input("k_pe", bf16, &[B, S, r.into()]).unwrap(),
                false => g.slice("k_pe", 2, self.d_latent, r, rows).unwrap(),
            };
            let of_rope = match self.keys_first {
                true => g.einsum("s_pe", "b s r, b t h r -> b t h s", k, q, f32).unwrap(),
                false => g.einsum("s_pe", "b t h r, b s r -> b t h s", q, k, f32).unwrap(),
            };
            scores = match self.rope_first {
                true => g.add("scores", of_rope, scores, f32).unwrap(),
                false => g.add("scores", scores, of_rope, f32).unwrap(),
            };
        }
        let mask = |g: &mut GraphBuilder, x| g.push("masked", Op::Mask, &[x, q_len, kv_len], f32, &[]).unwrap();
        let masked = if self.scale_after_mask {
            let masked = mask(&mut g, scores);
            g.scale("scaled", 0.25, masked, f32).unwrap()
        } else {
            let scaled = g.scale("scaled", 0.25, scores, f32).unwrap();
            mask(&mut g, scaled)
        };
        let weights = if self.cast { f32 } else { bf16 };
        let mut p = g.push("p", Op::Softmax, &[masked], weights, &[]).unwrap();
        if self.cast {
            p = g.push("p_cast", Op::Cast, &[p], bf16, &[]).unwrap();
        }
        let o = g.einsum("o", "b t h s, b s h v -> b t h v", p, v, bf16).unwrap();
        g.output("o", o);
        g.finish()
    }
}

fn named(graph: &Graph, name: &str) -> ValueId {
    graph.values().find(|&value| graph.node(value).name == name).unwrap()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect()
}

prop_compose! {
    fn forms()(
        (heads, d_latent, half_rope, d_nope, d_v) in (1usize..5, 1usize..40, 0usize..4, 1usize..20, 1usize..20),
        (merged, keys_first, rope_first, scale_after_mask, cast) in any::<(bool, bool, bool, bool, bool)>(),
    ) -> Form {
        let own_rope_keys = false;
        let d_rope = 2 * half_rope;
        Form { heads, d_latent, d_rope, d_nope, d_v, merged, keys_first, rope_first, scale_after_mask, cast, own_rope_keys }
    }
}

proptest! {
    #[test]
    fn every_form_is_one_kernel_after_decompression(form in forms()) {
        let graph = form.graph();
        let plan = fused(&graph).unwrap();
        let expected: &[&str] = if form.merged { &["einsum_kv", "prefill"] } else { &["einsum_k", "einsum_v", "prefill"] };
        prop_assert_eq!(names(&plan), expected);
        prop_assert!(plan.notes.is_empty(), "{:?}", plan.notes);
        for name in ["rows", "c", "s_nope", "masked", "p"] {
            prop_assert!(plan.view(named(&graph, name)).is_none(), "{} is in memory", name);
        }
        let RegionKind::Prefill(region) = &plan.kernels.last().unwrap().kind else {
            panic!("{plan}");
        };
        prop_assert_eq!(region.scale, 0.25);
        let keys: BTreeSet<String> = region.terms.iter().map(|term| format!("{:?}", term.keys)).collect();
        let mut wanted = BTreeSet::from([format!("{:?}", Keys::PerHead(named(&graph, "k")))]);
        if form.d_rope > 0 {
            wanted.insert(format!("{:?}", Keys::Cached {
                cache: named(&graph, "cache"),
                block_table: named(&graph, "block_table"),
                columns: form.d_latent..form.d_latent + form.d_rope,
            }));
        }
        prop_assert_eq!(keys, wanted);
    }
}

/// What is wrong with a form, and the note that says so.
#[test]
fn what_cannot_be_fused_says_why() {
    let own_keys = Form {
        own_rope_keys: true,
        ..plain()
    };
    let plan = fused(&own_keys.graph()).unwrap();
    assert_eq!(
        plan.notes,
        ["attention not fused: keys `k_pe` are [B, S, 4], neither per head nor columns of the rows of one cache_read"]
    );
    // Nothing reads the rows in place then but the contractions, and those are not for an attention that needs zeros.
    assert!(plan.kernel("cache_read_rows").is_some(), "{plan}");

    let mut needed = plain().graph();
    let p = named(&needed, "p");
    needed.outputs.push(("weights".into(), p));
    let plan = fused(&needed).unwrap();
    assert_eq!(plan.notes, ["attention not fused: `p` is needed elsewhere too"]);
    assert!(
        plan.kernel("softmax_p").is_some() && plan.kernel("prefill").is_none(),
        "{plan}"
    );

    let mut unmasked = plain().graph();
    let (masked, p) = (named(&unmasked, "masked"), named(&unmasked, "p"));
    unmasked.nodes[p.0].args = unmasked.node(masked).args[..1].to_vec();
    let notes = fused(&unmasked).unwrap().notes;
    assert_eq!(
        notes,
        ["attention not fused: the scores of `p` are not masked by length"]
    );

    let mut other_type = plain().graph();
    let q = named(&other_type, "q");
    other_type.nodes[q.0].ty.dtype = DType::F16;
    let notes = fused(&other_type).unwrap().notes;
    assert_eq!(notes, ["attention not fused: `q` is f16, the values `v` are bf16"]);
}

/// Keys that somebody else reads too have a row for every token, zeros past the lengths.
#[test]
fn keys_that_are_needed_elsewhere_come_from_gathered_rows() {
    let mut graph = plain().graph();
    let k = named(&graph, "k");
    graph.outputs.push(("k".into(), k));
    let plan = fused(&graph).unwrap();
    assert_eq!(names(&plan), ["cache_read_rows", "einsum_k", "einsum_v", "prefill"]);
    let covered = |name: &str| plan.kernel(name).unwrap().nodes.len();
    assert_eq!((covered("einsum_k"), covered("einsum_v")), (1, 3));
}

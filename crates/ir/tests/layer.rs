//! The layer's graph under the interpreter against plain loops: ragged lengths (0 among them), shuffled pages, NaN in
//! unused cache memory, garbage in unused block-table entries; as built and as rewritten.

mod support;

use mlafuse_ir::config::{MlaConfig, RopePairing};
use mlafuse_ir::graph::{Graph, Op};
use mlafuse_ir::interp::{InterpError, Real, Value, interpret};
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::presets::preset;
use mlafuse_ir::rewrite::{Machine, Outcome, Rewritten, rewrite, rewrite_weights};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::text::parse;
use mlafuse_ir::verify::verify;
use mlafuse_tensor::DType;
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::{Batch, PAGE, Rng, Variant, block_table, config, distance, lengths, naive, weights};

const PAGES: usize = 12;
const TABLE: usize = 6;

fn options(coupled_rope: bool) -> LayerOptions {
    LayerOptions {
        dtype: DType::BF16,
        page_size: PAGE,
        coupled_rope,
    }
}

/// A layer with weights, tokens and a cache of NaN, ready to run step after step.
struct Bench {
    cfg: MlaConfig,
    coupled: bool,
    inputs: BTreeMap<String, Value<f64>>,
    hidden: Vec<Vec<Vec<f64>>>,
}

impl Bench {
    fn new(graph: &Graph, cfg: MlaConfig, coupled: bool, longest: &[usize], seed: u64) -> Bench {
        let mut rng = Rng(seed);
        let mut inputs = weights(graph, &mut rng);
        let row = cfg.d_latent + if coupled { 0 } else { cfg.d_rope };
        inputs.insert(
            "cache".into(),
            Value::floats(&[PAGES, PAGE, row], vec![f64::NAN; PAGES * PAGE * row]),
        );
        inputs.insert("block_table".into(), block_table(longest, TABLE, PAGES, &mut rng));
        let hidden = longest
            .iter()
            .map(|&n| (0..n).map(|_| rng.units(cfg.d_model)).collect())
            .collect();
        Bench {
            cfg,
            coupled,
            inputs,
            hidden,
        }
    }

    /// Runs `graph` on `batch`, keeps the cache, and gives the rows of `out` that mean something, by sequence.
    fn step(&mut self, graph: &Graph, batch: &Batch) -> Vec<Vec<Vec<f64>>> {
        let dims = batch.dims(PAGES, TABLE);
        let (count, tokens, d) = (batch.q_len.len(), dims.get(Symbol::T).unwrap(), self.cfg.d_model);
        // Rows past q_len hold NaN: nothing may leak from them.
        let mut hidden = vec![f64::NAN; count * tokens * d];
        for b in 0..count {
            for t in 0..batch.q_len[b] {
                let row = &self.hidden[b][batch.kv_len[b] - batch.q_len[b] + t];
                hidden[(b * tokens + t) * d..][..d].copy_from_slice(row);
            }
        }
        self.inputs
            .insert("hidden".into(), Value::floats(&[count, tokens, d], hidden));
        self.inputs.insert("q_len".into(), lengths(&batch.q_len));
        self.inputs.insert("kv_len".into(), lengths(&batch.kv_len));
        let mut outputs = interpret(graph, &dims, &self.inputs).unwrap();
        self.inputs.insert("cache".into(), outputs.remove("cache").unwrap());
        let out = outputs["out"].as_floats().unwrap();
        let row = |b: usize, t: usize| out[(b * tokens + t) * d..][..d].to_vec();
        (0..count)
            .map(|b| (0..batch.q_len[b]).map(|t| row(b, t)).collect())
            .collect()
    }

    /// The same rows, by plain loops over each whole sequence.
    fn expected(&self, batch: &Batch) -> Vec<Vec<Vec<f64>>> {
        let rows = |b: usize| {
            let all = naive::sequence(
                &self.cfg,
                &self.inputs,
                &self.hidden[b][..batch.kv_len[b]],
                self.coupled,
            );
            all[batch.kv_len[b] - batch.q_len[b]..].to_vec()
        };
        (0..batch.q_len.len()).map(rows).collect()
    }
}

fn flat(rows: &[Vec<Vec<f64>>]) -> Vec<f64> {
    rows.iter().flatten().flatten().copied().collect()
}

/// Prefill, a chunk of several tokens, and single tokens; sequence 1 is empty at first and sequence 2 at last.
fn schedule() -> Vec<Batch> {
    vec![
        Batch {
            q_len: vec![7, 0, 4],
            kv_len: vec![7, 0, 4],
        },
        Batch {
            q_len: vec![1, 3, 2],
            kv_len: vec![8, 3, 6],
        },
        Batch {
            q_len: vec![1, 1, 0],
            kv_len: vec![9, 4, 0],
        },
        Batch {
            q_len: vec![0, 1, 1],
            kv_len: vec![9, 5, 7],
        },
    ]
}

fn check_layer(variant: Variant, coupled: bool, graph_for: impl Fn(&Graph, &Dims) -> Graph, seed: u64) {
    check(config(variant), coupled, graph_for, seed);
}

fn check(cfg: MlaConfig, coupled: bool, graph_for: impl Fn(&Graph, &Dims) -> Graph, seed: u64) {
    let what = format!("{cfg:?}");
    let graph = build_layer(&cfg, &options(coupled)).unwrap();
    verify(&graph).unwrap();
    let mut bench = Bench::new(&graph, cfg, coupled, &[9, 5, 7], seed);
    for batch in schedule() {
        let graph = graph_for(&graph, &batch.dims(PAGES, TABLE));
        let got = bench.step(&graph, &batch);
        let error = distance(&flat(&got), &flat(&bench.expected(&batch)));
        assert!(error < 1e-12, "{what}: {error}");
    }
}

fn variants() -> impl Strategy<Value = Variant> {
    let pairing = prop_oneof![
        Just(RopePairing::Interleaved),
        Just(RopePairing::HalfSplit),
        Just(RopePairing::Unrotated)
    ];
    (
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0), Just(2), Just(4)],
        pairing,
        any::<bool>(),
    )
        .prop_map(|(query_latent, bias, d_rope, pairing, scales)| Variant {
            query_latent,
            bias,
            d_rope,
            pairing,
            scales,
        })
}

/// Decode at scale, whatever the small batch is: the rewrite must keep the meaning for every size.
fn decode_dims() -> Dims {
    Dims::new().with(Symbol::B, 1).with(Symbol::T, 1).with(Symbol::S, 4096)
}

fn absorbed(graph: &Graph) -> Graph {
    let rewritten = rewrite(graph, &decode_dims(), &Machine::default()).unwrap();
    assert!(
        !rewritten
            .graph
            .nodes
            .iter()
            .any(|n| n.name == "k_nope" || n.name == "v"),
        "{}",
        rewritten.to_text()
    );
    rewritten.graph
}

/// As for launches of `tokens` new tokens, of 4096: first the weights' form, which is one for all launches, then the rest.
fn prepared(graph: &Graph, tokens: usize) -> [Rewritten; 2] {
    let machine = Machine::default();
    let weights = rewrite_weights(graph, &machine).unwrap();
    let dims = decode_dims().with(Symbol::T, tokens);
    let launch = rewrite(&weights.graph, &dims, &machine).unwrap();
    [weights, launch]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_layer_is_the_paper(variant in variants(), seed in any::<u64>()) {
        check_layer(variant, false, |graph, _| graph.clone(), seed);
    }

    #[test]
    fn the_layer_rewritten_for_decode_is_the_paper(variant in variants(), seed in any::<u64>()) {
        check_layer(variant, false, |graph, _| absorbed(graph), seed);
    }

    #[test]
    fn the_layer_rewritten_for_each_step_is_the_paper(variant in variants(), seed in any::<u64>()) {
        check_layer(variant, false, |g, dims| rewrite(g, dims, &Machine::default()).unwrap().graph, seed);
    }

    #[test]
    fn the_layer_with_prepared_weights_is_the_paper(variant in variants(), long in any::<bool>(), seed in any::<u64>()) {
        let tokens = if long { 4096 } else { 1 };
        check_layer(variant, false, |graph, _| prepared(graph, tokens)[1].graph.clone(), seed);
    }

    #[test]
    fn coupled_rope_is_what_it_says(variant in variants(), seed in any::<u64>()) {
        check_layer(variant, true, |graph, _| graph.clone(), seed);
    }
}

fn deepseek_v3(coupled_rope: bool, tokens: usize) -> Rewritten {
    let cfg = preset("deepseek-v3").unwrap();
    let graph = build_layer(
        &cfg,
        &LayerOptions {
            coupled_rope,
            ..LayerOptions::default()
        },
    )
    .unwrap();
    let dims = Dims::new()
        .with(Symbol::B, 1)
        .with(Symbol::T, tokens)
        .with(Symbol::S, 4096);
    let rewritten = rewrite(&graph, &dims, &Machine::default()).unwrap();
    assert_eq!(parse(&rewritten.to_text()).unwrap(), rewritten.graph);
    rewritten
}

fn applied(rewritten: &Rewritten) -> Vec<&str> {
    let steps = rewritten.steps.iter().filter(|step| step.outcome == Outcome::Applied);
    steps.map(|step| step.change.as_str()).collect()
}

#[test]
fn decode_absorbs_both_up_projections() {
    let rewritten = deepseek_v3(false, 1);
    let mut changes = applied(&rewritten);
    changes.sort();
    assert_eq!(changes, ["o = (p · c) · w_uv", "scores_nope = (q_nope · w_uk) · c"]);
    let text = rewritten.graph.to_string();
    for line in [
        "%q_nope_w_uk = einsum \"b t h n, h n c -> b t h c\" %q_nope, %w_uk : bf16[B, T, 128, 512]",
        "%scores_nope = einsum \"b t h c, b s c -> b t h s\" %q_nope_w_uk, %c : f32[B, T, 128, S]",
        "%p_c = einsum \"b t h s, b s c -> b t h c\" %p, %c : bf16[B, T, 128, 512]",
        "%o = einsum \"b t h c, h v c -> b t h v\" %p_c, %w_uv : bf16[B, T, 128, 128]",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let first = &rewritten.steps[0];
    assert!(first.after.seconds < first.before.seconds);
}

#[test]
fn long_prefill_absorbs_nothing() {
    let rewritten = deepseek_v3(false, 4096);
    assert_eq!(applied(&rewritten), Vec::<&str>::new());
    let rejected = |step: &&mlafuse_ir::rewrite::Step| {
        step.rule == "reassociate" && matches!(step.outcome, Outcome::Rejected { .. })
    };
    let sites: Vec<&str> = rewritten
        .steps
        .iter()
        .filter(rejected)
        .map(|step| step.site[1].as_str())
        .collect();
    assert!(sites.contains(&"k_nope") && sites.contains(&"v"), "{sites:?}");
}

#[test]
fn prepared_weights_leave_six_kernels_and_still_absorb() {
    let graph = build_layer(&preset("deepseek-v3").unwrap(), &LayerOptions::default()).unwrap();
    let [weights, decode] = prepared(&graph, 1);
    let text = weights.graph.to_string();
    for line in [
        "%dq_dkv_k_r = einsum \"b t d, r d -> b t r\" %hidden, %w_dq_w_dkv_w_kr : bf16[B, T, 2112]",
        "%w_uk_w_uv = concat axis=1 %w_uk, %w_uv : bf16[128, 256, 512]",
        "%q_nope_q_r = scale_rows %q_nope_q_r_raw, %dq_inv_rms : bf16[B, T, 128, 192]",
    ] {
        assert!(text.contains(line), "{line}\n{}", weights.to_text());
    }
    let mut changes = applied(&decode);
    changes.sort();
    let expected = [
        "k_nope and v by slices of w_uk_w_uv, not of k_nope_v",
        "o = (p · c) · w_uk_w_uv_v",
        "scores_nope = (q_nope · w_uk_w_uv_k_nope) · c",
    ];
    assert_eq!(changes, expected, "{}", decode.to_text());
    assert_eq!(kernels(&decode), 6, "{}", decode.to_text());
    let [_, prefill] = prepared(&graph, 4096);
    assert_eq!(applied(&prefill), Vec::<&str>::new(), "{}", prefill.to_text());
}

#[test]
fn the_scale_of_a_latent_goes_into_its_gain() {
    let mut cfg = preset("deepseek-v3").unwrap();
    cfg.q_latent_scale = 1.25;
    let graph = build_layer(&cfg, &LayerOptions::default()).unwrap();
    let [weights, _] = prepared(&graph, 1);
    let changes = applied(&weights);
    assert!(
        changes.contains(&"1.25, the factor of c_q_scaled, goes into g_q"),
        "{changes:?}"
    );
    assert!(weights.graph.to_string().contains("inv_rms"), "{}", weights.to_text());
}

#[test]
fn the_softmax_scale_stays_where_it_is_exact() {
    let cfg = MlaConfig::from_inline("heads=16,d_model=2048,d_latent=512,d_rope=0,d_nope=128,d_v=128").unwrap();
    let graph = build_layer(&cfg, &LayerOptions::default()).unwrap();
    for tokens in [1, 4096] {
        let text = prepared(&graph, tokens)[1].graph.to_string();
        assert!(text.contains("%scores_scaled = scale factor="), "{text}");
    }
}

/// How many the cost model counts in the end.
fn kernels(rewritten: &Rewritten) -> usize {
    let last = rewritten.steps.iter().rfind(|step| step.outcome == Outcome::Applied);
    last.map_or(0, |step| step.after.kernels)
}

#[test]
fn every_preset_cut_small_keeps_its_meaning() {
    for name in mlafuse_ir::presets::names() {
        for tokens in [1, 4096] {
            let mut cfg = preset(name).unwrap();
            (cfg.n_heads, cfg.d_model, cfg.d_latent) = (2, 12, 7);
            (cfg.d_rope, cfg.d_nope, cfg.d_v) = (cfg.d_rope.min(4), 6, 5);
            cfg.d_q_latent = cfg.d_q_latent.map(|_| 8);
            check(cfg, false, |graph, _| prepared(graph, tokens)[1].graph.clone(), 5);
        }
    }
}

#[test]
fn every_preset_is_rewritten_in_time_and_always_alike() {
    for name in mlafuse_ir::presets::names() {
        let graph = build_layer(&preset(name).unwrap(), &LayerOptions::default()).unwrap();
        for tokens in [1, 4096] {
            let rewritten = prepared(&graph, tokens);
            assert_eq!(prepared(&graph, tokens), rewritten, "{name}");
            rewritten.iter().for_each(|r| verify(&r.graph).unwrap());
        }
    }
}

#[test]
fn coupled_rope_refuses_absorption_and_says_why() {
    let rewritten = deepseek_v3(true, 1);
    assert_eq!(applied(&rewritten), ["o = (p · c) · w_uv".replace("c)", "rows)")]);
    let text = rewritten.to_text();
    let reason = "`k_rot` (rope) stands between `scores` and `k_nope`: \
                  it depends on the token s, so `w_uk` cannot move across it";
    assert!(text.contains(reason), "{text}");
}

#[test]
fn every_preset_has_a_layer() {
    for name in mlafuse_ir::presets::names() {
        for coupled_rope in [false, true] {
            let cfg = preset(name).unwrap();
            let graph = build_layer(
                &cfg,
                &LayerOptions {
                    coupled_rope,
                    ..LayerOptions::default()
                },
            )
            .unwrap();
            verify(&graph).unwrap();
            assert_eq!(parse(&graph.to_string()).unwrap(), graph, "{name}");
        }
    }
}

fn small() -> (Graph, Bench) {
    let pairing = RopePairing::Interleaved;
    let cfg = config(Variant {
        query_latent: true,
        bias: true,
        d_rope: 4,
        pairing,
        scales: true,
    });
    let graph = build_layer(&cfg, &options(false)).unwrap();
    let bench = Bench::new(&graph, cfg, false, &[9, 5, 7], 3);
    (graph, bench)
}

#[test]
fn wrong_lengths_and_pages_are_errors() {
    let (graph, mut bench) = small();
    let batch = &schedule()[0];
    bench.step(&graph, batch);
    let dims = batch.dims(PAGES, TABLE);
    let fault = |name: &str, value: Value<f64>| {
        let mut inputs = bench.inputs.clone();
        inputs.insert(name.into(), value);
        interpret(&graph, &dims, &inputs).unwrap_err().to_string()
    };
    let ints = |of: &[i32]| Value::<f64>::ints(&[of.len()], of.to_vec());
    assert!(fault("q_len", ints(&[8, 0, 4])).contains("sequence 0: q_len is 8, allowed 0..=7"));
    assert!(fault("q_len", ints(&[7, 1, 4])).contains("sequence 1: q_len is 1, allowed 0..=0"));
    assert!(fault("kv_len", ints(&[7, -1, 4])).contains("sequence 1: kv_len is -1"));
    assert!(
        fault("kv_len", ints(&[7, 0, 8])).contains("sequence 2"),
        "8 tokens in S = 7"
    );
    assert!(fault("kv_len", ints(&[i32::MAX, 0, 4])).contains("block-table entry"));
    let mut table = bench.inputs["block_table"].as_ints().unwrap().to_vec();
    table[1] = PAGES as i32;
    let message = fault("block_table", Value::ints(&[3, TABLE], table));
    assert!(
        message.contains("`new_cache`, sequence 0: page in block-table entry 1 is 12, allowed 0..12"),
        "{message}"
    );
}

#[test]
fn wrong_inputs_are_errors() {
    let (graph, mut bench) = small();
    let batch = &schedule()[0];
    bench.step(&graph, batch);
    let dims = batch.dims(PAGES, TABLE);
    let mut inputs = bench.inputs.clone();
    inputs.remove("W_UK");
    let error = interpret(&graph, &dims, &inputs).unwrap_err();
    assert_eq!(error, InterpError::MissingInput { name: "W_UK".into() });
    inputs.insert("W_UK".into(), Value::floats(&[3, 6, 7], vec![0.0; 5]));
    let message = interpret(&graph, &dims, &inputs).unwrap_err().to_string();
    assert!(
        message.contains("expected 126 floats of shape [3, 6, 7], got 5 floats"),
        "{message}"
    );
    inputs.insert("W_UK".into(), Value::ints(&[3, 6, 7], vec![0; 126]));
    assert!(matches!(
        interpret(&graph, &dims, &inputs),
        Err(InterpError::Input { .. })
    ));
    let error = interpret(&graph, &Dims::new(), &bench.inputs).unwrap_err();
    assert_eq!(
        error,
        InterpError::Unbound {
            node: "hidden".into(),
            symbol: Symbol::B
        }
    );
}

#[test]
fn f32_follows_f64() {
    let (graph, mut bench) = small();
    let batch = &schedule()[0];
    let dims = batch.dims(PAGES, TABLE);
    let want = bench.step(&graph, batch);
    let narrow = |value: &Value<f64>| match value {
        Value::F { shape, data } => Value::floats(shape, data.iter().map(|&x| x as f32).collect()),
        Value::I { shape, data } => Value::ints(shape, data.to_vec()),
    };
    let inputs = bench
        .inputs
        .iter()
        .map(|(name, value)| (name.clone(), narrow(value)))
        .collect();
    let got = interpret::<f32>(&graph, &dims, &inputs).unwrap();
    let first: Vec<f64> = got["out"].as_floats().unwrap()[..7 * 10]
        .iter()
        .map(|&x| x.to_f64())
        .collect();
    let error = distance(&first, &flat(&want[..1]));
    assert!(error > 0.0 && error < 1e-5, "{error}");
}

#[test]
fn a_real_layer_runs_in_seconds() {
    // deepseek-v2-lite: 200 tokens at once, about 10 GFLOP.
    let cfg = preset("deepseek-v2-lite").unwrap();
    let graph = build_layer(&cfg, &LayerOptions::default()).unwrap();
    let dims = Dims::new().with(Symbol::B, 1).with(Symbol::T, 200).with(Symbol::S, 200);
    let dims = dims.with(Symbol::N, 4).with(Symbol::P, 4).with(Symbol::L, 200);
    let mut inputs: BTreeMap<String, Value<f32>> = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        let shape: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&dims).unwrap()).collect();
        let value = match name.as_str() {
            "q_len" | "kv_len" => Value::ints(&shape, vec![200]),
            "block_table" => Value::ints(&shape, vec![2, 0, 3, 1]),
            _ => Value::floats(&shape, vec![0.01; shape.iter().product()]),
        };
        inputs.insert(name.clone(), value);
    }
    let out = interpret(&graph, &dims, &inputs).unwrap();
    assert!(out["out"].as_floats().unwrap().iter().all(|x| x.is_finite()));
}

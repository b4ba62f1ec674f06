//! Layers of any shape: the CPU, fused and unfused, against the f64 reference.

mod ragged;

use std::collections::BTreeMap;

use mlafuse::config::{MlaConfig, RopePairing};
use mlafuse::{
    DType, DeviceSpec, HostTensor, KernelTime, LayerOptions, LayerWeights, MlaLayer, PlanKind, Step, checkpoint_tensors,
};
use mlafuse_ir::target::Arch;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::compare;
use proptest::prelude::*;

fn random(seed: u64, shape: &[usize], scale: f32) -> HostTensor {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    HostTensor::from_f32(shape, &values).unwrap()
}

fn weights(config: &MlaConfig, seed: u64) -> LayerWeights {
    let mut tensors = BTreeMap::new();
    for (n, spec) in checkpoint_tensors(config).into_iter().enumerate() {
        let columns = spec.shape.get(1).copied().unwrap_or(1);
        let scale = 1.7 / (columns as f32).sqrt();
        tensors.insert(
            spec.suffix.to_string(),
            random(seed.wrapping_add(n as u64), &spec.shape, scale),
        );
    }
    LayerWeights::from_tensors(config, &tensors).unwrap()
}

fn config() -> impl Strategy<Value = MlaConfig> {
    let dims = (1usize..7, 1usize..40, 1usize..6, 0usize..5, 1usize..20, 1usize..20);
    let rest = (
        proptest::option::of(1usize..24),
        any::<bool>(),
        prop_oneof![
            Just(RopePairing::Interleaved),
            Just(RopePairing::HalfSplit),
            Just(RopePairing::Unrotated)
        ],
        prop_oneof![Just(1.0), Just(1.7)],
        prop_oneof![Just(1.0), Just(2.5)],
    );
    (dims, rest).prop_map(|((n_heads, d_model, eighths, d_half, d_nope, d_v), rest)| {
        let (d_q_latent, attention_bias, pairing, q_latent_scale, latent_scale) = rest;
        let mut config = MlaConfig {
            n_heads,
            d_model,
            d_latent: 8 * eighths - n_heads % 3,
            d_rope: 2 * d_half,
            d_nope,
            d_v,
            d_q_latent,
            attention_bias,
            q_latent_scale,
            latent_scale,
            softmax_scale: 0.4,
            ..MlaConfig::from_inline("heads=1,d_model=1").unwrap()
        };
        config.rope.pairing = pairing;
        config
    })
}

/// New tokens of each of two sequences, step by step.
fn chunks() -> impl Strategy<Value = Vec<[usize; 2]>> {
    let few = prop_oneof![Just(0usize), Just(1), 0usize..12];
    proptest::collection::vec([few.clone(), few], 1..5)
}

fn run(layer: &MlaLayer, chunks: &[[usize; 2]], seed: u64) -> Vec<Step> {
    let tokens = chunks.iter().flatten().sum::<usize>();
    let mut cache = layer.new_cache(2, tokens).unwrap();
    let mut steps = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        cache.scramble(seed).unwrap();
        let longest = chunk[0].max(chunk[1]) + n % 2;
        let hidden = random(seed.wrapping_add(n as u64), &[2, longest, layer.config().d_model], 1.0);
        steps.push(layer.step(&mut cache, &hidden, chunk).unwrap());
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_computes_the_layer(config in config(), chunks in chunks(), page_size in 1usize..9, seed: u64) {
        let weights = weights(&config, seed);
        let layer = |device, plan| {
            let options = LayerOptions { device, plan, dtype: DType::F32, page_size, ..LayerOptions::default() };
            MlaLayer::new(&weights, &config, options).unwrap()
        };
        let expected = run(&layer(DeviceSpec::Reference { f64: true }, PlanKind::Fused), &chunks, seed);
        for plan in [PlanKind::Fused, PlanKind::Unfused] {
            let found = run(&layer(DeviceSpec::Cpu, plan), &chunks, seed);
            for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = compare(&found.out, &expected.out).unwrap();
                prop_assert!(error.rel_l2 < 1e-4, "{plan}, step {n}: {error}");
            }
        }
    }
}

/// Lengths 0 and 1, no query latent and half-split rope; every kernel as PTX, and the counts of it.
#[test]
fn the_simulator_computes_the_layer() {
    if nvrtc_or_skip().is_none() {
        return;
    }
    for (config, chunks) in [
        (
            "heads=5,d_model=37,d_latent=23,d_rope=6,d_nope=9,d_v=7,d_q_latent=11",
            [[0, 9], [1, 1]],
        ),
        (
            "heads=2,d_model=16,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=none,rope=half",
            [[4, 1], [1, 0]],
        ),
    ] {
        let config = MlaConfig::from_inline(config).unwrap();
        let weights = weights(&config, 3);
        let layer = |device, plan| {
            let options = LayerOptions {
                device,
                plan,
                dtype: DType::F32,
                page_size: 3,
                ..LayerOptions::default()
            };
            MlaLayer::new(&weights, &config, options).unwrap()
        };
        let expected = run(&layer(DeviceSpec::Reference { f64: true }, PlanKind::Fused), &chunks, 5);
        for plan in [PlanKind::Fused, PlanKind::Unfused] {
            let found = run(&layer(DeviceSpec::sim(Arch::Sm80), plan), &chunks, 5);
            for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = compare(&found.out, &expected.out).unwrap();
                assert!(error.rel_l2 < 1e-4, "{plan}, step {n}: {error}");
                let counted =
                    |kernel: &KernelTime| kernel.statistics.as_ref().is_some_and(|s| s.total.instructions > 0);
                assert!(found.kernels.iter().all(counted), "{:?}", found.kernels);
            }
        }
    }
}

#[test]
fn kernels_are_those_of_the_plan() {
    let config = MlaConfig::from_inline("heads=4,d_model=64,d_latent=32,d_rope=8,d_nope=16,d_v=16").unwrap();
    let weights = weights(&config, 1);
    let names = |plan, new: usize| {
        let options = LayerOptions {
            plan,
            ..LayerOptions::default()
        };
        let layer = MlaLayer::new(&weights, &config, options).unwrap();
        let step = run(&layer, &[[20, 20], [new, new]], 1).remove(1);
        step.kernels.into_iter().map(|kernel| kernel.name).collect::<Vec<_>>()
    };
    for new in [1, 64] {
        // Absorbed or not, as the cost model likes.
        let one_kernel = |name: &String| name == "attention" || name == "prefill";
        let fused = names(PlanKind::Fused, new);
        assert!(fused.iter().any(one_kernel), "{fused:?}");
        let unfused = names(PlanKind::Unfused, new);
        assert!(
            unfused.len() > fused.len() && !unfused.iter().any(one_kernel),
            "{unfused:?}"
        );
    }
}

/// Random hidden states \[2, tokens, d_model\]; those of the second sequence are the first's where `same`.
fn hidden(config: &MlaConfig, tokens: usize, seed: u64, same: bool) -> HostTensor {
    let hidden = random(seed, &[2, tokens, config.d_model], 1.0);
    let first = hidden.to_f32_vec()[..tokens * config.d_model].to_vec();
    match same {
        true => HostTensor::from_f32(hidden.shape(), &[first.clone(), first].concat()).unwrap(),
        false => hidden,
    }
}

/// A sequence that continues another one gives what it would give with a beginning of its own, and so does the other.
#[test]
fn a_fork_goes_its_own_way() {
    let config =
        MlaConfig::from_inline("heads=3,d_model=32,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=12").unwrap();
    let weights = weights(&config, 9);
    let sim = nvrtc_or_skip().map(|_| DeviceSpec::sim(Arch::Sm80));
    let devices = [DeviceSpec::Reference { f64: true }, DeviceSpec::Cpu];
    for device in devices.into_iter().chain(sim) {
        for (plan, page_size, prompt) in [
            (PlanKind::Fused, 4, 10),
            (PlanKind::Fused, 4, 8),
            (PlanKind::Fused, 1, 3),
            (PlanKind::Unfused, 16, 5),
        ] {
            let options = LayerOptions {
                device,
                plan,
                page_size,
                ..LayerOptions::default()
            };
            let layer = MlaLayer::new(&weights, &config, options).unwrap();
            let run = |fork: bool| {
                let mut cache = layer.new_cache(2, 16).unwrap();
                cache.scramble(1).unwrap();
                let new = [prompt, if fork { 0 } else { prompt }];
                layer.step(&mut cache, &hidden(&config, prompt, 1, true), &new).unwrap();
                if fork {
                    cache.fork(0, 1).unwrap();
                }
                cache.scramble(2).unwrap();
                let steps = [[1, 1], [2, 0], [0, 1], [1, 2]].into_iter().zip(2..);
                let out =
                    steps.map(|(new, seed)| layer.step(&mut cache, &hidden(&config, 2, seed, false), &new).unwrap());
                let out: Vec<HostTensor> = out.map(|step| step.out).collect();
                (out, cache)
            };
            let (forked, cache) = run(true);
            let (apart, other) = run(false);
            for (forked, apart) in forked.iter().zip(&apart) {
                assert_eq!(forked.bytes(), apart.bytes(), "{device}, {plan}, page size {page_size}");
            }
            let used = |cache: &mlafuse::PagedKvCache| cache.pages().0 - cache.pages().1;
            assert_eq!(
                used(&other) - used(&cache),
                prompt / page_size,
                "{device}, page size {page_size}"
            );
        }
    }
}

#[test]
fn what_is_wrong_with_a_fork_is_said() {
    let config =
        MlaConfig::from_inline("heads=1,d_model=4,d_latent=8,d_rope=0,d_nope=2,d_v=2,d_q_latent=none").unwrap();
    let options = LayerOptions {
        page_size: 4,
        ..LayerOptions::default()
    };
    let layer = MlaLayer::new(&weights(&config, 1), &config, options).unwrap();
    let mut cache = layer.new_cache(2, 4).unwrap();
    layer.step(&mut cache, &hidden(&config, 5, 1, true), &[5, 0]).unwrap();
    let error = cache.fork(0, 1).unwrap_err().to_string();
    assert_eq!(
        error,
        "the cache is full: 1 more pages of 4 tokens are needed, 0 of 2 are free"
    );
    assert_eq!((cache.len(0), cache.len(1)), (Some(5), Some(0)));
    let error = cache.fork(1, 0).unwrap_err().to_string();
    assert_eq!(error, "sequence 0 holds 5 tokens; expected an empty one");
    assert!(cache.fork(0, 2).is_err() && cache.fork(2, 0).is_err());
}

/// Outputs of a sequence's prefill and decode steps, in a batch with others of the given lengths; it comes last.
fn in_company(layer: &MlaLayer, others: &[usize]) -> Vec<Vec<u8>> {
    const PROMPT: usize = 70;
    let config = layer.config();
    let sequences = others.len() + 1;
    let mut cache = layer.new_cache(sequences, 80 + 40 * others.len()).unwrap();
    cache.scramble(3).unwrap();
    let step = |cache: &mut mlafuse::PagedKvCache, tokens: usize, new: &[usize], seed: u64| {
        let others = random(seed + 100, &[sequences - 1, tokens, config.d_model], 1.0).to_f32_vec();
        let own = random(seed, &[1, tokens, config.d_model], 1.0).to_f32_vec();
        let hidden = HostTensor::from_f32(&[sequences, tokens, config.d_model], &[others, own].concat()).unwrap();
        let out = layer.step(cache, &hidden, new).unwrap().out;
        out.slice_outer(sequences - 1..sequences).unwrap().bytes().to_vec()
    };
    let prefill = step(&mut cache, PROMPT, &[others, &[PROMPT]].concat(), 1);
    let decode = (2..6).map(|seed| step(&mut cache, 1, &vec![1; sequences], seed));
    [prefill].into_iter().chain(decode).collect()
}

#[test]
fn with_fixed_splits_a_batch_changes_no_bit() {
    let config =
        MlaConfig::from_inline("heads=5,d_model=64,d_latent=24,d_rope=8,d_nope=8,d_v=8,d_q_latent=16").unwrap();
    let weights = weights(&config, 2);
    let sim = nvrtc_or_skip().map(|_| DeviceSpec::Sim {
        arch: Some(Arch::Sm80),
        checked: false,
    });
    for device in [DeviceSpec::Cpu].into_iter().chain(sim) {
        for dtype in [DType::BF16, DType::F32] {
            let options = LayerOptions {
                device,
                dtype,
                page_size: 16,
                splits: "fixed:32".parse().unwrap(),
                ..LayerOptions::default()
            };
            let layer = MlaLayer::new(&weights, &config, options).unwrap();
            let alone = in_company(&layer, &[]);
            for others in [&[0][..], &[70], &[3, 64, 1, 0, 65]] {
                assert!(
                    in_company(&layer, others) == alone,
                    "{device}, {dtype}, with {others:?}"
                );
            }
        }
    }
}

/// Two sequences of these lengths, `chunk` new tokens a step: the outputs, \[2, longest, d_model\], and whether every step's
/// attention was unabsorbed.
fn prefill(layer: &MlaLayer, hidden: &HostTensor, lengths: [usize; 2], chunk: usize) -> (HostTensor, bool) {
    let &[_, longest, d_model] = hidden.shape() else {
        panic!("{hidden:?}")
    };
    let (hidden, mut out) = (hidden.to_f32_vec(), vec![0.0; 2 * longest * d_model]);
    let mut cache = layer.new_cache(2, longest).unwrap();
    let mut unabsorbed = true;
    for start in (0..longest).step_by(chunk) {
        let end = longest.min(start + chunk);
        let rows = |b: usize| (b * longest + start) * d_model..(b * longest + end) * d_model;
        let new = lengths.map(|length| length.clamp(start, end) - start);
        let tokens = [&hidden[rows(0)], &hidden[rows(1)]].concat();
        let tokens = HostTensor::from_f32(&[2, end - start, d_model], &tokens).unwrap();
        let step = layer.step(&mut cache, &tokens, &new).unwrap();
        unabsorbed &= step.kernels.iter().any(|kernel| kernel.name == "prefill");
        for (b, of_sequence) in step.out.to_f64_vec().chunks((end - start) * d_model).enumerate() {
            out[rows(b)].copy_from_slice(of_sequence);
        }
    }
    (HostTensor::from_f64(&[2, longest, d_model], &out).unwrap(), unabsorbed)
}

/// 1,500 tokens beside 600, at once and in chunks after a growing prefix, by the shapes of a real head.
#[test]
fn long_and_chunked_prefill_agree_with_the_reference() {
    let shape = "heads=2,d_model=64,d_latent=512,d_rope=64,d_nope=128,d_v=128,d_q_latent=none";
    let config = MlaConfig::from_inline(shape).unwrap();
    let weights = weights(&config, 11);
    let lengths = [1500, 600];
    let hidden = random(12, &[2, 1500, config.d_model], 1.0);
    let layer = |device, dtype| {
        let options = LayerOptions {
            device,
            dtype,
            ..LayerOptions::default()
        };
        MlaLayer::new(&weights, &config, options).unwrap()
    };
    let reference = layer(DeviceSpec::Reference { f64: true }, DType::F32);
    let (expected, _) = prefill(&reference, &hidden, lengths, 1500);
    for (dtype, chunk, allowed) in [
        (DType::F32, 1500, 1e-5),
        (DType::F32, 256, 1e-5),
        (DType::BF16, 1500, 2e-2),
        (DType::BF16, 256, 2e-2),
    ] {
        let (found, unabsorbed) = prefill(&layer(DeviceSpec::Cpu, dtype), &hidden, lengths, chunk);
        assert!(unabsorbed, "{dtype}, chunks of {chunk}");
        let error = compare(&found, &expected).unwrap();
        assert!(error.rel_l2 < allowed, "{dtype}, chunks of {chunk}: {error}");
    }
}

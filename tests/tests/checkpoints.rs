//! Layers of real checkpoints against Hugging Face transformers: prefill, then decode, on every device and plan.

use mlafuse::config::MlaConfig;
use mlafuse::{
    Checkpoint, DType, DeviceSpec, Error, HostTensor, LayerOptions, LayerWeights, MlaLayer, PagedKvCache, PlanKind,
    Splits, default_prefix,
};
use mlafuse_ir::target::Arch;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::{SafetensorsFile, compare};
use std::path::{Path, PathBuf};

const REFERENCE_F64: DeviceSpec = DeviceSpec::Reference { f64: true };
const REFERENCE_F32: DeviceSpec = DeviceSpec::Reference { f64: false };
const PLANS: [PlanKind; 2] = [PlanKind::Fused, PlanKind::Unfused];

/// A checkpoint of one layer with inputs and expected outputs.
struct Fixture {
    dir: PathBuf,
    config: MlaConfig,
    io: SafetensorsFile,
}

impl Fixture {
    fn open(dir: PathBuf) -> Fixture {
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let config = MlaConfig::from_json(&text, "config.json").unwrap();
        let io = SafetensorsFile::open(dir.join("io.safetensors")).unwrap();
        Fixture { dir, config, io }
    }

    /// Two sequences of a small layer with a query latent.
    fn tiny() -> Fixture {
        Fixture::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/deepseek-v3-tiny"))
    }

    /// A layer of DeepSeek-V2-Lite's size, too large for the repository: it lies beside it, or its tests are skipped with
    /// a notice. `MLAFUSE_REQUIRE_FIXTURES=1` forbids to skip.
    fn lite() -> Option<Fixture> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/deepseek-v2-lite");
        if dir.is_dir() {
            return Some(Fixture::open(dir));
        }
        let required = std::env::var("MLAFUSE_REQUIRE_FIXTURES").is_ok_and(|value| value == "1");
        assert!(!required, "{} is missing", dir.display());
        eprintln!("skipped: {} is missing", dir.display());
        None
    }

    fn tensor(&self, name: &str) -> HostTensor {
        self.io.tensor(name).unwrap()
    }

    fn layer(&self, options: LayerOptions) -> MlaLayer {
        let checkpoint = Checkpoint::open(&self.dir).unwrap();
        MlaLayer::load(&checkpoint, &default_prefix(&self.config, 0), &self.config, options).unwrap()
    }

    /// Hidden states of decode step `n`, \[B, 1, D\].
    fn decode_hidden(&self, n: usize) -> HostTensor {
        let hidden = self.tensor("decode_hidden");
        let &[_, sequences, d_model] = hidden.shape() else {
            panic!()
        };
        hidden
            .slice_outer(n..n + 1)
            .unwrap()
            .reshape(&[sequences, 1, d_model])
            .unwrap()
    }

    fn steps(&self) -> usize {
        self.tensor("decode_hidden").shape()[0]
    }

    /// Prefill of all of `hidden_states`, then every decode step: the outputs, \[B, T, D\] and \[N, B, D\], and the cache.
    fn run(&self, layer: &MlaLayer) -> (HostTensor, HostTensor, PagedKvCache) {
        let hidden = self.tensor("hidden_states");
        self.run_amid(7, layer, &hidden, self.steps())
    }

    /// The same of these hidden states and so many steps, with garbage of `seed` in the cache's unused bytes and the block
    /// table's unused entries.
    fn run_amid(
        &self,
        seed: u64,
        layer: &MlaLayer,
        hidden: &HostTensor,
        steps: usize,
    ) -> (HostTensor, HostTensor, PagedKvCache) {
        let &[sequences, tokens, d_model] = hidden.shape() else {
            panic!()
        };
        let mut cache = layer.new_cache(sequences, tokens + self.steps()).unwrap();
        cache.scramble(seed).unwrap();
        let prefill = layer.step(&mut cache, hidden, &vec![tokens; sequences]).unwrap().out;
        let mut decode = Vec::new();
        for n in 0..steps {
            let step = layer
                .step(&mut cache, &self.decode_hidden(n), &vec![1; sequences])
                .unwrap();
            decode.extend(step.out.to_f64_vec());
        }
        let decode = HostTensor::from_f64(&[steps, sequences, d_model], &decode).unwrap();
        (prefill, decode, cache)
    }

    /// rel-L2 of prefill and decode against the f64 outputs.
    fn errors(&self, prefill: &HostTensor, decode: &HostTensor) -> [f64; 2] {
        [("prefill_out", prefill), ("decode_out", decode)]
            .map(|(name, found)| compare(found, &self.tensor(name)).unwrap().rel_l2)
    }

    /// The same of transformers' own bf16 run.
    fn bf16_errors(&self) -> [f64; 2] {
        self.errors(&self.tensor("prefill_out_bf16"), &self.tensor("decode_out_bf16"))
    }

    fn check(&self, options: LayerOptions, allowed: [f64; 2]) {
        let (prefill, decode, _) = self.run(&self.layer(options));
        let found = self.errors(&prefill, &decode);
        println!("{options:?}: prefill and decode {found:?}, allowed {allowed:?}");
        assert!(
            found[0] <= allowed[0] && found[1] <= allowed[1],
            "{options:?}: {found:?}, allowed {allowed:?}"
        );
    }
}

fn options(device: DeviceSpec, plan: PlanKind, dtype: DType, page_size: usize) -> LayerOptions {
    LayerOptions {
        device,
        plan,
        dtype,
        page_size,
        ..LayerOptions::default()
    }
}

fn reference(fixture: &Fixture) {
    fixture.check(options(REFERENCE_F64, PlanKind::Fused, DType::BF16, 64), [5e-5; 2]);
    fixture.check(options(REFERENCE_F32, PlanKind::Fused, DType::BF16, 7), [1e-4; 2]);
}

fn cpu(fixture: &Fixture, dtype: DType) {
    let allowed = match dtype {
        DType::F32 => [1e-4; 2],
        _ => fixture.bf16_errors().map(|error| 2.0 * error),
    };
    for plan in PLANS {
        fixture.check(options(DeviceSpec::Cpu, plan, dtype, 64), allowed);
    }
}

/// On the simulator, as the PTX that NVRTC makes, with all checks.
fn simulated(fixture: &Fixture, arch: Arch, plan: PlanKind) {
    if nvrtc_or_skip().is_some() {
        let allowed = fixture.bf16_errors().map(|error| 2.0 * error);
        fixture.check(options(DeviceSpec::sim(arch), plan, DType::BF16, 64), allowed);
    }
}

#[test]
fn the_reference_matches_transformers_on_deepseek_v3_tiny() {
    reference(&Fixture::tiny());
}

#[test]
fn the_reference_matches_transformers_on_deepseek_v2_lite() {
    let Some(fixture) = Fixture::lite() else { return };
    reference(&fixture);
}

#[test]
fn the_cpu_matches_in_f32_on_deepseek_v3_tiny() {
    cpu(&Fixture::tiny(), DType::F32);
}

#[test]
fn the_cpu_matches_in_f32_on_deepseek_v2_lite() {
    let Some(fixture) = Fixture::lite() else { return };
    cpu(&fixture, DType::F32);
}

#[test]
fn the_cpu_is_as_good_as_plain_bf16_on_deepseek_v3_tiny() {
    cpu(&Fixture::tiny(), DType::BF16);
}

#[test]
fn the_cpu_is_as_good_as_plain_bf16_on_deepseek_v2_lite() {
    let Some(fixture) = Fixture::lite() else { return };
    cpu(&fixture, DType::BF16);
}

#[test]
fn the_simulator_is_as_good_as_plain_bf16_on_deepseek_v3_tiny() {
    let fixture = Fixture::tiny();
    for arch in [Arch::Sm80, Arch::Sm120] {
        for plan in PLANS {
            simulated(&fixture, arch, plan);
        }
    }
}

#[test]
fn the_simulator_is_as_good_as_plain_bf16_on_deepseek_v2_lite() {
    let Some(fixture) = Fixture::lite() else { return };
    simulated(&fixture, Arch::Sm80, PlanKind::Fused);
}

#[test]
fn the_simulator_is_as_good_as_plain_bf16_on_deepseek_v2_lite_a_kernel_a_node() {
    let Some(fixture) = Fixture::lite() else { return };
    simulated(&fixture, Arch::Sm120, PlanKind::Unfused);
}

/// What `mlafuse verify` measures 16-bit types by errs as transformers' own bf16 run does.
#[test]
fn the_plain_implementation_errs_as_transformers_does() {
    for fixture in [Some(Fixture::tiny()), Fixture::lite()].into_iter().flatten() {
        let checkpoint = Checkpoint::open(&fixture.dir).unwrap();
        let weights = LayerWeights::load(&checkpoint, &default_prefix(&fixture.config, 0), &fixture.config).unwrap();
        let layer = MlaLayer::plain(&weights, &fixture.config, DType::BF16, 64).unwrap();
        let (prefill, decode, _) = fixture.run(&layer);
        let found = fixture.errors(&prefill, &decode);
        for (found, theirs) in found.into_iter().zip(fixture.bf16_errors()) {
            println!("plain {found:.2e}, transformers {theirs:.2e}");
            assert!(
                (0.5..=1.5).contains(&(found / theirs)),
                "{found:.2e}, transformers {theirs:.2e}"
            );
        }
    }
}

#[test]
fn f16_is_better_than_bf16() {
    let fixture = Fixture::tiny();
    let allowed = fixture.bf16_errors();
    for plan in PLANS {
        fixture.check(options(DeviceSpec::Cpu, plan, DType::F16, 64), allowed);
    }
}

#[test]
fn every_page_size_gives_the_same_rows() {
    let fixture = Fixture::tiny();
    for plan in PLANS {
        let runs = [1, 7, 64].map(|page_size| {
            let layer = fixture.layer(options(DeviceSpec::Cpu, plan, DType::F32, page_size));
            fixture.run(&layer)
        });
        for (prefill, decode, cache) in &runs {
            assert!(fixture.errors(prefill, decode).iter().all(|&error| error < 1e-4));
            assert_eq!(
                prefill.bytes(),
                runs[2].0.bytes(),
                "{plan}, page size {}",
                cache.page_size()
            );
            assert_eq!(
                decode.bytes(),
                runs[2].1.bytes(),
                "{plan}, page size {}",
                cache.page_size()
            );
        }
    }
}

#[test]
fn the_cache_holds_what_transformers_caches() {
    let fixture = Fixture::tiny();
    let d_latent = fixture.config.d_latent;
    for (device, allowed) in [(REFERENCE_F64, 5e-5), (DeviceSpec::Cpu, 1e-4)] {
        let (_, _, cache) = fixture.run(&fixture.layer(options(device, PlanKind::Fused, DType::F32, 7)));
        for sequence in 0..2 {
            let rows = cache.rows(sequence).unwrap();
            let expected = fixture.tensor("latent").slice_outer(sequence..sequence + 1).unwrap();
            let latent = rows
                .slice_axis(1, 0..d_latent)
                .unwrap()
                .reshape(expected.shape())
                .unwrap();
            assert!(compare(&latent, &expected).unwrap().rel_l2 < allowed);
            // Its rope keys are de-interleaved: all first members of the pairs, then all second ones.
            let expected = fixture
                .tensor("k_rope")
                .slice_outer(sequence..sequence + 1)
                .unwrap()
                .to_f64_vec();
            let keys = rows
                .slice_axis(1, d_latent..d_latent + fixture.config.d_rope)
                .unwrap()
                .to_f64_vec();
            let d_rope = fixture.config.d_rope;
            for (found, expected) in keys.chunks(d_rope).zip(expected.chunks(d_rope)) {
                for pair in 0..d_rope / 2 {
                    assert!((found[2 * pair] - expected[pair]).abs() < 1e-3);
                    assert!((found[2 * pair + 1] - expected[d_rope / 2 + pair]).abs() < 1e-3);
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let fixed: Splits = "fixed:16".parse().unwrap();
    for fixture in [Some(Fixture::tiny()), Fixture::lite()].into_iter().flatten() {
        for (plan, splits) in [
            (PlanKind::Fused, Splits::Balanced),
            (PlanKind::Fused, fixed),
            (PlanKind::Unfused, Splits::Balanced),
        ] {
            let layer = fixture.layer(LayerOptions {
                splits,
                ..options(DeviceSpec::Cpu, plan, DType::BF16, 64)
            });
            let [first, others @ ..] = [1, 2, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| fixture.run(&layer))
            });
            for other in others {
                assert_eq!(first.0.bytes(), other.0.bytes(), "{plan}, {splits}: prefill");
                assert_eq!(first.1.bytes(), other.1.bytes(), "{plan}, {splits}: decode");
            }
        }
    }
}

/// NaN in every unused byte of the cache, and in unused entries of block tables numbers of no page or of other sequences'
/// pages: none of it changes a bit. On the simulator reading a page that is none is a report besides.
fn garbage_changes_no_bit(fixture: &Fixture, device: DeviceSpec, plan: PlanKind, dtype: DType) {
    // A short prefill, whose last page is not full, and two steps.
    let hidden = fixture.tensor("hidden_states").slice_axis(1, 0..13).unwrap();
    let layer = fixture.layer(options(device, plan, dtype, 5));
    let [first, second] = [1, 2].map(|seed| fixture.run_amid(seed, &layer, &hidden, 2));
    assert_ne!(
        first.2.block_table().unwrap().bytes(),
        second.2.block_table().unwrap().bytes()
    );
    assert_eq!(first.0.bytes(), second.0.bytes(), "{device}, {plan}, {dtype}: prefill");
    assert_eq!(first.1.bytes(), second.1.bytes(), "{device}, {plan}, {dtype}: decode");
    assert!(first.1.to_f64_vec().iter().all(|x| x.is_finite()));
}

#[test]
fn garbage_changes_no_bit_on_the_cpu() {
    for fixture in [Some(Fixture::tiny()), Fixture::lite()].into_iter().flatten() {
        for (plan, dtype) in PLANS.into_iter().zip([DType::BF16, DType::F32]) {
            garbage_changes_no_bit(&fixture, DeviceSpec::Cpu, plan, dtype);
        }
    }
}

#[test]
fn garbage_changes_no_bit_on_the_simulator() {
    if nvrtc_or_skip().is_some() {
        for plan in PLANS {
            garbage_changes_no_bit(&Fixture::tiny(), DeviceSpec::sim(Arch::Sm80), plan, DType::BF16);
        }
    }
}

#[test]
fn garbage_changes_no_bit_on_the_simulator_on_deepseek_v2_lite() {
    let Some(fixture) = Fixture::lite().filter(|_| nvrtc_or_skip().is_some()) else {
        return;
    };
    for plan in PLANS {
        garbage_changes_no_bit(&fixture, DeviceSpec::sim(Arch::Sm80), plan, DType::BF16);
    }
}

/// `hidden_states` in several steps, of `chunk[b]` tokens of sequence b each, and what comes out, token by token.
fn ragged(fixture: &Fixture, layer: &MlaLayer, chunks: &[[usize; 2]]) -> Vec<Vec<f64>> {
    let hidden = fixture.tensor("hidden_states");
    let &[sequences, tokens, d_model] = hidden.shape() else {
        panic!()
    };
    let values = hidden.to_f32_vec();
    let mut cache = layer.new_cache(sequences, tokens).unwrap();
    let mut found = vec![Vec::new(); sequences];
    for (n, chunk) in chunks.iter().enumerate() {
        cache.scramble(n as u64).unwrap();
        let longest = chunk.iter().copied().max().unwrap();
        // What stands in rows that are no tokens must not matter.
        let mut input = vec![f32::NAN; sequences * longest * d_model];
        for (b, &new) in chunk.iter().enumerate() {
            let start = cache.len(b).unwrap();
            let from = &values[(b * tokens + start) * d_model..][..new * d_model];
            input[b * longest * d_model..][..new * d_model].copy_from_slice(from);
        }
        let input = HostTensor::from_f32(&[sequences, longest, d_model], &input).unwrap();
        let out = layer.step(&mut cache, &input, chunk).unwrap().out.to_f64_vec();
        for (b, &new) in chunk.iter().enumerate() {
            let rows = &out[b * longest * d_model..][..longest * d_model];
            found[b].extend_from_slice(&rows[..new * d_model]);
            assert!(
                rows[new * d_model..].iter().all(|&x| x == 0.0),
                "padding of sequence {b} is not zero"
            );
        }
    }
    found
}

#[test]
fn ragged_steps_give_what_one_prefill_gives() {
    let fixture = Fixture::tiny();
    for page_size in [1, 7, 64] {
        for (device, plan) in [
            (REFERENCE_F64, PlanKind::Fused),
            (DeviceSpec::Cpu, PlanKind::Fused),
            (DeviceSpec::Cpu, PlanKind::Unfused),
        ] {
            check_ragged(&fixture, options(device, plan, DType::F32, page_size));
        }
    }
    if nvrtc_or_skip().is_some() {
        let device = DeviceSpec::sim(Arch::Sm89);
        check_ragged(&fixture, options(device, PlanKind::Fused, DType::F32, 7));
    }
}

fn check_ragged(fixture: &Fixture, options: LayerOptions) {
    let expected = fixture.tensor("prefill_out").to_f64_vec();
    // Lengths 0 and 1, decode of one sequence alone, growth over page borders, chunked prefill: 37 tokens each.
    let chunks = [
        [0, 5],
        [1, 0],
        [1, 1],
        [13, 1],
        [0, 0],
        [0, 1],
        [1, 0],
        [14, 22],
        [7, 7],
    ];
    let d_model = fixture.config.d_model;
    let found = ragged(fixture, &fixture.layer(options), &chunks);
    for (b, found) in found.iter().enumerate() {
        let whole = HostTensor::from_f64(&[37, d_model], found).unwrap();
        let expected = &expected[b * 37 * d_model..][..37 * d_model];
        let expected = HostTensor::from_f64(&[37, d_model], expected).unwrap();
        let error = compare(&whole, &expected).unwrap().rel_l2;
        assert!(error < 1e-4, "{options:?}, sequence {b}: {error:e}");
    }
}

#[test]
fn a_released_sequence_starts_anew() {
    let fixture = Fixture::tiny();
    let layer = fixture.layer(options(DeviceSpec::Cpu, PlanKind::Fused, DType::F32, 7));
    let hidden = fixture.tensor("hidden_states");
    // Room for one sequence and a little: the second must reuse the first's pages.
    let mut cache = layer.new_cache(2, 21).unwrap();
    layer.step(&mut cache, &hidden, &[37, 0]).unwrap();
    let error = layer.step(&mut cache, &hidden, &[0, 37]).unwrap_err();
    assert!(matches!(error, Error::CacheFull { needed: 6, free: 0, .. }), "{error}");
    assert_eq!((cache.len(0), cache.len(1)), (Some(37), Some(0)));
    cache.release(0).unwrap();
    cache.scramble(3).unwrap();
    let out = layer.step(&mut cache, &hidden, &[0, 37]).unwrap().out;
    let of_second = |tensor: &HostTensor| tensor.slice_outer(1..2).unwrap();
    let error = compare(&of_second(&out), &of_second(&fixture.tensor("prefill_out")))
        .unwrap()
        .rel_l2;
    assert!(error < 1e-4, "{error:e}");
}

#[test]
fn what_is_wrong_with_a_step_is_said() {
    let fixture = Fixture::tiny();
    let layer = fixture.layer(LayerOptions::default());
    let hidden = fixture.tensor("hidden_states");
    let mut cache = layer.new_cache(2, 40).unwrap();
    let mut message = |hidden: &HostTensor, new: &[usize]| layer.step(&mut cache, hidden, new).unwrap_err().to_string();
    assert_eq!(
        message(&hidden, &[37]),
        "new_tokens: expected 2 entries, one a sequence, got 1"
    );
    assert_eq!(
        message(&hidden, &[1, 38]),
        "new_tokens, sequence 1: 38; allowed: at most 37, the tokens of hidden"
    );
    let narrow = hidden.slice_axis(2, 0..255).unwrap();
    assert_eq!(
        message(&narrow, &[1, 1]),
        "hidden: expected shape [2, T, 256] (sequences, tokens, d_model), got [2, 37, 255]"
    );
    let mut other = fixture
        .layer(options(REFERENCE_F64, PlanKind::Fused, DType::BF16, 64))
        .new_cache(2, 40)
        .unwrap();
    let error = layer.step(&mut other, &hidden, &[1, 1]).unwrap_err().to_string();
    assert_eq!(
        error,
        "the cache does not suit this layer: its element type is f64, expected bf16"
    );
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_said() {
    let fixture = Fixture::tiny();
    let checkpoint = Checkpoint::open(&fixture.dir).unwrap();
    let wrong = MlaConfig {
        n_heads: 4,
        ..fixture.config.clone()
    };
    let error = LayerWeights::load(&checkpoint, "model.layers.0.self_attn", &wrong)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("q_b_proj.weight") && error.contains("expected shape [192, 96], got [384, 96]"),
        "{error}"
    );
    let error = LayerWeights::load(&checkpoint, "model.layers.1.self_attn", &fixture.config)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.layers.1.self_attn.q_a_proj.weight") && error.contains("near names"),
        "{error}"
    );
}

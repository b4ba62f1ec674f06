//! The attention core against its definition in f64.

use mlafuse::{AttentionInputs, AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor, launch_dims};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use proptest::prelude::*;

/// A launch: lengths as (kv_len, q_len) of each sequence.
#[derive(Clone, Debug)]
struct Case {
    shape: AttentionShape,
    tokens: usize,
    lens: Vec<(usize, usize)>,
    /// Elements between rows besides the row's own.
    padding: usize,
    seed: u64,
}

/// Numbers in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> HostTensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next()).collect();
        HostTensor::from_f32(shape, &values).unwrap().to_dtype(dtype)
    }
}

struct Launch {
    q_latent: HostTensor,
    q_pe: HostTensor,
    cache: HostTensor,
    block_table: HostTensor,
    q_len: Vec<usize>,
    kv_len: Vec<usize>,
}

impl Case {
    /// Pages in descending order, with one that nobody has between sequences; NaN and nonsense where nothing may look.
    fn launch(&self) -> Launch {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            page_size,
            ..
        } = self.shape;
        let mut random = Random(self.seed);
        let q_latent = random.tensor(dtype, &[self.lens.len(), self.tokens, n_heads, d_latent]);
        let q_pe = random.tensor(dtype, &[self.lens.len(), self.tokens, n_heads, d_rope]);
        let of = |len: usize| len.div_ceil(page_size);
        let width = self.lens.iter().map(|&(len, _)| of(len)).max().unwrap() + 1;
        let mut page: usize = self.lens.iter().map(|&(len, _)| of(len) + 1).sum();
        let stride = d_latent + d_rope + self.padding;
        let mut rows = vec![f32::NAN; page * page_size * stride];
        let mut table = vec![i32::MAX; self.lens.len() * width];
        for (b, &(len, _)) in self.lens.iter().enumerate() {
            page -= 1;
            for token in 0..len {
                if token % page_size == 0 {
                    page -= 1;
                    table[b * width + token / page_size] = page as i32;
                }
                let row = (page * page_size + token % page_size) * stride;
                rows[row..row + d_latent + d_rope]
                    .iter_mut()
                    .for_each(|x| *x = random.next());
            }
        }
        let pages = rows.len() / (page_size * stride);
        Launch {
            q_latent,
            q_pe,
            cache: HostTensor::from_f32(&[pages, page_size, stride], &rows)
                .unwrap()
                .to_dtype(dtype),
            block_table: HostTensor::from_i32(&[self.lens.len(), width], &table).unwrap(),
            q_len: self.lens.iter().map(|&(_, q)| q).collect(),
            kv_len: self.lens.iter().map(|&(kv, _)| kv).collect(),
        }
    }

    /// Largest differences of output and log-sum-exp from the definition.
    fn check(&self, device: DeviceSpec) -> (f64, f64) {
        let launch = self.launch();
        let core = DecodeAttention::new(self.shape, device).unwrap();
        let found = core.run(&launch.inputs(&self.shape)).unwrap();
        let (out, lse) = (found.out.to_f64_vec(), found.lse.to_f64_vec());
        assert_eq!(found.lse.shape(), [self.lens.len(), self.tokens, self.shape.n_heads]);
        let (heads, d_latent) = (self.shape.n_heads, self.shape.d_latent);
        let (mut worst_out, mut worst_lse) = (0.0f64, 0.0f64);
        for (b, &(_, q_len)) in self.lens.iter().enumerate() {
            for row in (0..q_len * heads).map(|row| b * self.tokens * heads + row) {
                let (expected, expected_lse) = launch.definition(self, b, row);
                for (found, expected) in out[row * d_latent..].iter().zip(&expected) {
                    worst_out = worst_out.max((found - expected).abs());
                }
                if lse[row] != expected_lse {
                    worst_lse = worst_lse.max((lse[row] - expected_lse).abs());
                }
            }
        }
        assert!(!worst_out.is_nan() && !worst_lse.is_nan() && out.iter().all(|x| !x.is_nan()));
        (worst_out, worst_lse)
    }
}

impl Case {
    /// Largest difference of an output.
    fn allowed(&self) -> f64 {
        if self.shape.dtype == DType::F32 { 1e-5 } else { 1.2e-2 }
    }
}

impl Launch {
    fn inputs(&self, shape: &AttentionShape) -> AttentionInputs<'_> {
        AttentionInputs {
            q_latent: &self.q_latent,
            q_pe: (shape.d_rope > 0).then_some(&self.q_pe),
            cache: &self.cache,
            block_table: &self.block_table,
            q_len: &self.q_len,
            kv_len: &self.kv_len,
        }
    }

    /// Output and log-sum-exp of one row (sequence, token, head) in f64.
    fn definition(&self, case: &Case, b: usize, row: usize) -> (Vec<f64>, f64) {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            page_size,
            softmax_scale,
            ..
        } = case.shape;
        let (q_latent, q_pe, cache) = (
            self.q_latent.to_f64_vec(),
            self.q_pe.to_f64_vec(),
            self.cache.to_f64_vec(),
        );
        let query = [&q_latent[row * d_latent..][..d_latent], &q_pe[row * d_rope..][..d_rope]].concat();
        let (kv_len, q_len) = case.lens[b];
        let token = row / n_heads % case.tokens;
        let table = &self.block_table.as_i32().unwrap()[b * self.block_table.shape()[1]..];
        let key = |j: usize| {
            let row = table[j / page_size] as usize * page_size + j % page_size;
            &cache[row * self.cache.shape()[2]..][..d_latent + d_rope]
        };
        let dot = |j: usize| key(j).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>() * softmax_scale;
        let scores: Vec<f64> = (0..kv_len)
            .take_while(|j| *j <= kv_len - q_len + token)
            .map(dot)
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; d_latent];
        for (j, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / sum;
            out.iter_mut()
                .zip(key(j))
                .for_each(|(out, value)| *out += weight * value);
        }
        (out, if scores.is_empty() { max } else { max + sum.ln() })
    }
}

fn case() -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    let dims = (
        1usize..21,
        1usize..5,
        prop_oneof![Just(0usize), Just(4), Just(16)],
        dtype,
        1usize..9,
    );
    let lens = proptest::collection::vec((0usize..40, 0usize..4), 1..4);
    (dims, lens, 0usize..3, 0usize..4, any::<u64>()).prop_map(|(dims, lens, more, padding, seed)| {
        let (n_heads, eighths, d_rope, dtype, page_size) = dims;
        let shape = AttentionShape {
            n_heads,
            d_latent: 8 * eighths,
            d_rope,
            dtype,
            page_size,
            softmax_scale: 0.3,
        };
        let lens: Vec<(usize, usize)> = lens.into_iter().map(|(kv, q)| (kv, q.min(kv))).collect();
        let tokens = lens.iter().map(|&(_, q)| q).max().unwrap() + more;
        Case {
            shape,
            tokens: tokens.max(1),
            lens,
            padding,
            seed,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_is_what_it_is_defined_as(case in case()) {
        let (out, lse) = case.check(DeviceSpec::Cpu);
        prop_assert!(out < case.allowed() && lse < 1e-4, "out {out:e}, lse {lse:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_is_the_same_as_ptx(case in case()) {
        if nvrtc_or_skip().is_some() {
            let (out, lse) = case.check(SIM);
            prop_assert!(out < case.allowed() && lse < 1e-4, "out {out:e}, lse {lse:e}");
        }
    }
}

const SIM: DeviceSpec = DeviceSpec::Sim {
    arch: None,
    checked: true,
};

const DEEPSEEK: AttentionShape = AttentionShape {
    n_heads: 20,
    d_latent: 512,
    d_rope: 64,
    dtype: DType::BF16,
    page_size: 64,
    softmax_scale: 0.1352,
};

#[test]
fn long_sequences_are_split() {
    split(DeviceSpec::Cpu);
}

#[test]
fn long_sequences_are_split_as_ptx() {
    if nvrtc_or_skip().is_some() {
        split(SIM);
    }
}

fn split(device: DeviceSpec) {
    // Several splits; an empty sequence; one whose later splits have no token.
    let lens = vec![(1500, 1), (0, 0), (130, 1), (64, 1), (1, 1)];
    let case = Case {
        shape: DEEPSEEK,
        tokens: 1,
        lens,
        padding: 0,
        seed: 5,
    };
    let (out, lse) = case.check(device);
    assert!(out < 1e-2 && lse < 1e-4, "out {out:e}, lse {lse:e}");
    let launch = case.launch();
    let core = DecodeAttention::new(case.shape, device).unwrap();
    let found = core.run(&launch.inputs(&case.shape)).unwrap();
    let of_empty = found.lse.slice_outer(1..2).unwrap().to_f32_vec();
    assert!(of_empty.iter().all(|&lse| lse == f32::NEG_INFINITY));
    let again = core.run(&launch.inputs(&case.shape)).unwrap();
    assert_eq!(found.out.bytes(), again.out.bytes());
}

#[test]
fn what_is_wrong_is_said() {
    let case = Case {
        shape: DEEPSEEK,
        tokens: 1,
        lens: vec![(3, 1)],
        padding: 0,
        seed: 1,
    };
    let launch = case.launch();
    let core = DecodeAttention::new(DEEPSEEK, DeviceSpec::Cpu).unwrap();
    let good = launch.inputs(&DEEPSEEK);
    let message = |inputs: &AttentionInputs<'_>| core.run(inputs).unwrap_err().to_string();
    let error = message(&AttentionInputs { q_pe: None, ..good });
    assert_eq!(error, "q_pe: expected shape [1, 1, 20, 64], got none");
    let error = message(&AttentionInputs {
        kv_len: &[1000],
        ..good
    });
    assert_eq!(
        error,
        "kv_len, sequence 0: 1000; allowed: at most 128, the room of the block table"
    );
    let error = message(&AttentionInputs { q_len: &[2], ..good });
    assert_eq!(error, "q_len, sequence 0: 2; allowed: at most 1, of T and kv_len");
    // An entry within the length that names no page.
    let table = HostTensor::from_i32(&[1, 2], &[9, 0]).unwrap();
    let error = message(&AttentionInputs {
        block_table: &table,
        ..good
    });
    assert_eq!(error, "block_table, sequence 0, entry 0: page 9; allowed: 0 to below 2");
    let Err(error) = DecodeAttention::new(DEEPSEEK, "cuda".parse().unwrap()) else {
        panic!("there is no such device")
    };
    assert!(error.to_string().starts_with("device cuda: "), "{error}");
}

#[test]
fn the_source_is_the_same_every_time() {
    let core = DecodeAttention::new(DEEPSEEK, DeviceSpec::Cpu).unwrap();
    let dims = launch_dims(1, 1, 4096, 64);
    let source = || core.cuda_source(&Target::for_arch(Arch::Sm80), &dims).unwrap();
    let kernels = source();
    assert_eq!(
        kernels
            .iter()
            .map(|kernel| kernel.tile.name.as_str())
            .collect::<Vec<_>>(),
        ["attention", "combine"]
    );
    for (first, second) in kernels.iter().zip(source()) {
        assert_eq!(first.source, second.source);
        assert!(!first.source.contains("#include"));
    }
}

#[test]
fn a_warm_cache_compiles_nothing() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::open(folder.path());
    let core = DecodeAttention::new(DEEPSEEK, DeviceSpec::Cpu).unwrap();
    let (target, dims) = (Target::for_arch(Arch::Sm80), launch_dims(1, 1, 4096, 64));
    let cold = core.compile(&target, &dims, &nvrtc, &cache).unwrap();
    let warm = core.compile(&target, &dims, &nvrtc, &cache).unwrap();
    assert_eq!(cold.len(), 2);
    for (cold, warm) in cold.iter().zip(&warm) {
        assert!(!cold.from_cache && warm.from_cache && warm.rejected.is_empty());
        assert_eq!(
            (&cold.cubin, &cold.source, cold.schedule),
            (&warm.cubin, &warm.source, warm.schedule)
        );
        assert_eq!(cold.resources, warm.resources);
        assert_eq!(cold.resources.spill_bytes, 0);
        assert!(
            cold.resources.occupancy > 0.0 && cold.resources.occupancy <= 1.0,
            "{:?}",
            cold.resources
        );
        assert!(cold.ptx.contains(&format!(".entry {}", cold.name)));
    }
}

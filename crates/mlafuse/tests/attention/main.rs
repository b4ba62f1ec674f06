//! The attention core against its definition in f64.

mod case;
mod packing;
mod serving;

use case::Case;
use mlafuse::{AttentionInputs, AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor, launch_dims};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use proptest::prelude::*;

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
            room: 0,
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
        room: 0,
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
        room: 0,
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
        assert!(!cold.from_cache && warm.from_cache);
        assert_eq!(cold.rejected, warm.rejected);
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

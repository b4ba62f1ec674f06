//! Batches as servers have them: ragged, with shared pages, each launch serving any lengths.

use super::SIM;
use super::case::{Case, Launch};
use mlafuse::{
    AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor, PlanKind, Splits, launch_dims, layer_graph,
    machine, plan_for,
};
use mlafuse_codegen::build::{Processor, build, cpu_schedule};
use mlafuse_codegen::tile::ParamKind;
use mlafuse_ir::presets::preset;
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_runtime::{Buffer, Device, Executable, open};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SMALL: AttentionShape = AttentionShape {
    n_heads: 5,
    d_latent: 24,
    d_rope: 8,
    dtype: DType::BF16,
    page_size: 16,
    softmax_scale: 0.3,
};

fn case(shape: AttentionShape, tokens: usize, lens: &[(usize, usize)]) -> Case {
    Case {
        shape,
        tokens,
        lens: lens.to_vec(),
        room: 0,
        padding: 0,
        seed: 11,
    }
}

/// Neither arguments nor grids of a fused step's kernels may follow from a length.
#[test]
fn no_kernel_of_a_fused_step_is_told_a_length() {
    for model in ["deepseek-v3", "minicpm3", "deepseek-v2-lite"] {
        let graph = layer_graph(&preset(model).unwrap(), DType::BF16, 64).unwrap();
        let dims = launch_dims(4, 2, 4096, 64);
        let machine = machine(&Target::for_arch(Arch::Sm80), DType::BF16);
        let plan = plan_for(&graph, PlanKind::Fused, &dims, &machine, None).unwrap().plan;
        assert!(plan.kernel("attention").is_some(), "{plan}");
        for region in &plan.kernels {
            let program = build(
                &plan,
                region,
                &cpu_schedule(&plan, region, &Processor::PLAIN, &dims).unwrap(),
            )
            .unwrap();
            let longest = ParamKind::Scalar(Symbol::S);
            assert!(program.params.iter().all(|param| param.kind != longest), "{program}");
        }
    }
}

/// The core's kernels on buffers that are bound once.
struct Recorded {
    executable: Executable,
    dims: Dims,
    buffers: BTreeMap<String, Buffer>,
}

impl Recorded {
    /// For launches as large as `largest`.
    fn new(case: &Case, largest: &Launch, device: DeviceSpec) -> Recorded {
        let device = open(device).unwrap();
        let plan = DecodeAttention::new(case.shape, DeviceSpec::Cpu)
            .unwrap()
            .plan()
            .clone();
        let (entries, row) = (largest.block_table.shape()[1], largest.cache.shape()[2]);
        let (sequences, room) = (case.lens.len(), entries * case.shape.page_size);
        let dims = launch_dims(sequences, case.tokens, room, case.shape.page_size)
            .with(Symbol::N, largest.cache.shape()[0])
            .with(Symbol::P, entries)
            .with_cache_strides(row, case.shape.page_size);
        let buffers = tensors(largest)
            .map(|(name, tensor)| (name.to_string(), device.alloc(name, tensor.bytes().len()).unwrap()));
        Recorded {
            buffers: buffers.into(),
            executable: Executable::new(device.clone(), plan, &dims).unwrap(),
            dims: Splits::Balanced.bind(&dims, room, device.as_ref()),
        }
    }

    /// The output \[B, T, H, d_latent\] after `launch`'s numbers were written to the device.
    fn replay(&self, launch: &Launch, shape: &[usize]) -> HostTensor {
        let device: &dyn Device = self.executable.device().as_ref();
        for (name, tensor) in tensors(launch) {
            device.write(&self.buffers[name], 0, tensor.bytes()).unwrap();
        }
        let run = self.executable.run(&self.dims, &self.buffers).unwrap();
        let mut out = HostTensor::zeros(launch.q_latent.dtype(), shape).unwrap();
        device.read(&run.outputs["out"], 0, out.bytes_mut()).unwrap();
        out.to_dtype(DType::F32)
    }
}

fn tensors(launch: &Launch) -> [(&'static str, HostTensor); 6] {
    let lengths = |lens: &[usize]| {
        let lens: Vec<i32> = lens.iter().map(|&len| len as i32).collect();
        HostTensor::from_i32(&[lens.len()], &lens).unwrap()
    };
    [
        ("q_latent", launch.q_latent.clone()),
        ("q_pe", launch.q_pe.clone()),
        ("cache", launch.cache.clone()),
        ("block_table", launch.block_table.clone()),
        ("q_len", lengths(&launch.q_len)),
        ("kv_len", lengths(&launch.kv_len)),
    ]
}

fn one_launch_serves_any_lengths(device: DeviceSpec) {
    let batches = [
        [(640, 2), (640, 2), (640, 2)],
        [(0, 0), (1, 1), (640, 2)],
        [(300, 2), (3, 2), (64, 0)],
        [(17, 1), (16, 2), (33, 1)],
    ];
    let of = |lens: &[(usize, usize)]| Case {
        room: 640,
        ..case(SMALL, 2, lens)
    };
    let recorded = Recorded::new(&of(&batches[0]), &of(&batches[0]).launch(), device);
    for lens in batches {
        let case = of(&lens);
        let launch = case.launch();
        let core = DecodeAttention::new(SMALL, device).unwrap();
        let expected = core.run(&launch.inputs(&SMALL)).unwrap();
        let out = recorded.replay(&launch, expected.out.shape());
        assert_eq!(out.bytes(), expected.out.bytes(), "{lens:?}");
        let (out, lse) = case.differences(&launch, &expected);
        assert!(out < case.allowed() && lse < 1e-4, "{lens:?}: out {out:e}, lse {lse:e}");
    }
}

#[test]
fn one_launch_serves_any_lengths_on_the_cpu() {
    one_launch_serves_any_lengths(DeviceSpec::Cpu);
}

#[test]
fn one_launch_serves_any_lengths_as_ptx() {
    if nvrtc_or_skip().is_some() {
        one_launch_serves_any_lengths(SIM);
    }
}

/// A sequence alone and in company, under block tables of different widths.
fn fixed_splits_know_no_other_sequence(device: DeviceSpec, tokens: usize) {
    let lens = [(777, 1), (0, 0), (1500, tokens), (130, tokens), (1, 1), (64, 1)];
    let case = case(SMALL, tokens, &lens);
    let launch = case.launch();
    let entries = launch.block_table.shape()[1];
    let core = DecodeAttention::new(SMALL, device)
        .unwrap()
        .with_splits("fixed:100".parse().unwrap());
    let all = core.run(&launch.inputs(&SMALL)).unwrap();
    let (out, lse) = case.differences(&launch, &all);
    assert!(out < case.allowed() && lse < 1e-4, "out {out:e}, lse {lse:e}");
    let row = |tensor: &HostTensor, b: usize| tensor.slice_outer(b..b + 1).unwrap().bytes().to_vec();
    for sequences in [&[0][..], &[2], &[3], &[2, 0], &[5, 4, 3, 2, 1, 0]] {
        for entries in [entries, 2 * entries] {
            let some = core.run(&launch.only(sequences, entries).inputs(&SMALL)).unwrap();
            for (at, &b) in sequences.iter().enumerate() {
                let what = format!("sequence {b} of {sequences:?}, {entries} entries");
                assert_eq!(row(&some.out, at), row(&all.out, b), "{what}");
                assert_eq!(row(&some.lse, at), row(&all.lse, b), "{what}");
            }
        }
    }
}

#[test]
fn fixed_splits_know_no_other_sequence_on_the_cpu() {
    for tokens in [1, 3] {
        fixed_splits_know_no_other_sequence(DeviceSpec::Cpu, tokens);
    }
}

#[test]
fn fixed_splits_know_no_other_sequence_as_ptx() {
    if nvrtc_or_skip().is_some() {
        fixed_splits_know_no_other_sequence(SIM, 1);
    }
}

/// How close a launch with a common beginning comes to the definition.
fn shared(device: DeviceSpec, page_size: usize, pages: usize, lens: &[(usize, usize)]) -> (f64, f64) {
    let shape = AttentionShape { page_size, ..SMALL };
    let case = case(shape, 2, lens);
    let mut launch = case.launch();
    launch.share(pages, page_size);
    let core = DecodeAttention::new(shape, device).unwrap();
    case.differences(&launch, &core.run(&launch.inputs(&shape)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sequences_may_share_pages(
        page_size in prop_oneof![1usize..9, 1usize..257],
        pages in 0usize..5,
        lens in proptest::collection::vec((0usize..600, 0usize..3), 2..5),
    ) {
        let lens: Vec<(usize, usize)> = lens.into_iter().map(|(kv, q)| (kv, q.min(kv))).collect();
        let (out, lse) = shared(DeviceSpec::Cpu, page_size, pages, &lens);
        prop_assert!(out < 1.2e-2 && lse < 1e-4, "out {out:e}, lse {lse:e}");
    }
}

#[test]
fn sequences_may_share_pages_as_ptx() {
    if nvrtc_or_skip().is_some() {
        for (page_size, pages) in [(1, 37), (16, 5), (256, 1)] {
            let (out, lse) = shared(SIM, page_size, pages, &[(300, 2), (257, 1), (299, 2), (40, 1)]);
            assert!(
                out < 1.2e-2 && lse < 1e-4,
                "page size {page_size}: out {out:e}, lse {lse:e}"
            );
        }
    }
}

#[test]
fn lengths_may_be_as_different_as_they_like() {
    let lens = [0, 1, 63, 64, 65, 4097, 30_000].map(|kv: usize| (kv, kv.min(1)));
    for dtype in [DType::BF16, DType::F32] {
        let case = case(AttentionShape { dtype, ..SMALL }, 1, &lens);
        let (out, lse) = case.check(DeviceSpec::Cpu);
        assert!(out < case.allowed() && lse < 1e-4, "{dtype}: out {out:e}, lse {lse:e}");
    }
}

#[test]
fn a_sequence_may_have_100_000_tokens() {
    let shape = AttentionShape { n_heads: 2, ..SMALL };
    let (out, lse) = case(shape, 1, &[(100_000, 1)]).check(DeviceSpec::Cpu);
    assert!(out < 1.2e-2 && lse < 1e-4, "out {out:e}, lse {lse:e}");
}

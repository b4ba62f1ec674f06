use crate::plan::{PlanKind, PreparedLayer, launch_dims, layer_graph, machine};
use mlafuse_codegen::build::candidates;
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use mlafuse_ir::presets::preset;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_tensor::DType;

/// The fused plan of one decode step of `sequences` sequences with 4,096 cached tokens.
fn decode(model: &str, dtype: DType, sequences: usize, target: &Target) -> Plan {
    let graph = layer_graph(&preset(model).unwrap(), dtype, 64).unwrap();
    let layer = PreparedLayer::new(&graph, &machine(target, dtype), Some(target)).unwrap();
    let dims = launch_dims(sequences, 1, 4096, 64);
    layer.plan(PlanKind::Fused, &dims).unwrap().plan
}

fn has(plan: &Plan, wanted: fn(&RegionKind) -> bool) -> bool {
    plan.kernels.iter().any(|kernel| wanted(&kernel.kind))
}

fn up_projects(plan: &Plan) -> bool {
    has(plan, |kind| matches!(kind, RegionKind::UpProjection(_)))
}

fn projects_the_combine(plan: &Plan) -> bool {
    has(
        plan,
        |kind| matches!(kind, RegionKind::Combine(combine) if combine.projection.is_some()),
    )
}

#[test]
fn attention_that_does_not_fit_a_part_is_a_kernel_a_node_and_said() {
    let plan = |arch| decode("deepseek-v3", DType::F32, 1, &Target::for_arch(arch));
    let (large, small) = (plan(Arch::Sm80), plan(Arch::Sm86));
    assert!(large.kernel("attention").is_some() && large.notes.is_empty(), "{large}");
    assert!(
        small.kernel("attention").is_none() && small.kernel("softmax_p").is_some(),
        "{small}"
    );
    let [note] = &small.notes[..] else { panic!("{small}") };
    assert!(
        note.starts_with("attention not fused: ")
            && note.contains("bytes of shared memory a block, rtx3090 (sm_86) allows"),
        "{note}"
    );
}

#[test]
fn every_kind_of_fusion_must_fit_the_part() {
    let part = Target {
        shared_per_block: 12 << 10,
        ..Target::for_arch(Arch::Sm80)
    };
    let plan = decode("deepseek-v3", DType::BF16, 1, &part);
    assert!(!up_projects(&plan) && plan.kernel("attention").is_none(), "{plan}");
    for of in ["attention not fused: ", "`q_nope_q_r"] {
        let short = |note: &String| note.starts_with(of) && note.contains("bytes of shared memory a block");
        assert!(plan.notes.iter().any(short), "{plan}");
    }
    let dims = launch_dims(1, 1, 4096, 64);
    let fits = |region: &Region| candidates(&plan, region, &part, &dims).is_ok();
    assert!(plan.kernels.iter().all(fits), "{plan}");
}

/// Reading a head's weights for a second block of rows, or the parts of the splits for a second block of columns, may cost
/// more than the launches that a fusion saves.
#[test]
fn what_takes_longer_than_its_parts_is_left_out_with_both_figures() {
    let figures = |note: &String| note.contains(" us modelled, ") && note.ends_with(" us apart");
    for (arch, fusion, of) in [
        (Arch::Sm89, up_projects as fn(&Plan) -> bool, "`q_nope_q_r"),
        (Arch::Sm120, projects_the_combine, "`o` not fused with the combine of"),
    ] {
        let plan = |sequences| decode("glm-4.7-flash", DType::BF16, sequences, &Target::for_arch(arch));
        let (few, many) = (plan(1), plan(64));
        assert!(fusion(&few) && few.notes.is_empty() && few.kernels.len() == 6, "{few}");
        assert!(!fusion(&many) && many.kernel("attention").is_some(), "{many}");
        let [note] = &many.notes[..] else { panic!("{many}") };
        assert!(note.starts_with(of) && figures(note), "{note}");
    }
}

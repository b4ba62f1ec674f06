//! What the simulator counts of the kernels that multiply matrices, attention's and the projections', of every preset's shape:
//! shared memory without bank conflicts, device memory in whole sectors.
//!
//! Each kernel runs under the schedule that the cost model takes first. The model's width and its heads are cut, no dimension
//! of a head, so that a test is quick and every tile full.

use mlafuse_codegen::build::{build, candidates};
use mlafuse_codegen::tile::{Stmt, TileProgram};
use mlafuse_ir::presets::{names, preset};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::DType;
use mlafuse_tests::case::{Case, Numbers, Run};
use mlafuse_tests::drive::case;
use mlafuse_tests::simulator::Simulator;
use ptxsim::machine::{Counters, Schedule as Order};
use std::collections::BTreeSet;

/// The shapes of the presets' layers, each once.
fn shapes() -> BTreeSet<String> {
    let shape = |name: &str| {
        let config = preset(name).unwrap();
        let query = config.d_q_latent.map_or("none".to_string(), |_| "128".to_string());
        format!(
            "heads=16,d_model=256,d_latent={},d_rope={},d_nope={},d_v={},d_q_latent={query}",
            config.d_latent, config.d_rope, config.d_nope, config.d_v
        )
    };
    names().map(shape).collect()
}

fn multiplies(program: &TileProgram) -> bool {
    fn any(body: &[Stmt]) -> bool {
        body.iter().any(|stmt| match stmt {
            Stmt::Gemm { .. } => true,
            Stmt::For { body, .. } | Stmt::If { body, .. } => any(body),
            _ => false,
        })
    }
    any(&program.body)
}

/// Runs the kernels of `case` that multiply matrices, each on inputs of its own, and gives what each did.
fn counted(case: &Case, arch: Arch) -> Option<Vec<(String, Counters)>> {
    let mut simulator = Simulator::new(arch, &nvrtc_or_skip()?, &[Order::Fixed]);
    let target = Target::for_arch(arch);
    let mut run = Run::new(case);
    let mut numbers = Numbers::new(3);
    let mut counted = Vec::new();
    for region in run.plan.kernels.clone() {
        let schedule = candidates(&run.plan, &region, &target, &run.dims).unwrap()[0];
        if !multiplies(&build(&run.plan, &region, &schedule).unwrap()) {
            continue;
        }
        run.fill_temporaries(&region, &mut numbers, 1.0);
        let statistics = run.kernel(&mut simulator, &region, &schedule, &target).unwrap();
        counted.push((format!("{}, {schedule}", region.name), statistics.total));
    }
    Some(counted)
}

/// Asserts that shared memory takes at most 1.02 × the passes that would do without bank conflicts, over the launch, and that
/// each load, store and copy of device memory touches no more 32-byte sectors than its bytes fill. Of the latter a combine is
/// let off: its rows are tokens of one head, whose log-sum-exps lie as far apart as there are heads.
#[track_caller]
fn check(case: &Case, arch: Arch) {
    let Some(counted) = counted(case, arch) else { return };
    let attends = counted.iter().any(|(kernel, _)| kernel.starts_with("attention"));
    assert!(attends && counted.len() > 3, "{case:?}: {counted:?}");
    for (kernel, total) in counted {
        let (passes, ideal) = (total.shared_wavefronts, total.shared_wavefronts_ideal);
        assert!(
            ideal > 0 && 100 * passes <= 102 * ideal,
            "{arch} {kernel}: {passes} passes through shared memory, {ideal} would do\n{case:?}"
        );
        let (sectors, ideal) = (total.global_sectors(), total.global_sectors_ideal);
        assert!(
            ideal > 0 && (sectors == ideal || kernel.starts_with("combine")),
            "{arch} {kernel}: {sectors} sectors, {ideal} would do\n{case:?}"
        );
    }
}

/// bf16, and cache rows and pages that begin at whole sectors.
fn aligned(model: &str, lengths: &[(usize, usize)]) -> Case {
    Case {
        row_align: 16,
        ..case(model, lengths)
    }
}

#[test]
fn decode_of_one_token() {
    for model in shapes() {
        check(&aligned(&model, &[(1, 128)]), Arch::Sm80);
    }
}

/// 32 rows of the projections, 256 of attention.
#[test]
fn decode_of_many_tokens() {
    for model in shapes().iter().take(2) {
        check(&aligned(model, &[(16, 64), (16, 128)]), Arch::Sm80);
    }
}

/// Other limits of shared memory and of registers, and so other schedules.
#[test]
fn decode_on_a_part_with_less_shared_memory() {
    for model in shapes().iter().take(2) {
        check(&aligned(model, &[(2, 64); 2]), Arch::Sm120);
    }
}

#[test]
fn decode_in_other_types() {
    for dtype in [DType::F16, DType::F32] {
        for model in shapes().iter().take(1) {
            let case = Case {
                dtype,
                ..aligned(model, &[(1, 64)])
            };
            check(&case, Arch::Sm80);
        }
    }
}

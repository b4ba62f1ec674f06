//! What the simulator counts of the kernels that multiply matrices, attention's and the projections', of every preset's shape:
//! shared memory without bank conflicts, device memory in whole sectors.
//!
//! Each kernel runs under the schedule that the cost model takes first. The model's width and its heads are cut, no dimension
//! of a head, so that a test is quick and every tile full.

use mlafuse_codegen::build::{build, candidates};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{Stmt, TileProgram};
use mlafuse_ir::plan::{Region, RegionKind};
use mlafuse_ir::presets::{names, preset};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::DType;
use mlafuse_tests::case::{Case, Numbers, Run};
use mlafuse_tests::drive::{case, prefill_case};
use mlafuse_tests::simulator::Simulator;
use ptxsim::machine::{Schedule as Order, Statistics};
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

/// What a kernel did, and which one it is.
struct Counted {
    region: Region,
    schedule: Schedule,
    statistics: Statistics,
}

/// Runs the kernels of `case` that multiply matrices, each on inputs of its own, and gives what each did.
fn counted(case: &Case, arch: Arch) -> Option<Vec<Counted>> {
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
        counted.push(Counted {
            region,
            schedule,
            statistics,
        });
    }
    Some(counted)
}

/// Asserts that shared memory takes at most 1.02 × the passes that would do without bank conflicts, over the launch, and that
/// each load, store and copy of device memory touches no more 32-byte sectors than its bytes fill, but for what
/// [`spread_rows`] counts.
#[track_caller]
fn check(case: &Case, arch: Arch) {
    let Some(counted) = counted(case, arch) else { return };
    let attention = if case.absorbed { "attention" } else { "prefill" };
    let names: Vec<&str> = counted.iter().map(|kernel| kernel.region.name.as_str()).collect();
    assert!(names.contains(&attention) && names.len() > 3, "{case:?}: {names:?}");
    for kernel in &counted {
        let total = &kernel.statistics.total;
        let spread = spread_rows(case, kernel);
        let kernel = format!("{}, {}", kernel.region.name, kernel.schedule);
        let (passes, ideal) = (total.shared_wavefronts, total.shared_wavefronts_ideal);
        assert!(
            ideal > 0 && 100 * passes <= 102 * ideal,
            "{arch} {kernel}: {passes} passes through shared memory, {ideal} would do\n{case:?}"
        );
        let (sectors, ideal) = (total.global_sectors(), total.global_sectors_ideal);
        assert!(
            ideal > 0 && sectors == ideal + spread,
            "{arch} {kernel}: {sectors} sectors, {ideal} + {spread} would do\n{case:?}"
        );
    }
}

/// The sectors that a combine touches beyond those that its bytes fill: its rows are tokens of one head, attention's were the
/// heads of a token, so that one of them finds its log-sum-exps apart; that is who reads 4 bytes a row, not who writes them.
/// Of a sector's 32 bytes the lanes that have the row ask for 4 each: all where blocks have eight rows, else half. The blocks of
/// neighbouring heads ask for the others, and device memory gives each sector once, which is asserted.
fn spread_rows(case: &Case, kernel: &Counted) -> u64 {
    let RegionKind::Combine(combine) = &kernel.region.kind else {
        return 0;
    };
    let rows = case.lengths.len() * case.lengths.iter().map(|&(new, _)| new).max().unwrap_or(0);
    let read = format!("buffer {}", combine.lse.0);
    let traffic = kernel
        .statistics
        .traffic
        .iter()
        .find(|traffic| traffic.allocation == read);
    let bytes = 4 * case.splits * rows * combine.n_heads;
    assert_eq!(
        traffic.map(|traffic| traffic.sectors_read),
        Some(bytes.div_ceil(32) as u64),
        "{case:?}"
    );
    // One pass finds the largest, and one for each piece of the columns weighs the parts; each warp of a row loads its own.
    let passes = 1 + combine.columns.div_ceil(kernel.schedule.block_k);
    let lanes = if kernel.schedule.block_m == 8 { 8 } else { 4 };
    (rows * (8 - lanes) / 8 * combine.n_heads * case.splits * passes * kernel.schedule.warps_n) as u64
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

/// A prompt, and the next piece of one after as many cached tokens again.
#[test]
fn prefill() {
    for model in shapes().iter().take(2) {
        let case = Case {
            row_align: 16,
            ..prefill_case(model, &[(64, 64), (64, 128)])
        };
        check(&case, Arch::Sm80);
    }
}

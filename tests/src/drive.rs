//! Ways through the kernels of a case.

use crate::case::{Case, Numbers, Run, unprojected};
use mlafuse_codegen::build::candidates;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{Plan, Region, RegionKind};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_tensor::DType;

/// Every figure of a test, or `more` where `MLAFUSE_DEEP=1`.
pub fn deep<T>(usual: T, more: T) -> T {
    match std::env::var("MLAFUSE_DEEP") {
        Ok(value) if value == "1" => more,
        _ => usual,
    }
}

/// Two splits of absorbed and fused attention in bf16.
pub fn case(model: &str, lengths: &[(usize, usize)]) -> Case {
    Case {
        model: model.into(),
        dtype: DType::BF16,
        page_size: 16,
        lengths: lengths.to_vec(),
        splits: 2,
        absorbed: true,
        fused: true,
        row_align: 8,
        seed: 7,
    }
}

/// Heads, latent and value dimensions, lengths and splits.
type Projected = (usize, usize, usize, &'static [(usize, usize)], usize);

/// Combines with each head's projection.
pub const PROJECTED: [Projected; 5] = [
    (1, 7, 9, &[(1, 33)], 1),
    (7, 50, 17, &[(2, 17), (0, 0), (5, 50), (1, 7)], 3),
    (3, 192, 40, &[(1, 64), (1, 1), (1, 200)], 5),
    (5, 72, 130, &[(8, 40), (3, 3), (0, 5), (2, 66)], 2),
    (20, 24, 33, &[(1, 128); 18], 4),
];

/// A layer whose projection of each head is not merged with the output's, and its launch.
pub fn projected_case(
    heads: usize,
    d_latent: usize,
    d_v: usize,
    dtype: DType,
    lengths: &[(usize, usize)],
    splits: usize,
) -> Case {
    // So wide a model that merging the two weights does not pay.
    let d_model = 2 * d_v + 64;
    let model = format!("heads={heads},d_model={d_model},d_latent={d_latent},d_rope=4,d_nope=4,d_v={d_v},d_q_latent=8");
    Case {
        dtype,
        splits,
        ..case(&model, lengths)
    }
}

/// The same of unabsorbed attention.
pub fn prefill_case(model: &str, lengths: &[(usize, usize)]) -> Case {
    Case {
        absorbed: false,
        ..case(model, lengths)
    }
}

/// Every kernel of the layer, in order, each under `count` schedules. `kernel` runs one.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn layer(
    case: &Case,
    arch: Arch,
    count: usize,
    kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    kernels(Run::new(case), arch, count, Numbers::new(!case.seed), kernel)
}

/// Every kernel of a plan, in order, each under `count` schedules drawn by `numbers`. `kernel` runs one.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn kernels(
    mut run: Run,
    arch: Arch,
    count: usize,
    mut numbers: Numbers,
    mut kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    for region in run.plan.kernels.clone() {
        let all = schedules(&run, &region, arch)?;
        let before = run.memory.clone();
        for _ in 0..count {
            run.memory = before.clone();
            kernel(&mut run, &region, &all[numbers.below(all.len())])?;
        }
    }
    Ok(())
}

/// Attention under each of `picked` out of its schedules, and the combine after it, on queries of their own: in the layer's plan,
/// and with the result in memory. `kernel` runs one.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn attention(
    case: &Case,
    arch: Arch,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
    mut kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    let plan = case.plan();
    for plan in [unprojected(&plan), plan] {
        let mut run = Run::of(case, plan);
        let [attention, combine] = attention_kernels(&run);
        run.fill_temporaries(&attention, &mut Numbers::new(case.seed.wrapping_add(1)), 1.0);
        let before = run.memory.clone();
        let combines = schedules(&run, &combine, arch)?;
        for (i, schedule) in picked(&schedules(&run, &attention, arch)?).into_iter().enumerate() {
            run.memory = before.clone();
            kernel(&mut run, &attention, &schedule)?;
            kernel(&mut run, &combine, &combines[i % combines.len()])?;
        }
    }
    Ok(())
}

/// A run of one of the case's plans in which attention has left its parts, of queries of its own of this deviation. `kernel`
/// runs it.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn after_attention(
    case: &Case,
    plan: Plan,
    arch: Arch,
    deviation: f64,
    mut kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<Run, String> {
    let mut run = Run::of(case, plan);
    let [attention, _] = attention_kernels(&run);
    run.fill_temporaries(&attention, &mut Numbers::new(case.seed.wrapping_add(1)), deviation);
    let best = schedules(&run, &attention, arch)?[0];
    kernel(&mut run, &attention, &best)?;
    Ok(run)
}

/// The combine of attention's splits under each of `picked` out of its schedules. `kernel` runs one.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn combine(
    case: &Case,
    arch: Arch,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
    mut kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    let mut run = after_attention(case, case.plan(), arch, 1.0, &mut kernel)?;
    let [_, combine] = attention_kernels(&run);
    under_each(&mut run, &combine, arch, picked, kernel)
}

/// Unabsorbed attention under each of `picked` out of its schedules, on queries, keys and values of their own. `kernel` runs
/// one.
///
/// # Errors
/// That of `kernel`, or that there is no schedule.
pub fn prefill(
    case: &Case,
    arch: Arch,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
    kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    let mut run = Run::new(case);
    let prefill = prefill_kernel(&run);
    run.fill_temporaries(&prefill, &mut Numbers::new(case.seed.wrapping_add(1)), 1.0);
    under_each(&mut run, &prefill, arch, picked, kernel)
}

/// `region` under each of `picked` out of its schedules, from the same memory. `kernel` runs one.
fn under_each(
    run: &mut Run,
    region: &Region,
    arch: Arch,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
    mut kernel: impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String>,
) -> Result<(), String> {
    let before = run.memory.clone();
    for schedule in picked(&schedules(run, region, arch)?) {
        run.memory = before.clone();
        kernel(run, region, &schedule)?;
    }
    Ok(())
}

/// A small schedule of attention: warps along rows and columns, several blocks of rows and of keys in small cases.
pub fn attention_schedule(stages: usize) -> Schedule {
    Schedule {
        block_m: 32,
        block_n: 32,
        block_k: 0,
        warps_m: 2,
        warps_n: 2,
        warps_k: 1,
        transposed: false,
        stages,
    }
}

/// The kernel of fused unabsorbed attention.
///
/// # Panics
/// Where the plan has none.
pub fn prefill_kernel(run: &Run) -> Region {
    kernel(run, |kind| matches!(kind, RegionKind::Prefill(_)))
}

/// The kernels of fused attention.
///
/// # Panics
/// Where the plan has none.
pub fn attention_kernels(run: &Run) -> [Region; 2] {
    [
        kernel(run, |kind| matches!(kind, RegionKind::Attention(_))),
        kernel(run, |kind| matches!(kind, RegionKind::Combine(_))),
    ]
}

fn kernel(run: &Run, wanted: fn(&RegionKind) -> bool) -> Region {
    let found = run.plan.kernels.iter().find(|kernel| wanted(&kernel.kind));
    found
        .unwrap_or_else(|| panic!("no fused attention in {}", run.plan))
        .clone()
}

fn schedules(run: &Run, region: &Region, arch: Arch) -> Result<Vec<Schedule>, String> {
    candidates(&run.plan, region, &Target::for_arch(arch), &run.dims).map_err(|error| error.to_string())
}

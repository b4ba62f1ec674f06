//! Generated kernels as the PTX that NVRTC makes of them: every kernel of a case in the simulator, with all of its checks,
//! under several orders of warps and both extremes of asynchronous copies. The outputs must be the same bytes in all of them
//! and what the f64 interpreter says. `MLAFUSE_DEEP=1` runs more.

use mlafuse_codegen::build::build;
use mlafuse_codegen::lower::lower;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::Region;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::DType;
use mlafuse_tests::case::{Case, Numbers, Run};
use mlafuse_tests::drive::{
    self, PROJECTED, attention_kernels, case, deep, prefill_case, prefill_kernel, projected_case,
};
use mlafuse_tests::front::{Extras, front};
use mlafuse_tests::mutants::without;
use mlafuse_tests::simulator::Simulator;
use proptest::prelude::*;
use ptxsim::machine::Schedule as Order;

/// A simulator of `arch`, and how its launches are repeated; `None` where there is no NVRTC.
fn simulator(arch: Arch) -> Option<Simulator> {
    let nvrtc = nvrtc_or_skip()?;
    let usual = [Order::Fixed, Order::Random(1), Order::Starve(0)];
    let more = [Order::Random(2), Order::Random(3), Order::Starve(1), Order::Starve(3)];
    let orders = [&usual[..], deep(&[], &more)].concat();
    Some(Simulator::new(arch, &nvrtc, &orders))
}

/// Runs kernels on `simulator`.
fn on(simulator: &mut Simulator, arch: Arch) -> impl FnMut(&mut Run, &Region, &Schedule) -> Result<(), String> {
    let target = Target::for_arch(arch);
    move |run, region, schedule| run.kernel(simulator, region, schedule, &target).map(drop)
}

fn run_layer(simulator: &mut Simulator, arch: Arch, case: &Case) -> Result<(), String> {
    drive::layer(case, arch, deep(1, 3), on(simulator, arch))
}

fn run_attention(
    simulator: &mut Simulator,
    arch: Arch,
    case: &Case,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
) -> Result<(), String> {
    drive::attention(case, arch, picked, on(simulator, arch))
}

fn run_prefill(
    simulator: &mut Simulator,
    arch: Arch,
    case: &Case,
    picked: impl Fn(&[Schedule]) -> Vec<Schedule>,
) -> Result<(), String> {
    drive::prefill(case, arch, picked, on(simulator, arch))
}

#[track_caller]
fn must(result: Result<(), String>, case: &Case) {
    if let Err(what) = result {
        panic!("{case:?}\n{what}");
    }
}

/// Odd dimensions, no rope, one head; rows of every alignment; a sequence with nothing and one with nothing new.
#[test]
fn layers_are_what_the_interpreter_says() {
    let odd = "heads=5,d_model=37,d_latent=50,d_rope=6,d_nope=11,d_v=13,d_q_latent=22";
    let no_rope = "heads=1,d_model=24,d_latent=7,d_rope=0,d_nope=8,d_v=9,d_q_latent=none";
    let halves = "heads=3,d_model=16,d_latent=24,d_rope=8,d_nope=4,d_v=4,d_q_latent=8,rope=half";
    let lengths = [(2, 35), (0, 0), (1, 1), (0, 20)];
    for (arch, model, dtype, page_size, (absorbed, fused), row_align) in [
        (Arch::Sm80, odd, DType::BF16, 16, (true, true), 8),
        (Arch::Sm80, no_rope, DType::F32, 1, (true, false), 1),
        (Arch::Sm120, odd, DType::F16, 3, (false, false), 2),
        (Arch::Sm90a, halves, DType::BF16, 64, (true, true), 4),
        (Arch::Sm86, odd, DType::BF16, 3, (false, true), 8),
        (Arch::Sm80, no_rope, DType::F32, 16, (false, true), 1),
        (Arch::Sm100a, halves, DType::F16, 1, (false, true), 2),
    ] {
        let Some(mut simulator) = simulator(arch) else { return };
        let case = Case {
            dtype,
            page_size,
            splits: 3,
            absorbed,
            fused,
            row_align,
            ..case(model, &lengths)
        };
        must(run_layer(&mut simulator, arch, &case), &case);
    }
}

/// The projections in their merged form: odd dimensions and one head, each optional part, and a real layer's heads.
#[test]
fn merged_projections_are_what_the_interpreter_says() {
    let odd = "heads=3,d_model=37,d_latent=50,d_rope=6,d_nope=11,d_v=4,d_q_latent=22";
    let no_rope = "heads=1,d_model=24,d_latent=7,d_rope=0,d_nope=8,d_v=4,d_q_latent=9";
    let halves = "heads=2,d_model=16,d_latent=24,d_rope=8,d_nope=20,d_v=4,d_q_latent=40,rope=half";
    let real = "heads=2,d_model=64,d_latent=512,d_rope=64,d_nope=128,d_v=4,d_q_latent=192";
    let ragged = [(2, 35), (0, 0), (1, 1), (0, 20), (8, 40)];
    let all = Extras {
        bias: true,
        factor: Some(0.7),
        keep_content: true,
    };
    let none = Extras {
        bias: false,
        factor: None,
        keep_content: false,
    };
    for (arch, model, dtype, lengths, row_align, extras) in [
        (Arch::Sm80, odd, DType::BF16, &ragged[..], 8, none),
        (Arch::Sm120, odd, DType::F32, &ragged[..], 1, all),
        (Arch::Sm90a, halves, DType::F16, &[(8, 8)], 2, all),
        (Arch::Sm80, no_rope, DType::BF16, &[(1, 3)], 1, none),
        (Arch::Sm86, real, DType::BF16, &[(1, 100), (1, 7)], 8, none),
    ] {
        let Some(mut simulator) = simulator(arch) else { return };
        let case = Case {
            dtype,
            row_align,
            ..case(model, lengths)
        };
        let run = Run::of(&case, front(&case, extras));
        let result = drive::kernels(run, arch, deep(1, 3), Numbers::new(7), on(&mut simulator, arch));
        must(result, &case);
    }
}

/// Shapes that no kernel was written for, each with other pages, lengths, splits and alignments.
#[test]
fn attention_of_odd_shapes() {
    let Some(mut simulator) = simulator(Arch::Sm80) else {
        return;
    };
    let lengths: [&[(usize, usize)]; 4] = [
        &[(1, 64), (0, 0), (1, 1)],
        &[(2, 17), (3, 50), (1, 7)],
        &[(3, 3), (0, 5), (2, 66)],
        &[(2, 2), (1, 128)],
    ];
    for (shape, (heads, d_latent, d_rope)) in [
        (1, 192, 24),
        (7, 7, 0),
        (20, 50, 2),
        (7, 192, 24),
        (20, 7, 24),
        (1, 50, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let model = format!("heads={heads},d_model=8,d_latent={d_latent},d_rope={d_rope},d_nope=4,d_v=4,d_q_latent=8");
        let case = Case {
            page_size: [1, 3, 64][shape % 3],
            splits: 1 + shape % 5,
            dtype: [DType::BF16, DType::F32, DType::F16][shape % 3],
            row_align: [8, 1, 2, 4][shape % 4],
            seed: shape as u64,
            ..case(&model, lengths[shape % 4])
        };
        let pick = |all: &[Schedule]| -> Vec<Schedule> {
            let mut numbers = Numbers::new(case.seed);
            (0..deep(2, 20)).map(|_| all[numbers.below(all.len())]).collect()
        };
        must(run_attention(&mut simulator, Arch::Sm80, &case, pick), &case);
    }
}

/// Combines with each head's projection, in both dialects of PTX.
#[test]
fn projected_combines_of_odd_shapes() {
    for (i, (heads, d_latent, d_v, lengths, splits)) in PROJECTED.into_iter().enumerate() {
        let dtype = [DType::BF16, DType::F32, DType::F16][i % 3];
        let arch = [Arch::Sm80, Arch::Sm120][i % 2];
        let Some(mut simulator) = simulator(arch) else { return };
        let case = projected_case(heads, d_latent, d_v, dtype, lengths, splits);
        let pick = |all: &[Schedule]| -> Vec<Schedule> {
            let mut numbers = Numbers::new(i as u64);
            (0..deep(2, 20)).map(|_| all[numbers.below(all.len())]).collect()
        };
        let result = drive::combine(&case, arch, pick, on(&mut simulator, arch));
        must(result, &case);
    }
}

/// The best schedules of real layers, for parts with much shared memory and with little, in both dialects of PTX.
#[test]
fn attention_of_real_shapes() {
    for (model, arch) in [
        ("deepseek-v2-lite", Arch::Sm80),
        ("deepseek-v2-lite", Arch::Sm120),
        ("minicpm3", Arch::Sm89),
        ("minicpm3", Arch::Sm100a),
    ] {
        let Some(mut simulator) = simulator(arch) else { return };
        let case = case(model, &[(1, 100)]);
        let pick = |all: &[Schedule]| all[..deep(1, 8).min(all.len())].to_vec();
        must(run_attention(&mut simulator, arch, &case, pick), &case);
    }
}

/// Unabsorbed attention of real layers, with a cached prefix and without, on the parts of the test above.
#[test]
fn prefill_of_real_shapes() {
    for (model, arch) in [
        ("deepseek-v2-lite", Arch::Sm80),
        ("minicpm3", Arch::Sm89),
        ("deepseek-v2-lite", Arch::Sm120),
    ] {
        let Some(mut simulator) = simulator(arch) else { return };
        let case = prefill_case(model, &[(70, 70), (33, 100)]);
        let pick = |all: &[Schedule]| all[..deep(1, 8).min(all.len())].to_vec();
        must(run_prefill(&mut simulator, arch, &case, pick), &case);
    }
}

/// Launches of one layer: lengths, splits, numbers.
fn launches(case: &Case) -> impl Strategy<Value = Case> + use<> {
    let case = case.clone();
    let lengths = prop::collection::vec((0..4usize, 0..70usize), 1..4);
    (lengths, 1..6usize, any::<u64>()).prop_map(move |(lengths, splits, seed)| Case {
        lengths: lengths.into_iter().map(|(q, cached)| (q, q + cached)).collect(),
        splits,
        seed,
        ..case.clone()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: deep(8, 200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attention_takes_every_launch(case in prop_oneof![
        launches(&case("heads=11,d_model=8,d_latent=24,d_rope=4,d_nope=4,d_v=4,d_q_latent=8", &[])),
        launches(&Case {
            dtype: DType::F32,
            page_size: 3,
            row_align: 1,
            ..case("heads=3,d_model=8,d_latent=15,d_rope=2,d_nope=4,d_v=4,d_q_latent=8", &[])
        }),
    ]) {
        if let Some(mut simulator) = simulator(Arch::Sm80) {
            let pick = |all: &[Schedule]| vec![all[0]];
            run_attention(&mut simulator, Arch::Sm80, &case, pick).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn prefill_takes_every_launch(
        case in launches(&prefill_case("heads=2,d_model=8,d_latent=24,d_rope=4,d_nope=13,d_v=8,d_q_latent=8", &[])),
    ) {
        if let Some(mut simulator) = simulator(Arch::Sm80) {
            let case = Case { lengths: case.lengths.iter().map(|&(q, kv)| (9 * q, 9 * q + kv)).collect(), ..case };
            let pick = |all: &[Schedule]| vec![all[0]];
            run_prefill(&mut simulator, Arch::Sm80, &case, pick).map_err(TestCaseError::fail)?;
        }
    }
}

/// Takes each barrier and each wait of a kernel away in turn: a checker must say so, with a PTX line and a thread.
fn check_barriers(simulator: &mut Simulator, run: &mut Run, kernel: &Region, schedule: &Schedule) {
    let before = run.memory.clone();
    let program = build(&run.plan, kernel, schedule).unwrap();
    let threads = lower(&program, schedule, &Target::for_arch(Arch::Sm80)).unwrap();
    run.execute(simulator, kernel, schedule, &program, &threads).unwrap();
    let mutants = (0..).map_while(|index| without(&threads, index));
    let mut count = 0;
    for (mutant, what) in mutants.filter(|(_, what)| what.contains("Barrier") || what.contains("CopyWait")) {
        run.memory = before.clone();
        let Err(error) = run.execute(simulator, kernel, schedule, &program, &mutant) else {
            panic!("{schedule}: nobody misses {what} of\n{threads}")
        };
        let told = ["racecheck: ", "initcheck: "]
            .iter()
            .any(|checker| error.contains(checker));
        let place = format!("kernel {}, PTX line ", kernel.name);
        assert!(
            told && error.contains(&place) && error.contains("thread ("),
            "{what}: {error}"
        );
        count += 1;
    }
    run.memory = before;
    assert!(count > 2, "{count} barriers and waits");
}

#[test]
fn every_barrier_and_wait_of_attention_is_missed() {
    let Some(mut simulator) = simulator(Arch::Sm80) else {
        return;
    };
    let model = "heads=20,d_model=8,d_latent=24,d_rope=8,d_nope=4,d_v=4,d_q_latent=8";
    let case = case(model, &[(1, 150), (1, 20)]);
    let mut run = Run::new(&case);
    let [attention, _] = attention_kernels(&run);
    run.fill_temporaries(&attention, &mut Numbers::new(3), 1.0);
    for stages in deep(&[2][..], &[1, 2, 3]).iter().copied() {
        let schedule = drive::attention_schedule(stages);
        check_barriers(&mut simulator, &mut run, &attention, &schedule);
    }
}

#[test]
fn every_barrier_and_wait_of_a_projected_combine_is_missed() {
    let Some(mut simulator) = simulator(Arch::Sm80) else {
        return;
    };
    let case = projected_case(3, 136, 40, DType::BF16, &[(3, 90), (1, 20)], 3);
    let run_it = on(&mut simulator, Arch::Sm80);
    let mut run = drive::after_attention(&case, case.plan(), Arch::Sm80, 1.0, run_it).unwrap();
    let [_, combine] = attention_kernels(&run);
    for stages in deep(&[1, 2][..], &[1, 2, 3, 4]).iter().copied() {
        let schedule = Schedule {
            block_m: 16,
            block_n: 32,
            block_k: 32,
            warps_m: 1,
            warps_n: 4,
            warps_k: 1,
            transposed: false,
            stages,
        };
        check_barriers(&mut simulator, &mut run, &combine, &schedule);
    }
}

#[test]
fn every_barrier_and_wait_of_prefill_is_missed() {
    let Some(mut simulator) = simulator(Arch::Sm80) else {
        return;
    };
    let model = "heads=2,d_model=8,d_latent=16,d_rope=8,d_nope=16,d_v=16,d_q_latent=8";
    let mut run = Run::new(&prefill_case(model, &[(40, 150), (1, 20)]));
    let prefill = prefill_kernel(&run);
    run.fill_temporaries(&prefill, &mut Numbers::new(3), 1.0);
    for stages in deep(&[2][..], &[1, 2, 3]).iter().copied() {
        let schedule = drive::attention_schedule(stages);
        check_barriers(&mut simulator, &mut run, &prefill, &schedule);
    }
}

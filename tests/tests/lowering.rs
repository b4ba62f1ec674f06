//! Lowered kernels, executed on the machine of this package and held to the f64 interpreter. `MLAFUSE_DEEP=1` runs more.

use mlafuse_codegen::build::build;
use mlafuse_codegen::layout::FragmentLayout;
use mlafuse_codegen::lower::lower;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::{self, BLayout, Form, Space, Tile, TileId, TileProgram};
use mlafuse_ir::plan::{Region, unfused};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_ir::text::parse;
use mlafuse_tensor::DType;
use mlafuse_tests::case::{Case, Numbers, Run, unprojected};
use mlafuse_tests::drive::{
    self, PROJECTED, attention_kernels, case, deep, prefill_case, prefill_kernel, projected_case,
};
use mlafuse_tests::front::{Extras, front};
use mlafuse_tests::machine::{Machine, Memory, registers};
use mlafuse_tests::mutants::without;
use proptest::prelude::*;

const ARCH: Arch = Arch::Sm80;

/// Runs one kernel and asks that no ldmatrix takes longer than it must.
fn run_kernel(run: &mut Run, region: &Region, schedule: &Schedule, arch: Arch) -> Result<(), String> {
    let stats = run.kernel(&mut Machine, region, schedule, &Target::for_arch(arch))?;
    match stats.matrix_conflicts {
        0 => Ok(()),
        more => Err(format!(
            "`{}`, {schedule}: {more} bank conflicts of ldmatrix",
            region.name
        )),
    }
}

/// Every kernel of the layer, in order, each under `count` schedules.
fn run_layer(case: &Case, count: usize) -> Result<(), String> {
    drive::layer(case, ARCH, count, |run, region, schedule| {
        run_kernel(run, region, schedule, ARCH)
    })
}

/// Attention under each of `picked` out of its schedules, and the combine after it, on queries of their own.
fn run_attention(case: &Case, arch: Arch, picked: impl Fn(&[Schedule]) -> Vec<Schedule>) -> Result<(), String> {
    drive::attention(case, arch, picked, |run, region, schedule| {
        run_kernel(run, region, schedule, arch)
    })
}

/// Unabsorbed attention under each of `picked` out of its schedules, on queries, keys and values of their own.
fn run_prefill(case: &Case, arch: Arch, picked: impl Fn(&[Schedule]) -> Vec<Schedule>) -> Result<(), String> {
    drive::prefill(case, arch, picked, |run, region, schedule| {
        run_kernel(run, region, schedule, arch)
    })
}

#[track_caller]
fn must(result: Result<(), String>, case: &Case) {
    if let Err(what) = result {
        panic!("{case:?}\n{what}");
    }
}

prop_compose! {
    fn any_case()(
        heads in 1..9usize,
        d_model in 1..40usize,
        d_latent in prop_oneof![Just(7), Just(16), 1..70usize],
        half_rope in prop_oneof![Just(0), Just(1), 1..14usize],
        d_nope in 1..24usize,
        d_v in 1..24usize,
        d_q in prop_oneof![Just("none".to_string()), (1..30usize).prop_map(|n| n.to_string())],
        rope in prop_oneof![Just("interleaved"), Just("half"), Just("none")],
        dtype in prop_oneof![3 => Just(DType::BF16), 2 => Just(DType::F16), 1 => Just(DType::F32)],
        page_size in prop_oneof![Just(1), Just(3), Just(16), Just(64)],
        lengths in prop::collection::vec((0..4usize, 0..40usize), 1..4),
        splits in 1..6usize,
        (absorbed, fused) in any::<(bool, bool)>(),
        row_align in prop_oneof![Just(8), Just(4), Just(2), Just(1)],
        seed in any::<u64>(),
    ) -> Case {
        let d_rope = 2 * half_rope;
        let model = format!(
            "heads={heads},d_model={d_model},d_latent={d_latent},d_rope={d_rope},d_nope={d_nope},d_v={d_v},d_q_latent={d_q},rope={rope}"
        );
        let lengths = lengths.into_iter().map(|(q, cached)| (q, q + cached)).collect();
        Case { model, dtype, page_size, lengths, splits, absorbed, fused, row_align, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: deep(64, 2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_are_what_the_interpreter_says(case in any_case()) {
        run_layer(&case, 1).map_err(TestCaseError::fail)?;
    }
}

/// Merged projections, the norm as factors of rows, rope and absorption in one kernel: odd dimensions, one head, one to eight new
/// tokens, ragged lengths, and each of the optional parts.
fn fronts() -> impl Strategy<Value = (Case, Extras)> {
    let sizes = (
        prop_oneof![Just(1), 2..9usize],
        prop_oneof![Just(0), Just(2), Just(24), (1..20usize).prop_map(|half| 2 * half)],
        1..40usize,
        1..40usize,
        1..70usize,
    );
    let lengths = prop::collection::vec((0..9usize, 0..40usize), 1..4);
    let extras = (any::<bool>(), prop::option::of(Just(0.7)), any::<bool>());
    (any_case(), sizes, lengths, extras).prop_map(|(any, (heads, d_rope, d_nope, d_q, d_latent), lengths, extras)| {
        let rope = ["half", "interleaved"][any.seed as usize % 2];
        let model = format!(
            "heads={heads},d_model=19,d_latent={d_latent},d_rope={d_rope},d_nope={d_nope},d_v=4,d_q_latent={d_q},rope={rope}"
        );
        let lengths = lengths.into_iter().map(|(q, cached)| (q, q + cached)).collect();
        let (bias, factor, keep_content) = extras;
        let extras = Extras {
            bias,
            factor,
            keep_content: keep_content && d_rope > 0,
        };
        (Case { model, lengths, ..any }, extras)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: deep(96, 2000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_projections_are_what_the_interpreter_says((case, extras) in fronts()) {
        let plan = front(&case, extras);
        // What goes to memory is multiplied by a kernel of its own.
        prop_assert_eq!(plan.kernels.len(), 3 + usize::from(extras.keep_content), "{}", plan);
        let run = Run::of(&case, plan);
        let result = drive::kernels(run, ARCH, 1, Numbers::new(case.seed), |run, region, schedule| {
            run_kernel(run, region, schedule, ARCH)
        });
        result.map_err(TestCaseError::fail)?;
    }
}

/// Two operands that meet in columns which do not lie side by side in one of them: f32 once copied them as if they did.
#[test]
fn f32_columns_far_apart_are_copied_one_by_one() {
    let case = Case {
        dtype: DType::F32,
        ..case("heads=1,d_model=1", &[(1, 1)])
    };
    let text = "graph g { %a = weight \"a\" : f32[1, 8, 7] %b = weight \"b\" : f32[3, 1, 8]
        %ab = einsum \"h v c, d h v -> d h c\" %a, %b : f32[3, 1, 7] output \"ab\" %ab }";
    let plan = unfused(&parse(text).expect("a graph")).expect("a plan");
    let run = Run::of(&case, plan);
    let result = drive::kernels(run, ARCH, 3, Numbers::new(case.seed), |run, region, schedule| {
        run_kernel(run, region, schedule, ARCH)
    });
    must(result, &case);
}

/// Shapes that no kernel was written for, each with other pages, lengths, splits and alignments.
#[test]
fn attention_of_odd_shapes() {
    let lengths: [&[(usize, usize)]; 5] = [
        &[(1, 33)],
        &[(1, 64), (0, 0), (1, 1)],
        &[(2, 17), (3, 50), (1, 7)],
        &[(3, 3), (0, 5), (2, 66)],
        &[(2, 2), (1, 128)],
    ];
    let mut shape = 0;
    for heads in [1, 7, 20] {
        for d_latent in [7, 50, 192] {
            for d_rope in [0, 2, 24] {
                let model =
                    format!("heads={heads},d_model=8,d_latent={d_latent},d_rope={d_rope},d_nope=4,d_v=4,d_q_latent=8");
                let case = Case {
                    page_size: [1, 3, 64][shape % 3],
                    splits: 1 + shape % 5,
                    // f32 goes element by element, which takes the machine long.
                    dtype: [
                        DType::BF16,
                        DType::F16,
                        if d_latent < 100 { DType::F32 } else { DType::BF16 },
                    ][shape / 2 % 3],
                    row_align: [8, 1, 2, 4][shape % 4],
                    seed: shape as u64,
                    ..case(&model, lengths[shape / 3 % 5])
                };
                let pick = |all: &[Schedule]| -> Vec<Schedule> {
                    let mut numbers = Numbers::new(case.seed);
                    (0..deep(3, 20)).map(|_| all[numbers.below(all.len())]).collect()
                };
                must(run_attention(&case, Arch::Sm80, pick), &case);
                shape += 1;
            }
        }
    }
}

/// Every block size, layout of the warps and number of stages.
#[test]
fn attention_under_every_schedule() {
    for (dtype, every) in [(DType::BF16, 1), (DType::F32, deep(12, 1))] {
        let case = Case {
            dtype,
            ..case(
                "heads=11,d_model=8,d_latent=24,d_rope=4,d_nope=4,d_v=4,d_q_latent=8",
                &[(3, 70), (1, 15)],
            )
        };
        let pick = |all: &[Schedule]| all.iter().step_by(every).copied().collect();
        must(run_attention(&case, Arch::Sm80, pick), &case);
    }
}

/// Eight rows a block, which no candidate of attention has: every op on fragments that lie transposed.
#[test]
fn attention_transposed() {
    for (dtype, block_n, warps_n, stages) in [(DType::BF16, 32, 2, 2), (DType::F16, 16, 1, 1), (DType::F32, 64, 4, 3)] {
        let case = Case {
            dtype,
            ..case(
                "heads=11,d_model=8,d_latent=64,d_rope=4,d_nope=4,d_v=4,d_q_latent=8",
                &[(3, 70), (1, 15)],
            )
        };
        let schedule = Schedule {
            block_m: 8,
            block_n,
            block_k: 0,
            warps_m: 1,
            warps_n,
            warps_k: 1,
            transposed: true,
            stages,
        };
        must(run_attention(&case, Arch::Sm80, |_| vec![schedule]), &case);
    }
}

/// Combines with each head's projection: other dimensions, lengths, splits and types each, every kind of tile.
#[test]
fn projected_combines_of_odd_shapes() {
    for (i, (heads, d_latent, d_v, lengths, splits)) in PROJECTED.into_iter().enumerate() {
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let case = projected_case(heads, d_latent, d_v, dtype, lengths, splits);
            let every = if dtype == DType::F32 { deep(31, 3) } else { deep(11, 1) };
            let pick = |all: &[Schedule]| all.iter().skip(i).step_by(every).copied().collect();
            let result = drive::combine(&case, ARCH, pick, |run, region, schedule| {
                run_kernel(run, region, schedule, ARCH)
            });
            must(result, &case);
        }
    }
}

/// Rows of a block that are no new token, keys that some rows of a block do not see, a prefix, nothing at all.
#[test]
fn prefill_under_many_schedules() {
    for (dtype, every) in [(DType::BF16, deep(5, 1)), (DType::F32, deep(40, 1))] {
        let case = Case {
            dtype,
            ..prefill_case(
                "heads=2,d_model=8,d_latent=16,d_rope=4,d_nope=11,d_v=9,d_q_latent=8",
                &[(70, 90), (3, 3), (0, 40), (0, 0), (1, 65)],
            )
        };
        let pick = |all: &[Schedule]| all.iter().step_by(every).copied().collect();
        must(run_prefill(&case, Arch::Sm80, pick), &case);
    }
}

/// The best schedules of real layers, for a part with much shared memory and one with little.
#[test]
fn attention_of_real_shapes() {
    for (model, arch) in [
        ("deepseek-v2-lite", Arch::Sm80),
        ("deepseek-v2-lite", Arch::Sm120),
        ("minicpm3", Arch::Sm89),
    ] {
        let case = case(model, &[(1, 100)]);
        must(
            run_attention(&case, arch, |all| all[..deep(1, 8).min(all.len())].to_vec()),
            &case,
        );
    }
}

/// A program for one schedule: acc = a · b of zeros, then every element says where it stands.
fn places(rows: usize, cols: usize, gemm: bool) -> TileProgram {
    let tile = |name: &str, dtype, rows, cols, space| Tile {
        name: name.into(),
        dtype,
        rows,
        cols,
        space,
        form: Form::Matrix,
    };
    let mut tiles = vec![tile("acc", DType::F32, rows, cols, Space::Fragment)];
    let [acc, zero_a, a, b, zero_b] = [0, 1, 2, 3, 4].map(TileId);
    let mut body = vec![tile::Stmt::Fill { dst: acc, value: 0.0 }];
    if gemm {
        tiles.push(tile("zero_a", DType::F32, rows, 16 * cols, Space::Fragment));
        tiles.push(tile("a", DType::BF16, rows, 16 * cols, Space::Shared));
        tiles.push(tile("b", DType::BF16, 16 * cols, cols, Space::Shared));
        tiles.push(tile("zero_b", DType::F32, 16 * cols, cols, Space::Fragment));
        body.extend([
            tile::Stmt::Fill {
                dst: zero_a,
                value: 0.0,
            },
            tile::Stmt::Stage { dst: a, src: zero_a },
            tile::Stmt::Fill {
                dst: zero_b,
                value: 0.0,
            },
            tile::Stmt::Stage { dst: b, src: zero_b },
            tile::Stmt::Gemm {
                acc,
                a,
                a_start: 0.into(),
                b,
                layout: BLayout::Kn,
                b_cols: 0..cols,
            },
        ]);
    }
    let place = tile::Expr::Row * 1000 + tile::Expr::Col;
    body.push(tile::Stmt::Map {
        dst: acc,
        value: tile::Expr::from(acc) + place.to_float(),
    });
    TileProgram {
        name: "places".into(),
        doc: vec![],
        params: vec![],
        grid: [1.into(), 1.into(), 1.into()],
        tiles,
        vars: vec![],
        body,
    }
}

/// The lowering's index expressions against the layout that defines them.
#[test]
fn elements_lie_where_the_layout_says() {
    let mma = |warps_m, warps_n, tiles_m, tiles_n| FragmentLayout::Mma {
        warps_m,
        warps_n,
        tiles_m,
        tiles_n,
    };
    let transposed = |warps_m, warps_n, tiles_m, tiles_n| FragmentLayout::MmaTransposed {
        warps_m,
        warps_n,
        tiles_m,
        tiles_n,
    };
    let rows = |warps, rows, cols| FragmentLayout::Rows { warps, rows, cols };
    // With each layout how many of the warps along the depth share out its rows, and how many copies there are.
    for (layout, shares, copies) in [
        (transposed(1, 1, 1, 1), 1, 1),
        (transposed(1, 4, 1, 1), 1, 1),
        (transposed(1, 2, 1, 2), 1, 4),
        (transposed(1, 1, 1, 3), 1, 2),
        (transposed(2, 2, 3, 1), 1, 2),
        (transposed(4, 1, 1, 2), 2, 1),
        (transposed(2, 2, 1, 1), 2, 2),
        (mma(1, 1, 1, 1), 1, 1),
        (mma(2, 1, 2, 3), 2, 1),
        (mma(1, 4, 1, 2), 1, 2),
        (mma(2, 4, 1, 1), 1, 1),
        (mma(4, 2, 2, 2), 4, 1),
        (rows(1, 1, 1), 1, 1),
        (rows(4, 3, 2), 1, 1),
        (rows(8, 1, 4), 4, 1),
    ] {
        let (warps_m, warps_n, gemm) = match layout {
            FragmentLayout::Mma { warps_m, warps_n, .. } | FragmentLayout::MmaTransposed { warps_m, warps_n, .. } => {
                (warps_m / shares, warps_n, true)
            }
            FragmentLayout::Rows { warps, .. } => (warps / shares, 1, false),
        };
        let schedule = Schedule {
            block_m: layout.rows(),
            block_n: layout.cols(),
            block_k: 0,
            warps_m,
            warps_n,
            warps_k: shares * copies,
            transposed: matches!(layout, FragmentLayout::MmaTransposed { .. }),
            stages: 1,
        };
        let program = places(layout.rows(), layout.cols(), gemm);
        let threads = lower(&program, &schedule, &Target::for_arch(Arch::Sm90)).unwrap();
        let found = registers(&threads, [0; 3], &[], &mut Memory::default(), "acc").unwrap();
        for (row, col) in (0..layout.rows()).flat_map(|row| (0..layout.cols()).map(move |col| (row, col))) {
            let place = layout.place(row, col);
            let value = found[place.register][place.thread];
            assert_eq!(
                value,
                Some((row * 1000 + col) as f32),
                "{layout:?}, row {row}, column {col}"
            );
        }
    }
}

/// Takes each statement of a kernel away in turn: the machine or the comparison must notice in one of `runs`, or the lowering
/// makes more than it needs. Barriers and waits are such statements. `spared` says what may be missing.
fn check_every_statement(runs: &mut [Run], kernel: &Region, schedule: &Schedule, spared: impl Fn(&str) -> bool) {
    let program = build(&runs[0].plan, kernel, schedule).unwrap();
    let threads = lower(&program, schedule, &Target::for_arch(ARCH)).unwrap();
    let mut execute = |threads: &ThreadProgram| {
        runs.iter_mut().try_for_each(|run| {
            let before = run.memory.clone();
            let result = run.execute(&mut Machine, kernel, schedule, &program, threads);
            run.memory = before;
            result.map(drop)
        })
    };
    execute(&threads).unwrap();
    let mut count = 0;
    for (mutant, what) in (0..).map_while(|index| without(&threads, index)) {
        let survives = execute(&mutant).is_ok();
        assert!(
            !survives || spared(&what),
            "{schedule}: nobody misses {what} of\n{threads}"
        );
        count += 1;
    }
    assert!(count > 10, "{count} statements");
}

#[test]
fn every_statement_of_attention_is_needed() {
    let model = "heads=20,d_model=8,d_latent=24,d_rope=8,d_nope=4,d_v=4,d_q_latent=8";
    let case = Case {
        splits: 2,
        // So that the second's splits follow from the length of the first: with this seed nothing else says how many.
        seed: 0,
        ..case(model, &[(1, 150), (1, 40), (0, 0)])
    };
    let plan = case.plan();
    for plan in [unprojected(&plan), plan] {
        let mut run = Run::of(&case, plan);
        let [attention, _] = attention_kernels(&run);
        // Scores so large that exponentials overflow where the maximum is not the right one.
        run.fill_temporaries(&attention, &mut Numbers::new(3), 60.0);
        let mut runs = [run];
        for stages in [1, 2, 3] {
            let schedule = drive::attention_schedule(stages);
            // Copies of the query that are not committed on their own join the next group, which is waited for with them.
            check_every_statement(&mut runs, &attention, &schedule, |what| what.contains("CopyCommit"));
        }
    }
}

/// A combine, with each head's projection and without, likewise: once of log-sum-exps so large that exponentials overflow where
/// the maximum is not the right one, once of such that no split outweighs the others.
#[test]
fn every_statement_of_a_combine_is_needed() {
    let lengths = [(8, 310), (8, 300), (0, 0), (1, 20)];
    let case = projected_case(3, 72, 39, DType::BF16, &lengths, 5);
    let plan = case.plan();
    for (projected, plan) in [(false, unprojected(&plan)), (true, plan)] {
        let mut runs = [600.0, 1.0].map(|deviation| {
            let run_it = |run: &mut Run, region: &Region, schedule: &Schedule| run_kernel(run, region, schedule, ARCH);
            drive::after_attention(&case, plan.clone(), ARCH, deviation, run_it).unwrap()
        });
        let [_, combine] = attention_kernels(&runs[0]);
        for stages in [1, 3] {
            let schedule = Schedule {
                block_m: 32,
                block_n: 32,
                block_k: 32,
                warps_m: 2,
                warps_n: 2,
                warps_k: 1,
                transposed: false,
                stages,
            };
            // Sequences in which nothing is seen are whole: without a projection none of them is combined.
            let to_zero = "value: Select(Binary(Eq, Register(\"max_\"";
            check_every_statement(&mut runs, &combine, &schedule, |what| {
                !projected && what.contains(to_zero)
            });
        }
    }
}

#[test]
fn every_statement_of_prefill_is_needed() {
    let model = "heads=2,d_model=8,d_latent=16,d_rope=8,d_nope=16,d_v=16,d_q_latent=8";
    let mut run = Run::new(&prefill_case(model, &[(40, 150), (1, 20)]));
    let prefill = prefill_kernel(&run);
    // Queries and keys of which scores are so large that exponentials overflow where the maximum is not the right one, and
    // not so large that a row has one key only.
    run.fill_temporaries(&prefill, &mut Numbers::new(3), 8.0);
    let mut runs = [run];
    for stages in [1, 2, 3] {
        let schedule = drive::attention_schedule(stages);
        check_every_statement(&mut runs, &prefill, &schedule, |what| what.contains("CopyCommit"));
    }
}

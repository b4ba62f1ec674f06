//! What the lowering makes of gemms, on the machine of this package and as the PTX that NVRTC makes of it, held to f64.

use mlafuse_codegen::lower::{LowerError, lower, shared_bytes};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{BLayout, Stmt};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::DType;
use mlafuse_tests::drive::deep;
use mlafuse_tests::machine::Machine;
use mlafuse_tests::mutants::without;
use mlafuse_tests::product::{Product, few_rows};
use mlafuse_tests::simulator::Simulator;
use proptest::prelude::*;
use ptxsim::machine::Schedule as Order;

fn target() -> Target {
    Target::for_arch(Arch::Sm80)
}

/// On the machine, where no ldmatrix may take longer than it must.
fn on_machine(product: &Product, schedule: &Schedule) -> Result<(), String> {
    let stats = product.check(&mut Machine, schedule, &target())?;
    match stats.matrix_conflicts {
        0 => Ok(()),
        more => Err(format!("{product:?}, {schedule}: {more} bank conflicts of ldmatrix")),
    }
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![2 => Just(DType::BF16), 2 => Just(DType::F16), 1 => Just(DType::F32)]
}

fn products() -> impl Strategy<Value = Product> {
    let sizes = (1..40usize, 1..70usize, 1..200usize);
    (sizes, dtypes(), dtypes(), any::<(bool, bool, u64)>()).prop_map(|((m, n, k), dtype, out, (kn, resident, seed))| {
        Product {
            m,
            n,
            k,
            dtype,
            out,
            layout: if kn { BLayout::Kn } else { BLayout::Nk },
            resident,
            seed,
        }
    })
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let depths = prop_oneof![Just(16usize), Just(32), Just(48), Just(64), Just(96)];
    // No more than sixteen warps.
    let warps = (1..3usize, 1..5usize, (0..4u32).prop_map(|exponent| 1 << exponent));
    let warps = warps.prop_map(|(m, n, k): (usize, usize, usize)| (m.min(16 / k), n.min(8 / k), k));
    let tiles = (1..4usize, 1..4usize);
    (warps, tiles, depths, 1..4usize, any::<bool>()).prop_map(
        |((warps_m, warps_n, warps_k), (tiles_m, tiles_n), depth, stages, transposed)| {
            let [rows, cols] = if transposed { [8, 16] } else { [16, 8] };
            Schedule {
                block_m: rows * warps_m * tiles_m,
                block_n: cols * warps_n * tiles_n,
                // A product of the tensor core for each warp along the depth.
                block_k: depth.next_multiple_of(16 * warps_k),
                warps_m,
                warps_n,
                warps_k,
                transposed,
                stages,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: deep(96, 4000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_what_f64_says(product in products(), schedule in schedules()) {
        prop_assume!(shared_bytes(&product.program(&schedule), &schedule) <= target().shared_per_block);
        on_machine(&product, &schedule).map_err(TestCaseError::fail)?;
    }
}

/// A first operand that stays whole, in pieces that keep the swizzle apart from the step and in pieces that do not.
#[test]
fn products_of_a_resident_operand_run_as_ptx() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let mut simulator = Simulator::new(Arch::Sm80, &nvrtc, &[Order::Fixed, Order::Random(1), Order::Starve(0)]);
    for (dtype, layout, k, block_k, stages) in [
        (DType::BF16, BLayout::Nk, 320, 64, 3),
        (DType::F16, BLayout::Kn, 200, 32, 2),
        (DType::F32, BLayout::Nk, 75, 16, 2),
    ] {
        let product = Product {
            m: 21,
            n: 40,
            k,
            dtype,
            out: dtype,
            layout,
            resident: true,
            seed: 5,
        };
        let schedule = Schedule {
            block_m: 32,
            block_n: 32,
            block_k,
            warps_m: 2,
            warps_n: 2,
            warps_k: 1,
            transposed: false,
            stages,
        };
        product.check(&mut simulator, &schedule, &target()).unwrap();
    }
}

#[test]
fn products_of_few_rows_run_on_the_machine_and_as_ptx() {
    for (product, schedule) in few_rows() {
        on_machine(&product, &schedule).unwrap();
    }
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let mut simulator = Simulator::new(Arch::Sm80, &nvrtc, &[Order::Fixed, Order::Random(1), Order::Starve(0)]);
    for (product, schedule) in few_rows() {
        let total = product.check(&mut simulator, &schedule, &target()).unwrap().total;
        let (passes, ideal) = (total.shared_wavefronts, total.shared_wavefronts_ideal);
        let f32 = product.dtype == DType::F32;
        assert!(
            f32 || 100 * passes <= 102 * ideal,
            "{product:?}, {schedule}: {passes} passes, {ideal} would do"
        );
    }
}

/// Takes each statement of a product of few rows away in turn: the machine or the comparison must notice, or the lowering
/// makes more than it needs.
#[test]
fn every_statement_of_a_product_of_few_rows_is_needed() {
    for (product, schedule) in few_rows()
        .into_iter()
        .filter(|(product, _)| product.dtype != DType::F32)
    {
        let program = product.program(&schedule);
        let threads = lower(&program, &schedule, &target()).unwrap();
        let (mut count, mut spare_waits) = (0, 0);
        for (mutant, what) in (0..).map_while(|index| without(&threads, index)) {
            let survives = product.execute(&mut Machine, &program, &mutant).is_ok();
            // Copies of a tile that stays, not committed on their own, join the next group, which is waited for with them.
            let spared = product.resident && what.contains("CopyCommit");
            // What the pipeline has loaded is there when it ends, which the pass cannot know: it waits once more before the
            // parts of a sum take the place of the tiles.
            let waits = what.contains("CopyWait(0)");
            assert!(
                !survives || spared || waits,
                "{schedule}: nobody misses {what} of\n{threads}"
            );
            count += 1;
            spare_waits += usize::from(survives && waits);
        }
        assert!(
            spare_waits <= usize::from(schedule.stages > 1),
            "{schedule}: {spare_waits} waits too many"
        );
        assert!(count > 20, "{count} statements");
    }
}

/// Takes each barrier away in turn: a checker of the simulator must say so.
#[test]
fn every_barrier_of_a_product_of_few_rows_is_missed() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let mut simulator = Simulator::new(Arch::Sm80, &nvrtc, &[Order::Fixed, Order::Random(1), Order::Starve(0)]);
    for (product, schedule) in few_rows().into_iter().take(deep(2, 6)) {
        let program = product.program(&schedule);
        let threads = lower(&program, &schedule, &target()).unwrap();
        let mutants = (0..).map_while(|index| without(&threads, index));
        let mut count = 0;
        for (mutant, what) in mutants.filter(|(_, what)| what.contains("Barrier")) {
            let Err(error) = product.execute(&mut simulator, &program, &mutant) else {
                panic!("{schedule}: nobody misses {what} of\n{threads}")
            };
            assert!(
                error.contains("racecheck: ") || error.contains("initcheck: "),
                "{what}: {error}"
            );
            count += 1;
        }
        assert!(count > 2, "{count} barriers");
    }
}

#[test]
fn depth_is_shared_out_by_powers_of_two() {
    let product = Product {
        m: 8,
        n: 16,
        k: 64,
        dtype: DType::BF16,
        out: DType::F32,
        layout: BLayout::Nk,
        resident: false,
        seed: 0,
    };
    let of = |warps_k| Schedule {
        block_m: 8,
        block_n: 16,
        block_k: 64,
        warps_m: 1,
        warps_n: 1,
        warps_k,
        transposed: true,
        stages: 2,
    };
    let refusal = |warps_k| {
        let schedule = of(warps_k);
        lower(&product.program(&schedule), &schedule, &target())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal(3),
        "kernel `product`: 3 warps share out the depth (block 8x16x64 transposed, warps 1x1x3, stages 2); a power of two is \
         needed"
    );
    assert_eq!(
        refusal(8),
        "kernel `product`: gemm operand `a_s` has 64 columns in use; a multiple of 128 is needed"
    );
}

#[test]
fn an_operand_used_from_inside_a_chunk_is_refused() {
    let product = Product {
        m: 16,
        n: 16,
        k: 64,
        dtype: DType::BF16,
        out: DType::F32,
        layout: BLayout::Nk,
        resident: true,
        seed: 0,
    };
    let schedule = Schedule {
        block_m: 16,
        block_n: 16,
        block_k: 16,
        warps_m: 1,
        warps_n: 1,
        warps_k: 1,
        transposed: false,
        stages: 2,
    };
    let mut program = product.program(&schedule);
    let Some(Stmt::For { var, body, .. }) = program.body.iter_mut().find(|s| matches!(s, Stmt::For { .. })) else {
        panic!("expected the loop")
    };
    let step = *var;
    let Some(Stmt::Gemm { a_start, .. }) = body.last_mut() else {
        panic!("expected the gemm")
    };
    *a_start = mlafuse_codegen::tile::Expr::from(step) * 4;
    let error = lower(&program, &schedule, &target()).unwrap_err();
    assert!(matches!(error, LowerError::Start { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "kernel `product`: a gemm uses `a_s` from column step*4 on, which may be no multiple of 8"
    );
}

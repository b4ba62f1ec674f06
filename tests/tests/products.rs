//! What the lowering makes of gemms, on the machine of this package and as the PTX that NVRTC makes of it, held to f64.

use mlafuse_codegen::lower::{LowerError, lower};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{BLayout, Stmt};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::DType;
use mlafuse_tests::drive::deep;
use mlafuse_tests::machine::Machine;
use mlafuse_tests::product::Product;
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
    let depths = prop_oneof![Just(16), Just(32), Just(48), Just(64), Just(96)];
    (0..3usize, 1..5usize, 1..3usize, 1..4usize, depths, 1..4usize).prop_map(
        |(warps_m, warps_n, tiles_m, tiles_n, block_k, stages)| {
            // No warps along the rows stand for the transposed layout.
            let (block_m, block_n) = match warps_m {
                0 => (8, 16 * warps_n * tiles_n),
                _ => (16 * warps_m * tiles_m, 8 * warps_n * tiles_n),
            };
            Schedule {
                block_m,
                block_n,
                block_k,
                warps_m: warps_m.max(1),
                warps_n,
                stages,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: deep(96, 4000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_are_what_f64_says(product in products(), schedule in schedules()) {
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
            stages,
        };
        product.check(&mut simulator, &schedule, &target()).unwrap();
    }
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

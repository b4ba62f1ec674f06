use super::*;
use crate::lower::lower;
use crate::tile::{Expr, Space, Stmt, verify};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Graph;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{fused, unfused};
use mlafuse_ir::rewrite::{Machine, rewrite};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_tensor::DType;

const DEEPSEEK_V3: &str = "heads=128,d_model=7168,d_latent=512,d_rope=64,d_nope=128,d_v=128,d_q_latent=1536";

fn typical() -> Dims {
    let symbols = [Symbol::B, Symbol::T, Symbol::S, Symbol::P, Symbol::N, Symbol::L];
    symbols.into_iter().zip([4, 1, 4096, 64, 512, 4096]).collect()
}

/// As the paper writes it.
fn prefill(config: &str, dtype: DType, page_size: usize) -> Graph {
    let config = MlaConfig::from_inline(config).unwrap();
    let options = LayerOptions {
        dtype,
        page_size,
        coupled_rope: false,
    };
    build_layer(&config, &options).unwrap()
}

fn decode(config: &str, dtype: DType, page_size: usize) -> Graph {
    let graph = prefill(config, dtype, page_size);
    rewrite(&graph, &typical(), &Machine::default()).unwrap().graph
}

/// Shapes at the edges: one head, odd latents, no rope, a rope that needs padding, pages of one token.
const SHAPES: [(&str, usize); 5] = [
    (DEEPSEEK_V3, 64),
    ("heads=1,d_model=40,d_latent=7,d_rope=0,d_nope=5,d_v=3", 1),
    (
        "heads=1,d_model=64,d_latent=192,d_rope=24,d_nope=16,d_v=16,d_q_latent=33",
        16,
    ),
    (
        "heads=20,d_model=256,d_latent=7,d_rope=24,d_nope=8,d_v=8,d_q_latent=64",
        1,
    ),
    (
        "heads=40,d_model=2560,d_latent=256,d_rope=32,d_nope=64,d_v=64,d_q_latent=768",
        64,
    ),
];

#[test]
fn candidates_lower_on_every_part() {
    for (config, page_size) in SHAPES {
        let graph = decode(config, DType::BF16, page_size);
        let unabsorbed = prefill(config, DType::BF16, page_size);
        for plan in [fused(&graph), unfused(&graph), fused(&unabsorbed)].map(Result::unwrap) {
            for (i, region) in plan.kernels.iter().enumerate() {
                let target = Target::for_arch(Arch::ALL[i % Arch::ALL.len()]);
                let found = candidates(&plan, region, &target, &typical()).unwrap();
                for schedule in found.iter().step_by(found.len().div_ceil(3)) {
                    let program = build(&plan, region, schedule).unwrap();
                    verify(&program).unwrap();
                    lower(&program, schedule, &target).unwrap_or_else(|error| panic!("{error}\n{program}"));
                }
            }
        }
    }
}

#[test]
fn candidates_of_the_processor_begin_with_its_own_and_stay_in_its_cache() {
    let processor = Processor {
        threads: 2,
        ..Processor::PLAIN
    };
    let bytes = |program: &TileProgram| -> usize {
        let tiles = program.tiles.iter();
        tiles.map(|tile| tile.rows * tile.cols * tile.dtype.size_bytes()).sum()
    };
    for (config, page_size) in SHAPES {
        let graph = decode(config, DType::BF16, page_size);
        let unabsorbed = prefill(config, DType::BF16, page_size);
        for plan in [fused(&graph), unfused(&graph), fused(&unabsorbed)].map(Result::unwrap) {
            for region in &plan.kernels {
                let found = cpu_candidates(&plan, region, &processor, &typical()).unwrap();
                let default = cpu_schedule(&plan, region, &processor, &typical()).unwrap();
                assert_eq!(found.first(), Some(&default));
                assert!(found.len() <= 32, "{}: {}", region.name, found.len());
                let mut distinct = found.clone();
                distinct.sort();
                distinct.dedup();
                assert_eq!(distinct.len(), found.len(), "{}", region.name);
                for schedule in &found[1..] {
                    let program = build(&plan, region, schedule).unwrap();
                    verify(&program).unwrap();
                    assert!(bytes(&program) <= processor.second_level, "{}: {schedule}", region.name);
                }
            }
        }
    }
}

/// One row of a large product: every block takes that row, and no choice leaves one of the threads idle.
#[test]
fn candidates_of_the_processor_neither_pad_nor_idle() {
    let plan = fused(&decode(DEEPSEEK_V3, DType::BF16, 64)).unwrap();
    let dims = typical().with(Symbol::B, 1);
    let region = plan.kernels.last().unwrap();
    let of = |threads| {
        let processor = Processor {
            threads,
            second_level: 2 << 20,
            ..Processor::PLAIN
        };
        cpu_candidates(&plan, region, &processor, &dims).unwrap()
    };
    let (few, many) = (of(2), of(64));
    assert!(
        few.len() > 8 && few.iter().all(|schedule| schedule.block_m == 1),
        "{few:?}"
    );
    let widest = |found: &[Schedule]| found.iter().map(|schedule| schedule.block_n).max();
    assert!(widest(&few) > widest(&many), "{few:?} {many:?}");
}

#[test]
fn f32_attention_fits_where_a_schedule_can() {
    let graph = decode(SHAPES[4].0, DType::F32, 64);
    let plan = fused(&graph).unwrap();
    let region = plan.kernel("attention").unwrap();
    let target = Target::for_arch(Arch::Sm90a);
    let best = candidates(&plan, region, &target, &typical()).unwrap()[0];
    lower(&build(&plan, region, &best).unwrap(), &best, &target).unwrap();
}

#[test]
fn the_best_attention_schedule_uses_the_part() {
    let plan = fused(&decode(DEEPSEEK_V3, DType::BF16, 64)).unwrap();
    let region = plan.kernel("attention").unwrap();
    for arch in Arch::ALL {
        let target = Target::for_arch(arch);
        let best = candidates(&plan, region, &target, &typical()).unwrap()[0];
        // 128 heads: fewer rows a block read every cached row more often from the second-level cache.
        assert!(best.block_m >= 32, "{arch}: {best}");
    }
}

/// One block has all of 1 to 64 rows; its warps share out the depth of narrow blocks of columns.
#[test]
fn few_rows_share_out_the_depth() {
    let plan = fused(&decode(DEEPSEEK_V3, DType::BF16, 64)).unwrap();
    let region = plan.kernel("einsum_out").unwrap();
    for (i, rows) in [1, 8, 16, 33, 64].into_iter().enumerate() {
        let target = Target::for_arch(Arch::ALL[i % Arch::ALL.len()]);
        let dims = typical().with(Symbol::B, rows);
        let found = candidates(&plan, region, &target, &dims).unwrap();
        if rows <= 16 {
            let best = found[0];
            assert!(
                best.warps_k > 1 && best.block_m == rows.next_multiple_of(8),
                "{rows} rows: {best}"
            );
        }
        let shared_out: Vec<&Schedule> = found.iter().filter(|schedule| schedule.warps_k > 1).collect();
        for schedule in shared_out.iter().step_by(shared_out.len().div_ceil(9)) {
            let program = build(&plan, region, schedule).unwrap();
            verify(&program).unwrap();
            lower(&program, schedule, &target).unwrap_or_else(|error| panic!("{error}\n{program}"));
        }
    }
}

#[test]
fn what_cannot_fit_names_the_limit() {
    let plan = fused(&decode(
        "heads=16,d_model=64,d_latent=8192,d_rope=64,d_nope=8,d_v=8",
        DType::BF16,
        64,
    ))
    .unwrap();
    let region = plan.kernel("attention").unwrap();
    let target = Target::gpu("rtx4090").unwrap();
    let error = candidates(&plan, region, &target, &typical()).unwrap_err();
    let BuildError::NoSchedule {
        kernel,
        shape,
        limit,
        needed,
        allowed,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((kernel.as_str(), *allowed), ("attention", 99 * 1024));
    assert!(
        shape.contains("d_latent 8192, d_rope 64, bf16, page 64") && limit.contains("shared memory"),
        "{error}"
    );
    assert!(needed > allowed);
}

#[test]
fn attention_pads_only_what_tensor_cores_need() {
    let plan = fused(&decode(SHAPES[3].0, DType::BF16, 1)).unwrap();
    let region = plan.kernel("attention").unwrap();
    let schedule = Schedule {
        block_m: 16,
        block_n: 32,
        block_k: 0,
        warps_m: 1,
        warps_n: 4,
        warps_k: 1,
        transposed: false,
        stages: 2,
    };
    let program = build(&plan, region, &schedule).unwrap();
    let tile = |name: &str| program.tiles.iter().find(|tile| tile.name == name).unwrap();
    // A row is 7 + 24 wide, the value 7: 8 columns for each of 4 warps.
    assert_eq!((tile("q_s").cols, tile("kv_s").cols, tile("out_f").cols), (32, 32, 32));
    assert!(
        program
            .tiles
            .iter()
            .filter(|tile| tile.space == Space::Fragment)
            .all(|tile| tile.rows == 16)
    );
    assert_eq!(
        program.doc[0],
        "attention over the paged latent cache: 20 heads, d_latent 7, d_rope 24, bf16, page 1"
    );
}

#[test]
fn offsets_that_grow_with_the_batch_are_wide() {
    let plan = unfused(&decode(DEEPSEEK_V3, DType::BF16, 64)).unwrap();
    for region in &plan.kernels {
        let schedule = cpu_schedule(&plan, region, &Processor::PLAIN, &typical()).unwrap();
        let program = build(&plan, region, &schedule).unwrap();
        let mut offsets = Vec::new();
        collect_offsets(&program.body, &mut offsets);
        for offset in offsets {
            let (mut block, mut wide) = (false, false);
            offset.walk(&mut |expr| match expr {
                Expr::Block(_) | Expr::Var(_) => block = true,
                Expr::Unary(crate::tile::Unary::Wide, _) => wide = true,
                _ => {}
            });
            assert!(!block || wide, "{}: {offset:?}", program.name);
        }
    }
}

fn collect_offsets(body: &[Stmt], found: &mut Vec<Expr>) {
    for stmt in body {
        match stmt {
            Stmt::Load { src: view, .. } | Stmt::Store { dst: view, .. } => found.push(view.offset.clone()),
            Stmt::For { body, .. } | Stmt::If { body, .. } => collect_offsets(body, found),
            _ => {}
        }
    }
}

#[test]
fn schedules_of_nothing_are_refused() {
    let plan = fused(&decode(SHAPES[1].0, DType::F32, 1)).unwrap();
    let none = Schedule {
        block_m: 0,
        block_n: 8,
        block_k: 8,
        warps_m: 1,
        warps_n: 1,
        warps_k: 1,
        transposed: false,
        stages: 1,
    };
    let error = build(&plan, &plan.kernels[0], &none).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::Schedule {
                field: "block_m",
                found: 0,
                ..
            }
        ),
        "{error}"
    );
    let endless = Schedule {
        block_m: usize::MAX,
        ..none
    };
    let error = build(&plan, &plan.kernels[0], &endless).unwrap_err().to_string();
    assert!(
        error.ends_with("block_m: expected 1 to 1048576, got 18446744073709551615"),
        "{error}"
    );
    let flat = Schedule {
        block_m: 8,
        block_k: 0,
        ..none
    };
    let region = plan
        .kernels
        .iter()
        .find(|kernel| kernel.name.starts_with("einsum"))
        .unwrap();
    assert!(matches!(
        build(&plan, region, &flat),
        Err(BuildError::Schedule { field: "block_k", .. })
    ));
}

//! How many kernels one decode step launches.

use mlafuse::{DType, PlanKind, PreparedLayer, launch_dims, layer_graph, machine};
use mlafuse_ir::presets::preset;
use mlafuse_ir::target::{Arch, Target};

/// Of one layer of deepseek-v3, on whatever part.
const FUSED: usize = 6;
/// The same with a kernel for each node of the graph.
const UNFUSED: usize = 19;

#[test]
fn a_decode_step_of_deepseek_v3_has_so_many_launches() {
    let config = preset("deepseek-v3").unwrap();
    let graph = layer_graph(&config, DType::BF16, 64).unwrap();
    for arch in Arch::ALL {
        let target = Target::for_arch(arch);
        let layer = PreparedLayer::new(&graph, &machine(&target, DType::BF16), Some(&target)).unwrap();
        for sequences in [1, 16, 64] {
            for (kind, launches) in [(PlanKind::Fused, FUSED), (PlanKind::Unfused, UNFUSED)] {
                let plan = layer.plan(kind, &launch_dims(sequences, 1, 4096, 64)).unwrap().plan;
                assert_eq!(
                    plan.kernels.len(),
                    launches,
                    "{arch}, {sequences} sequences, {kind}:\n{plan}"
                );
            }
        }
    }
}

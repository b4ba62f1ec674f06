//! Registers that the hardware sets.

use super::Special;

/// What a register of the hardware's holds.
pub(super) fn special(name: &str) -> Option<Special> {
    let (base, component) = match name.split_once('.') {
        Some((base, component)) => (base, component),
        None => (name, ""),
    };
    let axis = match component {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => 3,
    };
    let vector = axis < 3;
    Some(match base {
        "%tid" if vector => Special::Tid(axis),
        "%ntid" if vector => Special::Ntid(axis),
        "%ctaid" if vector => Special::Ctaid(axis),
        "%nctaid" if vector => Special::Nctaid(axis),
        // Each block is a cluster of its own.
        "%clusterid" if vector => Special::Ctaid(axis),
        "%nclusterid" if vector => Special::Nctaid(axis),
        "%cluster_ctaid" if vector => Special::Fixed(0),
        "%cluster_nctaid" if vector => Special::Fixed(1),
        _ if vector => return None,
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::Fixed(1),
        "%cluster_ctarank" => Special::Fixed(0),
        "%cluster_nctarank" => Special::Fixed(1),
        "%lanemask_eq" => Special::LaneMask(0),
        "%lanemask_le" => Special::LaneMask(1),
        "%lanemask_lt" => Special::LaneMask(2),
        "%lanemask_ge" => Special::LaneMask(3),
        "%lanemask_gt" => Special::LaneMask(4),
        "%dynamic_smem_size" => Special::DynamicSharedBytes,
        "%total_smem_size" => Special::TotalSharedBytes,
        _ => return None,
    })
}

//! Sums over the warps that share out the depth of products.

use super::Cx;
use super::fragment::{let_stmt, unrolled};
use super::sync::{Access, Kind, Op, Slot};
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::TileId;

/// Where the thread's elements lie in the first part.
const PLACE: &str = "at";

impl Cx<'_> {
    /// dst = the sum of the parts of src. Every warp leaves its part in shared memory, f32 \[warps_k, registers, threads of a
    /// part\], and those that have a row in dst add up all of its parts, always in the order of the depth.
    pub(super) fn sum_parts(&self, dst: TileId, src: TileId) -> [Op; 2] {
        let [registers, of_dst] = [src, dst].map(|tile| self.fragments.layout(tile).registers());
        let threads = self.schedule.threads() / self.schedule.warps_k;
        let of_part = (self.warp_m(src) * self.schedule.warps_n + Expr::name("warp_n")) * 32 + Expr::name("lane");
        let place = let_stmt(
            Ty::U32,
            PLACE,
            Expr::name("shared") + self.shared.parts.start + of_part * size_of::<f32>(),
        );
        let element = |part: Expr, register: Expr| {
            Expr::name(PLACE) + (part * registers + register) * (threads * size_of::<f32>())
        };

        let mut leave = vec![place.clone()];
        leave.extend(unrolled("r", registers, |r| {
            let value = Expr::register(self.tile_name(src), r.clone());
            vec![Stmt::Do {
                intrinsic: Intrinsic::StoreSharedF32,
                args: vec![element(Expr::name("warp_k"), r), value],
            }]
        }));

        let into = self.tile_name(dst);
        let set = |at: &Expr, value: Expr| Stmt::Set {
            name: into.to_string(),
            at: at.clone(),
            value,
        };
        // The rows of dst are neighbours in src: so are their registers.
        let first = self.share() * of_dst;
        let mut gather = vec![place];
        gather.extend(unrolled("r", of_dst, |r| {
            let mut body = vec![set(&r, Expr::Float(0.0))];
            body.extend(unrolled("w", self.schedule.warps_k, |w| {
                let part = Expr::call(Intrinsic::LoadSharedF32, [element(w, first + r.clone())]);
                vec![set(&r, Expr::register(into, r.clone()) + part)]
            }));
            body
        }));
        [(leave, Kind::Write), (gather, Kind::Read)].map(|(stmts, kind)| Op {
            comment: None,
            stmts,
            accesses: self.parts_accesses(kind),
        })
    }

    /// What a synchronisation pass sees of the parts: themselves, and the tiles in whose place they lie.
    fn parts_accesses(&self, kind: Kind) -> Vec<Access> {
        let access = |tile: usize, cols: usize| Access {
            tile,
            cols: (0, cols),
            slot: Slot::Any,
            kind,
        };
        let beneath = self.shared.tiles_in(&self.shared.parts);
        let beneath = beneath.map(|placed| access(placed.offset, placed.layout.cols));
        std::iter::once(access(self.shared.parts.start, 1))
            .chain(beneath)
            .collect()
    }
}

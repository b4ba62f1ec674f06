//! Loops, and the software pipeline of those that are marked.
//!
//! With S stages, the loads at the head of the body run S - 1 iterations ahead: the first S - 1 before the loop, then one
//! set an iteration, each set one group of asynchronous copies. The group is committed even when there is nothing left to
//! load, so that "all but the newest S - 2 groups" always means "what this iteration reads".

use super::Cx;
use super::fragment::let_stmt;
use super::sync::{Access, Item, Kind, Op, Slot};
use crate::thread::{Expr, Intrinsic, Stmt, Ty};
use crate::tile::{self, TileId, VarId};

impl Cx<'_> {
    pub(super) fn for_loop(
        &self,
        var: VarId,
        bounds: [&tile::Expr; 2],
        pipelined: bool,
        body: &[tile::Stmt],
        items: &mut Vec<Item>,
    ) {
        let [start, end] = bounds.map(|e| self.scalar(e));
        let stages = self.schedule.stages;
        let heads = if pipelined && stages > 1 {
            leading_loads(body)
        } else {
            0
        };
        let (loads, rest) = body.split_at(heads);
        let name = || Expr::name(self.var_name(var));
        let mut inner = Vec::new();
        if !loads.is_empty() {
            for ahead in 0..stages - 1 {
                let stage = Expr::Int(ahead as i64);
                items.push(Item::Op(self.load_ahead(
                    loads,
                    var,
                    start.clone() + ahead,
                    stage,
                    &end,
                    ahead,
                )));
            }
            let stage = |e: Expr| (e - start.clone()) % stages;
            inner.push(Item::Raw(vec![let_stmt(Ty::I32, &self.stage_name(var), stage(name()))]));
            // What this iteration reads must be there before the next loads are issued: one barrier then serves both.
            let arrived = loads
                .iter()
                .filter_map(loaded_tile)
                .map(|tile| self.access(tile, Kind::Read))
                .collect();
            inner.push(Item::Op(Op {
                comment: None,
                stmts: vec![],
                accesses: arrived,
            }));
            let next = name() + (stages - 1);
            // The stage that is filled was last read one iteration ago.
            inner.push(Item::Op(self.load_ahead(
                loads,
                var,
                next.clone(),
                stage(next),
                &end,
                stages - 1,
            )));
        }
        self.body(rest, &mut inner);
        let staged = loads
            .iter()
            .filter_map(loaded_tile)
            .map(|tile| self.shared.placed(tile).offset);
        items.push(Item::Loop {
            var: self.var_name(var).to_string(),
            start,
            end,
            staged: staged.collect(),
            body: inner,
        });
    }

    /// The loads of iteration `at`, `ahead` of the present one, as one group; nothing is loaded from `end` on.
    fn load_ahead(&self, loads: &[tile::Stmt], var: VarId, at: Expr, stage: Expr, end: &Expr, ahead: usize) -> Op {
        let (next, next_stage) = ("next", "next_stage");
        // The loads speak of the loop's variable and stage: bind both anew for them.
        let mut guarded = vec![
            let_stmt(Ty::I32, self.var_name(var), Expr::name(next)),
            let_stmt(Ty::I32, &self.stage_name(var), Expr::name(next_stage)),
        ];
        let mut accesses = Vec::new();
        for load in loads {
            if let tile::Stmt::Load { dst, cols, src } = load {
                let part = self.load_shared(*dst, cols, src);
                guarded.extend([self.comment(load), Stmt::Scope { body: part.stmts }]);
                let slot = Slot::Ahead {
                    offset: ahead,
                    stages: self.schedule.stages,
                };
                accesses.extend(part.accesses.into_iter().map(|a| Access { slot, ..a }));
            }
        }
        let mut stmts = vec![
            let_stmt(Ty::I32, next, at),
            let_stmt(Ty::I32, next_stage, stage),
            Stmt::If {
                cond: Expr::name(next).lt(end.clone()),
                body: guarded,
            },
        ];
        if accesses.iter().any(|a| a.kind == Kind::AsyncWrite) {
            stmts.push(Stmt::Do {
                intrinsic: Intrinsic::CopyCommit,
                args: vec![],
            });
        }
        Op {
            comment: None,
            stmts,
            accesses,
        }
    }
}

/// How many statements at the head of a body are loads.
fn leading_loads(body: &[tile::Stmt]) -> usize {
    body.iter().take_while(|s| loaded_tile(s).is_some()).count()
}

fn loaded_tile(stmt: &tile::Stmt) -> Option<TileId> {
    match stmt {
        tile::Stmt::Load { dst, .. } => Some(*dst),
        _ => None,
    }
}

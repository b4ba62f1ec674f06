//! Barriers and asynchronous waits, inserted by a def-use pass over shared tiles.
//!
//! Ops come with the shared tiles they read and write. The pass walks them in order, keeps what was accessed since the last
//! barrier and which groups of asynchronous copies are under way, and puts a wait before the first use of a copied tile and
//! a barrier before the first op that conflicts with an earlier one. Loops are walked until their entry state is stable, so
//! that conflicts across iterations count too. A tile with several stages conflicts only where the stages may be the same.

use std::collections::VecDeque;

use crate::thread::{Expr, Intrinsic, Stmt};

/// Which copy of a tile an op touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// The tile has one copy, or it is not known which is meant.
    Any,
    /// The copy of the iteration `offset` after the present one, of `stages`.
    Ahead { offset: usize, stages: usize },
}

impl Slot {
    fn overlaps(self, other: Slot) -> bool {
        match (self, other) {
            (Slot::Ahead { offset: a, stages }, Slot::Ahead { offset: b, .. }) => a % stages == b % stages,
            _ => true,
        }
    }

    /// The same copy, seen from the next iteration.
    fn next_iteration(self) -> Slot {
        match self {
            Slot::Any => Slot::Any,
            Slot::Ahead { offset, stages } => Slot::Ahead {
                offset: (offset + stages - 1) % stages,
                stages,
            },
        }
    }
}

/// What an op does with a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// Written by an asynchronous copy that the op issues and commits.
    AsyncWrite,
}

/// One shared tile that an op touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Where the tile begins in shared memory: names it.
    pub tile: usize,
    /// The columns from the first to before the second.
    pub cols: (usize, usize),
    pub slot: Slot,
    pub kind: Kind,
}

impl Access {
    fn overlaps(&self, other: &Access) -> bool {
        let cols = self.cols.0 < other.cols.1 && other.cols.0 < self.cols.1;
        self.tile == other.tile && cols && self.slot.overlaps(other.slot)
    }
}

/// Statements that need no synchronisation among themselves.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// Printed above.
    pub comment: Option<Stmt>,
    pub stmts: Vec<Stmt>,
    pub accesses: Vec<Access>,
}

/// A lowered program before synchronisation.
#[derive(Debug)]
pub(super) enum Item {
    Op(Op),
    /// Statements that touch no shared memory and whose names stay visible.
    Raw(Vec<Stmt>),
    Loop {
        var: String,
        start: Expr,
        end: Expr,
        /// Tiles of which each iteration has the next copy. Those of other tiles stay what they are.
        staged: Vec<usize>,
        body: Vec<Item>,
    },
    If {
        cond: Expr,
        body: Vec<Item>,
    },
    Return,
}

/// What may be under way at a point of the program.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// Accesses that no barrier has followed.
    pending: Vec<Access>,
    /// Asynchronous copies under way, oldest group first.
    groups: VecDeque<Vec<Access>>,
}

/// The statements with waits and barriers in place.
pub(super) fn synchronize(items: Vec<Item>) -> Vec<Stmt> {
    let mut out = Vec::new();
    walk(&items, &mut State::default(), &mut Some(&mut out));
    out
}

/// Runs `items` from `state`; writes the statements to `out` if there is one.
fn walk(items: &[Item], state: &mut State, out: &mut Option<&mut Vec<Stmt>>) {
    for item in items {
        match item {
            Item::Raw(stmts) => emit(out, || stmts.clone()),
            Item::Return => emit(out, || vec![Stmt::Return]),
            Item::Op(op) => {
                let sync = state.before(&op.accesses);
                emit(out, || {
                    op.comment.iter().cloned().chain(sync).chain(scoped(op)).collect()
                });
                state.after(&op.accesses);
            }
            Item::If { cond, body } => {
                let mut inside = state.clone();
                let stmts = walk_body(body, &mut inside, out.is_some());
                emit(out, || {
                    vec![Stmt::If {
                        cond: cond.clone(),
                        body: stmts,
                    }]
                });
                if !matches!(body.last(), Some(Item::Return)) {
                    state.merge(inside);
                }
            }
            Item::Loop {
                var,
                start,
                end,
                staged,
                body,
            } => {
                let entry = loop_entry(body, staged, state.clone());
                let mut exit = entry.clone();
                let stmts = walk_body(body, &mut exit, out.is_some());
                emit(out, || {
                    vec![Stmt::For {
                        var: var.clone(),
                        start: start.clone(),
                        end: end.clone(),
                        unroll: 1,
                        body: stmts,
                    }]
                });
                *state = entry;
                state.forget_slots(staged);
            }
        }
    }
}

fn walk_body(body: &[Item], state: &mut State, wanted: bool) -> Vec<Stmt> {
    let mut stmts = Vec::new();
    walk(body, state, &mut wanted.then_some(&mut stmts));
    stmts
}

/// The union of all states in which an iteration may begin (or the loop end).
fn loop_entry(body: &[Item], staged: &[usize], mut entry: State) -> State {
    loop {
        let mut next = entry.clone();
        walk(body, &mut next, &mut None);
        next.next_iteration(staged);
        let mut merged = entry.clone();
        merged.merge(next);
        if merged == entry {
            return entry;
        }
        entry = merged;
    }
}

fn emit(out: &mut Option<&mut Vec<Stmt>>, stmts: impl FnOnce() -> Vec<Stmt>) {
    if let Some(out) = out {
        out.extend(stmts());
    }
}

/// The op's statements; in a scope of their own where they bind names.
fn scoped(op: &Op) -> Vec<Stmt> {
    match op
        .stmts
        .iter()
        .any(|s| matches!(s, Stmt::Let { .. } | Stmt::Array { .. }))
    {
        true => vec![Stmt::Scope { body: op.stmts.clone() }],
        false => op.stmts.clone(),
    }
}

impl State {
    /// What must stand before an op with `accesses`.
    fn before(&mut self, accesses: &[Access]) -> Vec<Stmt> {
        let mut out = Vec::new();
        let awaited = |group: &Vec<Access>| {
            group
                .iter()
                .any(|write| accesses.iter().any(|access| access.overlaps(write)))
        };
        if let Some(newest) = self.groups.iter().rposition(awaited) {
            let left = self.groups.len() - 1 - newest;
            out.push(Stmt::Do {
                intrinsic: Intrinsic::CopyWait(left as u8),
                args: vec![],
            });
            let landed: Vec<Access> = self.groups.drain(..=newest).flatten().collect();
            landed
                .into_iter()
                .for_each(|a| self.note(Access { kind: Kind::Write, ..a }));
        }
        let conflicts = |a: &Access, b: &Access| a.overlaps(b) && (a.kind != Kind::Read || b.kind != Kind::Read);
        if accesses.iter().any(|a| self.pending.iter().any(|p| conflicts(a, p))) {
            out.push(Stmt::Do {
                intrinsic: Intrinsic::Barrier,
                args: vec![],
            });
            self.pending.clear();
        }
        out
    }

    fn after(&mut self, accesses: &[Access]) {
        let (copies, now): (Vec<Access>, Vec<Access>) = accesses.iter().partition(|a| a.kind == Kind::AsyncWrite);
        now.into_iter().for_each(|a| self.note(a));
        if !copies.is_empty() {
            self.groups.push_back(copies);
        }
    }

    fn note(&mut self, access: Access) {
        if !self.pending.contains(&access) {
            self.pending.push(access);
        }
    }

    /// What may be under way if either may; the newest groups stand for the newest.
    fn merge(&mut self, other: State) {
        other.pending.into_iter().for_each(|a| self.note(a));
        let extra = other.groups.len().saturating_sub(self.groups.len());
        for _ in 0..extra {
            self.groups.push_front(Vec::new());
        }
        let skip = self.groups.len() - other.groups.len();
        for (mine, theirs) in self.groups.iter_mut().skip(skip).zip(other.groups) {
            for access in theirs {
                if !mine.contains(&access) {
                    mine.push(access);
                }
            }
        }
    }

    fn accesses_mut(&mut self, tiles: &[usize]) -> impl Iterator<Item = &mut Access> {
        let all = self.pending.iter_mut().chain(self.groups.iter_mut().flatten());
        all.filter(|access| tiles.contains(&access.tile))
    }

    fn next_iteration(&mut self, staged: &[usize]) {
        self.accesses_mut(staged).for_each(|a| a.slot = a.slot.next_iteration());
    }

    fn forget_slots(&mut self, staged: &[usize]) {
        self.accesses_mut(staged).for_each(|a| a.slot = Slot::Any);
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().for_each(|a| self.note(a));
    }
}

#[cfg(test)]
mod tests;

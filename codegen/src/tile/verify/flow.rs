//! What is certain on every way to a statement: the scalars in scope and the columns that are written.

use super::super::text::{tile_name, var_name};
use super::super::{Columns, TileId, TileProgram, VarId};
use super::{Fault, ScalarKind};

/// The facts at one point of the program.
pub(super) struct Flow {
    facts: Facts,
    /// Variables that some statement so far binds, in scope or not.
    bound: Vec<bool>,
}

/// The facts that a body adds to and that end with it.
#[derive(Clone)]
pub(super) struct Facts {
    /// The type of each variable in scope.
    kinds: Vec<Option<ScalarKind>>,
    /// The columns of each tile that are written: disjoint ranges that do not touch.
    written: Vec<Vec<Columns>>,
}

impl Flow {
    /// At the head of a program: nothing is bound or written.
    pub(super) fn new(program: &TileProgram) -> Flow {
        let facts = Facts {
            kinds: vec![None; program.vars.len()],
            written: vec![Vec::new(); program.tiles.len()],
        };
        Flow {
            facts,
            bound: vec![false; program.vars.len()],
        }
    }

    /// Starts a body that may not run; gives what [`Flow::leave`] goes back to.
    pub(super) fn enter(&self) -> Facts {
        self.facts.clone()
    }

    /// Ends the body.
    pub(super) fn leave(&mut self, outside: Facts) {
        self.facts = outside;
    }

    /// Binds a variable that was not bound before.
    pub(super) fn bind(&mut self, program: &TileProgram, var: VarId, kind: ScalarKind) -> Result<(), Fault> {
        let (Some(slot), Some(bound)) = (self.facts.kinds.get_mut(var.0), self.bound.get_mut(var.0)) else {
            return Err(unknown_var(program, var));
        };
        if std::mem::replace(bound, true) {
            return Err(Fault::Rebound {
                var: var_name(program, var),
            });
        }
        *slot = Some(kind);
        Ok(())
    }

    /// The type of a variable in scope.
    pub(super) fn kind(&self, program: &TileProgram, var: VarId) -> Result<ScalarKind, Fault> {
        let kind = self.facts.kinds.get(var.0).ok_or_else(|| unknown_var(program, var))?;
        kind.ok_or_else(|| Fault::Unbound {
            var: var_name(program, var),
        })
    }

    /// Columns of a tile are written from here on.
    pub(super) fn write(&mut self, id: TileId, cols: Columns) {
        let Some(ranges) = self.facts.written.get_mut(id.0) else {
            return;
        };
        let mut whole = cols;
        ranges.retain(|range| {
            let apart = range.end < whole.start || whole.end < range.start;
            if !apart {
                whole = whole.start.min(range.start)..whole.end.max(range.end);
            }
            apart
        });
        ranges.push(whole);
    }

    /// All of a tile is written from here on.
    pub(super) fn write_all(&mut self, program: &TileProgram, id: TileId) {
        self.write(id, all_columns(program, id));
    }

    /// Nothing of a tile is written from here on.
    pub(super) fn forget(&mut self, id: TileId) {
        if let Some(ranges) = self.facts.written.get_mut(id.0) {
            ranges.clear();
        }
    }

    /// Columns of a tile are read, which must be written.
    pub(super) fn read(&self, program: &TileProgram, id: TileId, cols: Columns) -> Result<(), Fault> {
        let mut ranges = self.facts.written.get(id.0).into_iter().flatten();
        if ranges.any(|range| range.start <= cols.start && cols.end <= range.end) {
            return Ok(());
        }
        Err(Fault::Unwritten {
            tile: tile_name(program, id),
            cols,
        })
    }

    /// All of a tile is read, which must be written.
    pub(super) fn read_all(&self, program: &TileProgram, id: TileId) -> Result<(), Fault> {
        self.read(program, id, all_columns(program, id))
    }
}

fn all_columns(program: &TileProgram, id: TileId) -> Columns {
    0..program.tiles.get(id.0).map_or(0, |tile| tile.cols)
}

fn unknown_var(program: &TileProgram, var: VarId) -> Fault {
    Fault::Unknown {
        what: "variable",
        index: var.0,
        count: program.vars.len(),
    }
}

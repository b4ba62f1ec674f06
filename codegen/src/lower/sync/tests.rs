//! The pass against a machine that runs its output and knows what each op touches.

use super::*;
use proptest::prelude::*;

/// A program for the pass, as data. Loops run so often when the output is run; the pass does not see the number.
#[derive(Clone, Debug)]
enum Plan {
    Op(Vec<Access>),
    /// Each iteration has the next copy of [`STAGED`].
    Loop(usize, Vec<Plan>),
    /// All iterations have the same.
    Repeat(usize, Vec<Plan>),
    If(bool, Vec<Plan>),
}

const STAGES: usize = 3;
/// The tile with as many copies.
const STAGED: usize = 2;

fn item_loop(var: &str, trips: usize, staged: Vec<usize>, body: Vec<Item>) -> Item {
    Item::Loop {
        var: var.into(),
        start: Expr::Int(0),
        end: Expr::from(trips),
        staged,
        body,
    }
}

fn items(plans: &[Plan], ops: &mut Vec<Vec<Access>>) -> Vec<Item> {
    plans
        .iter()
        .map(|plan| match plan {
            Plan::Op(accesses) => {
                ops.push(accesses.clone());
                let mark = Stmt::Comment(format!("op {}", ops.len() - 1));
                Item::Op(Op {
                    comment: None,
                    stmts: vec![mark],
                    accesses: accesses.clone(),
                })
            }
            Plan::Loop(trips, body) => item_loop("i", *trips, vec![STAGED], items(body, ops)),
            Plan::Repeat(trips, body) => item_loop("same", *trips, vec![], items(body, ops)),
            Plan::If(taken, body) => Item::If {
                cond: Expr::Int(*taken as i64),
                body: items(body, ops),
            },
        })
        .collect()
}

/// What has happened that later ops may conflict with; stages are absolute.
#[derive(Default)]
struct Machine {
    since_barrier: Vec<(Place, bool)>,
    groups: VecDeque<Vec<Place>>,
}

/// A part of a tile; of all its stages where that is not known.
#[derive(Clone, Copy)]
struct Place {
    tile: usize,
    stage: Option<usize>,
    cols: (usize, usize),
}

impl Place {
    fn of(access: &Access, iteration: usize) -> Place {
        let stage = match access.slot {
            Slot::Any => None,
            Slot::Ahead { offset, stages } => Some((iteration + offset) % stages),
        };
        Place {
            tile: access.tile,
            stage,
            cols: access.cols,
        }
    }

    fn meets(self, other: Place) -> bool {
        let stages = self.stage.is_none() || other.stage.is_none() || self.stage == other.stage;
        let cols = (self.cols.0..self.cols.1).any(|col| (other.cols.0..other.cols.1).contains(&col));
        self.tile == other.tile && stages && cols
    }
}

impl Machine {
    fn run(&mut self, stmts: &[Stmt], ops: &[Vec<Access>], iteration: usize) -> Result<(), String> {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(words) => {
                    let op: usize = words["op ".len()..].parse().map_err(|e| format!("{e}"))?;
                    self.op(op, &ops[op], iteration)?;
                }
                Stmt::For {
                    var,
                    end: Expr::Int(trips),
                    body,
                    ..
                } => {
                    let mut iterations = 0..*trips as usize;
                    iterations.try_for_each(|i| self.run(body, ops, if var == "i" { i } else { iteration }))?;
                }
                Stmt::If {
                    cond: Expr::Int(taken),
                    body,
                } if *taken != 0 => self.run(body, ops, iteration)?,
                Stmt::Do {
                    intrinsic: Intrinsic::Barrier,
                    ..
                } => self.since_barrier.clear(),
                Stmt::Do {
                    intrinsic: Intrinsic::CopyWait(left),
                    ..
                } => {
                    while self.groups.len() > *left as usize {
                        let landed = self.groups.pop_front().unwrap_or_default();
                        self.since_barrier.extend(landed.into_iter().map(|place| (place, true)));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn op(&mut self, op: usize, accesses: &[Access], iteration: usize) -> Result<(), String> {
        let mut copies = Vec::new();
        for access in accesses {
            let place = Place::of(access, iteration);
            let writes = access.kind != Kind::Read;
            if self.groups.iter().flatten().any(|copy| copy.meets(place)) {
                return Err(format!("op {op}: {access:?} while a copy of it is under way"));
            }
            if self
                .since_barrier
                .iter()
                .any(|&(before, wrote)| before.meets(place) && (wrote || writes))
            {
                return Err(format!("op {op}: {access:?} without a barrier"));
            }
            if access.kind == Kind::AsyncWrite {
                copies.push(place);
            }
        }
        for access in accesses.iter().filter(|a| a.kind != Kind::AsyncWrite) {
            self.since_barrier
                .push((Place::of(access, iteration), access.kind == Kind::Write));
        }
        if !copies.is_empty() {
            self.groups.push_back(copies);
        }
        Ok(())
    }
}

fn check(plans: &[Plan]) -> Result<Vec<Stmt>, String> {
    let mut ops = Vec::new();
    let out = synchronize(items(plans, &mut ops));
    Machine::default()
        .run(&out, &ops, 0)
        .map_err(|e| format!("{e}\n{out:#?}"))?;
    Ok(out)
}

/// Tiles 0 and 1 have one copy, [`STAGED`] has [`STAGES`] where it is touched in a loop.
fn access(in_loop: bool) -> impl Strategy<Value = Access> {
    let kind = prop_oneof![Just(Kind::Read), Just(Kind::Write), Just(Kind::AsyncWrite)];
    let cols = prop_oneof![Just((0, 8)), Just((0, 5)), Just((5, 8))];
    (0..3usize, 0..STAGES, cols, kind).prop_map(move |(tile, offset, cols, kind)| {
        let slot = if tile == STAGED && in_loop {
            Slot::Ahead { offset, stages: STAGES }
        } else {
            Slot::Any
        };
        Access { tile, cols, slot, kind }
    })
}

/// One access a tile: an op does not conflict with itself.
fn op(in_loop: bool) -> impl Strategy<Value = Plan> {
    prop::collection::vec(access(in_loop), 1..3).prop_map(|mut accesses| {
        accesses.sort_by_key(|a| a.tile);
        accesses.dedup_by_key(|a| a.tile);
        Plan::Op(accesses)
    })
}

fn body(in_loop: bool) -> impl Strategy<Value = Vec<Plan>> {
    let guarded = (any::<bool>(), prop::collection::vec(op(in_loop), 1..3)).prop_map(|(t, b)| Plan::If(t, b));
    prop::collection::vec(prop_oneof![4 => op(in_loop), 1 => guarded], 1..6)
}

fn program() -> impl Strategy<Value = Vec<Plan>> {
    let repeat = || (0..4usize, body(true)).prop_map(|(trips, body)| Plan::Repeat(trips, body));
    let inner = move || {
        let body = (body(true), prop::option::of(repeat()), body(true));
        (0..5usize, body).prop_map(|(trips, (before, repeat, after))| {
            Plan::Loop(trips, before.into_iter().chain(repeat).chain(after).collect())
        })
    };
    let outer = (0..3usize, prop::collection::vec(prop_oneof![inner(), op(false)], 1..4))
        .prop_map(|(trips, body)| Plan::Loop(trips, body));
    prop::collection::vec(prop_oneof![3 => op(false), 2 => inner(), 1 => outer], 1..6)
}

proptest! {
    #[test]
    fn what_the_pass_leaves_has_no_race(plans in program()) {
        if let Err(race) = check(&plans) {
            prop_assert!(false, "{race}");
        }
    }
}

fn read(tile: usize, slot: Slot) -> Plan {
    Plan::Op(vec![Access {
        tile,
        cols: (0, 8),
        slot,
        kind: Kind::Read,
    }])
}

fn copy(tile: usize, slot: Slot) -> Plan {
    Plan::Op(vec![Access {
        tile,
        cols: (0, 8),
        slot,
        kind: Kind::AsyncWrite,
    }])
}

fn count(stmts: &[Stmt], wanted: &dyn Fn(Intrinsic) -> bool) -> usize {
    stmts
        .iter()
        .map(|stmt| match stmt {
            Stmt::Do { intrinsic, .. } => wanted(*intrinsic) as usize,
            Stmt::For { body, .. } | Stmt::If { body, .. } => count(body, wanted),
            _ => 0,
        })
        .sum()
}

/// The shape that the pipeline makes: one wait and one barrier an iteration, and the copies stay under way meanwhile.
#[test]
fn a_pipelined_loop_has_one_barrier() -> Result<(), String> {
    let ahead = |offset| Slot::Ahead { offset, stages: STAGES };
    let plans = [
        copy(2, ahead(0)),
        copy(2, ahead(1)),
        Plan::Loop(7, vec![read(2, ahead(0)), copy(2, ahead(2)), read(2, ahead(0))]),
    ];
    let out = check(&plans)?;
    assert_eq!(count(&out, &|i| i == Intrinsic::Barrier), 1);
    assert_eq!(count(&out, &|i| i == Intrinsic::CopyWait(1)), 1);
    assert_eq!(count(&out, &|i| matches!(i, Intrinsic::CopyWait(_))), 1);
    Ok(())
}

/// A loop within that touches no stage does not make the copies of the loop around it land.
#[test]
fn a_loop_in_a_pipelined_loop_leaves_its_copies_under_way() -> Result<(), String> {
    let ahead = |offset| Slot::Ahead { offset, stages: STAGES };
    let write = Plan::Op(vec![Access {
        tile: 0,
        cols: (0, 8),
        slot: Slot::Any,
        kind: Kind::Write,
    }]);
    let body = vec![
        read(2, ahead(0)),
        copy(2, ahead(2)),
        Plan::Repeat(4, vec![Plan::Op(vec![])]),
        write,
        read(0, Slot::Any),
        read(2, ahead(0)),
    ];
    let out = check(&[copy(2, ahead(0)), copy(2, ahead(1)), Plan::Loop(7, body)])?;
    assert_eq!(count(&out, &|i| i == Intrinsic::Barrier), 2);
    assert_eq!(count(&out, &|i| i == Intrinsic::CopyWait(1)), 1);
    assert_eq!(count(&out, &|i| matches!(i, Intrinsic::CopyWait(_))), 1);
    Ok(())
}

#[test]
fn ops_of_registers_alone_have_no_barrier() -> Result<(), String> {
    let out = check(&[Plan::Loop(3, vec![Plan::Op(vec![]), Plan::Op(vec![])])])?;
    assert_eq!(count(&out, &|_| true), 0);
    Ok(())
}

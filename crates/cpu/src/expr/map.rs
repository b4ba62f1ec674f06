//! Maps: an expression evaluated for every element of a tile, one operation at a time over a whole line.
//!
//! A line is a row of a matrix, or all of a vector. What does not change along the line is a scalar: computed once a map,
//! or once a line. Everything else is a step that fills a register, a buffer as long as the line.

use std::mem;

use mlafuse_codegen::tile::{Binary, Expr, TileId, Unary};

use super::scalar::{At, Env, Kind, Names, Scalar, bits_float, kind};
use crate::error::Fault;
use crate::level::{Level, Loop};
use crate::math;
use crate::scratch::{Needs, Slot, grow};

/// A compiled map.
#[derive(Clone, Debug)]
pub(crate) struct MapCode {
    dst: Slot,
    lines: usize,
    len: usize,
    /// Scalars of the whole map, into the scalar register named first.
    once: Vec<(usize, Scalar)>,
    /// Scalars of each line.
    per_line: Vec<(usize, Scalar)>,
    steps: Vec<Step>,
    result: Operand,
    needs: Needs,
}

/// Where an operand is; its type is the operation's to know.
#[derive(Clone, Copy, Debug)]
enum Operand {
    Scalar(usize),
    Register(usize),
    Tile(Slot),
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    dst: usize,
    args: [Operand; 3],
}

#[derive(Clone, Debug)]
enum Op {
    /// 0, 1, 2, ...: the index along the line.
    Index,
    ToFloat,
    FloatUnary(Unary),
    FloatBinary(Binary),
    FloatCompare(Binary),
    IntBinary(Binary),
    IntCompare(Binary),
    And,
    SelectFloat,
    SelectInt,
    SelectBool,
    /// Element by element, where an operand that is not needed could fail.
    EachFloat(Scalar),
    EachInt(Scalar),
    EachBool(Scalar),
}

/// How often an expression's value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rate {
    Map,
    Line,
    Element,
}

/// Registers of the maps of one thread.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    scalars: Vec<i64>,
    floats: Vec<Vec<f32>>,
    ints: Vec<Vec<i64>>,
    masks: Vec<Vec<u32>>,
}

impl Registers {
    /// Makes them enough for `needs`.
    pub(crate) fn fit(&mut self, needs: &Needs) {
        grow(&mut self.scalars, needs.scalars, 0);
        grow(&mut self.floats, needs.floats, Vec::new());
        grow(&mut self.ints, needs.ints, Vec::new());
        grow(&mut self.masks, needs.masks, Vec::new());
        self.floats
            .iter_mut()
            .take(needs.floats)
            .for_each(|r| grow(r, needs.line, 0.0));
        self.ints
            .iter_mut()
            .take(needs.ints)
            .for_each(|r| grow(r, needs.line, 0));
        self.masks
            .iter_mut()
            .take(needs.masks)
            .for_each(|r| grow(r, needs.line, 0));
    }
}

/// A bank of registers while they are assigned.
#[derive(Default)]
struct Bank {
    free: Vec<usize>,
    count: usize,
}

impl Bank {
    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }
}

struct Builder<'a> {
    names: &'a Names<'a>,
    /// Whether the line runs down a vector's rows.
    down: bool,
    scalars: usize,
    once: Vec<(usize, Scalar)>,
    per_line: Vec<(usize, Scalar)>,
    steps: Vec<Step>,
    floats: Bank,
    ints: Bank,
    masks: Bank,
}

impl MapCode {
    /// dst = value, of a program that has been verified.
    pub(crate) fn compile(dst: TileId, value: &Expr, names: &Names<'_>) -> MapCode {
        let slot = names.slots[dst.0];
        let down = slot.stride == 1;
        let mut builder = Builder {
            names,
            down,
            scalars: 0,
            once: Vec::new(),
            per_line: Vec::new(),
            steps: Vec::new(),
            floats: Bank::default(),
            ints: Bank::default(),
            masks: Bank::default(),
        };
        let result = builder.operand(value);
        let (lines, len) = if down { (1, slot.rows) } else { (slot.rows, slot.cols) };
        let needs = Needs {
            floats: builder.floats.count,
            ints: builder.ints.count,
            masks: builder.masks.count,
            scalars: builder.scalars,
            line: len,
            ..Needs::default()
        };
        let Builder {
            once, per_line, steps, ..
        } = builder;
        MapCode {
            dst: slot,
            lines,
            len,
            once,
            per_line,
            steps,
            result,
            needs,
        }
    }

    /// The registers it needs.
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Runs it on the tiles of `arena`.
    pub(crate) fn run(
        &self,
        level: Level,
        env: &Env<'_>,
        arena: &mut [f32],
        registers: &mut Registers,
    ) -> Result<(), Fault> {
        level.run(Run {
            code: self,
            env,
            arena,
            registers,
        })
    }
}

impl Builder<'_> {
    fn rate(&self, expr: &Expr) -> Rate {
        let vector = |t: &TileId| self.names.program.tiles.get(t.0).is_some_and(|t| t.form.is_vector());
        let mut rate = Rate::Map;
        expr.walk(&mut |e| {
            rate = rate.max(match e {
                Expr::Row if !self.down => Rate::Line,
                Expr::Tile(t) if !self.down && vector(t) => Rate::Line,
                Expr::Row | Expr::Tile(_) => Rate::Element,
                Expr::Col if !self.down => Rate::Element,
                _ => Rate::Map,
            });
        });
        rate
    }

    /// Whether evaluating `expr` may fail.
    fn can_fail(&self, expr: &Expr) -> bool {
        let mut fails = false;
        expr.walk(&mut |e| {
            fails |= match e {
                Expr::Load(..) => true,
                Expr::Binary(Binary::Div | Binary::Rem, _, b) => {
                    !matches!(**b, Expr::Int(1..)) && kind(b, self.names) == Kind::Int
                }
                _ => false,
            };
        });
        fails
    }

    /// Emits what computes `expr`, whose types have been checked.
    fn operand(&mut self, expr: &Expr) -> Operand {
        let rate = self.rate(expr);
        if rate != Rate::Element {
            let scalar = self.scalars;
            self.scalars += 1;
            let list = if rate == Rate::Map {
                &mut self.once
            } else {
                &mut self.per_line
            };
            list.push((scalar, Scalar::compile(expr, self.names)));
            return Operand::Scalar(scalar);
        }
        match expr {
            Expr::Tile(id) => Operand::Tile(self.names.slots[id.0]),
            Expr::Row | Expr::Col => self.step(Op::Index, Kind::Int, &[]),
            Expr::Unary(Unary::Wide, a) => self.operand(a),
            Expr::Unary(Unary::ToFloat, a) => self.step(Op::ToFloat, Kind::Float, &[(a, Kind::Int)]),
            Expr::Unary(op, a) => self.step(Op::FloatUnary(*op), Kind::Float, &[(a, Kind::Float)]),
            Expr::Binary(Binary::And, _, b) if self.can_fail(b) => self.each(expr),
            Expr::Binary(Binary::And, a, b) => self.step(Op::And, Kind::Bool, &[(a, Kind::Bool), (b, Kind::Bool)]),
            Expr::Binary(op, a, b) => {
                let operands = kind(a, self.names);
                let compares = matches!(op, Binary::Lt | Binary::Le | Binary::Eq);
                let (op, result) = match (operands, compares) {
                    (Kind::Float, false) => (Op::FloatBinary(*op), Kind::Float),
                    (Kind::Float, true) => (Op::FloatCompare(*op), Kind::Bool),
                    (_, false) => (Op::IntBinary(*op), Kind::Int),
                    (_, true) => (Op::IntCompare(*op), Kind::Bool),
                };
                self.step(op, result, &[(a, operands), (b, operands)])
            }
            Expr::Select(_, a, b) if self.can_fail(a) || self.can_fail(b) => self.each(expr),
            Expr::Select(c, a, b) => {
                let result = kind(a, self.names);
                let op = match result {
                    Kind::Float => Op::SelectFloat,
                    Kind::Int => Op::SelectInt,
                    Kind::Bool => Op::SelectBool,
                };
                self.step(op, result, &[(c, Kind::Bool), (a, result), (b, result)])
            }
            _ => self.each(expr),
        }
    }

    fn bank(&mut self, kind: Kind) -> &mut Bank {
        match kind {
            Kind::Float => &mut self.floats,
            Kind::Int => &mut self.ints,
            Kind::Bool => &mut self.masks,
        }
    }

    fn step(&mut self, op: Op, result: Kind, operands: &[(&Expr, Kind)]) -> Operand {
        let mut args = [Operand::Scalar(0); 3];
        for (arg, (expr, _)) in args.iter_mut().zip(operands) {
            *arg = self.operand(expr);
        }
        // Before the operands' registers are free again: a step never writes what it reads.
        let dst = self.bank(result).take();
        for (arg, (_, kind)) in args.iter().zip(operands) {
            if let Operand::Register(r) = *arg {
                self.bank(*kind).free.push(r);
            }
        }
        self.steps.push(Step { op, dst, args });
        Operand::Register(dst)
    }

    fn each(&mut self, expr: &Expr) -> Operand {
        let scalar = Scalar::compile(expr, self.names);
        let result = kind(expr, self.names);
        let op = match result {
            Kind::Float => Op::EachFloat(scalar),
            Kind::Int => Op::EachInt(scalar),
            Kind::Bool => Op::EachBool(scalar),
        };
        self.step(op, result, &[])
    }
}

/// An operand along a line.
#[derive(Clone, Copy)]
enum Source<'a, T> {
    One(T),
    Many(&'a [T]),
}

#[inline(always)]
fn zip<A: Copy, B: Copy, O>(a: Source<'_, A>, b: Source<'_, B>, out: &mut [O], f: impl Fn(A, B) -> O) {
    match (a, b) {
        (Source::One(a), Source::One(b)) => out.iter_mut().for_each(|o| *o = f(a, b)),
        (Source::One(a), Source::Many(b)) => out.iter_mut().zip(b).for_each(|(o, b)| *o = f(a, *b)),
        (Source::Many(a), Source::One(b)) => out.iter_mut().zip(a).for_each(|(o, a)| *o = f(*a, b)),
        (Source::Many(a), Source::Many(b)) => out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| *o = f(*a, *b)),
    }
}

#[inline(always)]
fn each<A: Copy, O>(a: Source<'_, A>, out: &mut [O], f: impl Fn(A) -> O) {
    zip(a, Source::One(()), out, |a, ()| f(a));
}

#[inline(always)]
fn select<T: Copy>(cond: Source<'_, u32>, a: Source<'_, T>, b: Source<'_, T>, out: &mut [T]) {
    let mask = match cond {
        Source::One(0) => return each(b, out, |b| b),
        Source::One(_) => return each(a, out, |a| a),
        Source::Many(mask) => mask,
    };
    each(b, out, |b| b);
    match a {
        Source::One(a) => out
            .iter_mut()
            .zip(mask)
            .for_each(|(o, m)| *o = if *m != 0 { a } else { *o }),
        Source::Many(a) => {
            out.iter_mut()
                .zip(mask)
                .zip(a)
                .for_each(|((o, m), a)| *o = if *m != 0 { *a } else { *o });
        }
    }
}

struct Run<'a> {
    code: &'a MapCode,
    env: &'a Env<'a>,
    arena: &'a mut [f32],
    registers: &'a mut Registers,
}

impl Loop for Run<'_> {
    type Output = Result<(), Fault>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Result<(), Fault> {
        let Run {
            code,
            env,
            arena,
            registers,
        } = self;
        for (register, scalar) in &code.once {
            registers.scalars[*register] = scalar.eval(env, At { arena, row: 0, col: 0 })?;
        }
        for row in 0..code.lines {
            for (register, scalar) in &code.per_line {
                registers.scalars[*register] = scalar.eval(env, At { arena, row, col: 0 })?;
            }
            let line = Line {
                env,
                arena,
                row,
                len: code.len,
                down: code.dst.stride == 1,
            };
            for step in &code.steps {
                line.step::<FMA>(step, registers)?;
            }
            match code.result {
                Operand::Tile(slot) => {
                    let from = slot.row(row, 0..code.len);
                    arena.copy_within(from, code.dst.row(row, 0..0).start);
                }
                Operand::Register(r) => {
                    arena[code.dst.row(row, 0..code.len)].copy_from_slice(&registers.floats[r][..code.len]);
                }
                Operand::Scalar(s) => {
                    arena[code.dst.row(row, 0..code.len)].fill(bits_float(registers.scalars[s]));
                }
            }
        }
        Ok(())
    }
}

/// One line of a map.
struct Line<'a> {
    env: &'a Env<'a>,
    arena: &'a [f32],
    row: usize,
    len: usize,
    down: bool,
}

impl<'a> Line<'a> {
    #[inline(always)]
    fn float(&self, operand: Operand, registers: &'a Registers) -> Source<'a, f32> {
        match operand {
            Operand::Scalar(s) => Source::One(bits_float(registers.scalars[s])),
            Operand::Register(r) => Source::Many(&registers.floats[r][..self.len]),
            Operand::Tile(slot) => Source::Many(&self.arena[slot.row(self.row, 0..self.len)]),
        }
    }

    #[inline(always)]
    fn int(&self, operand: Operand, registers: &'a Registers) -> Source<'a, i64> {
        match operand {
            Operand::Register(r) => Source::Many(&registers.ints[r][..self.len]),
            Operand::Scalar(s) => Source::One(registers.scalars[s]),
            Operand::Tile(_) => Source::One(0),
        }
    }

    #[inline(always)]
    fn mask(&self, operand: Operand, registers: &'a Registers) -> Source<'a, u32> {
        match operand {
            Operand::Register(r) => Source::Many(&registers.masks[r][..self.len]),
            Operand::Scalar(s) => Source::One(registers.scalars[s] as u32),
            Operand::Tile(_) => Source::One(0),
        }
    }

    /// The register that a step fills is taken out of its bank meanwhile; its operands are others.
    #[inline(always)]
    fn step<const FMA: bool>(&self, step: &Step, registers: &mut Registers) -> Result<(), Fault> {
        match &step.op {
            Op::ToFloat | Op::FloatUnary(_) | Op::FloatBinary(_) | Op::SelectFloat | Op::EachFloat(_) => {
                let mut out = mem::take(&mut registers.floats[step.dst]);
                let result = line_float::<FMA>(self, step, registers, &mut out[..self.len]);
                registers.floats[step.dst] = out;
                result
            }
            Op::Index | Op::IntBinary(_) | Op::SelectInt | Op::EachInt(_) => {
                let mut out = mem::take(&mut registers.ints[step.dst]);
                let result = line_int(self, step, registers, &mut out[..self.len]);
                registers.ints[step.dst] = out;
                result
            }
            Op::FloatCompare(_) | Op::IntCompare(_) | Op::And | Op::SelectBool | Op::EachBool(_) => {
                let mut out = mem::take(&mut registers.masks[step.dst]);
                let result = line_mask(self, step, registers, &mut out[..self.len]);
                registers.masks[step.dst] = out;
                result
            }
        }
    }

    fn each<O>(&self, scalar: &Scalar, out: &mut [O], convert: impl Fn(i64) -> O) -> Result<(), Fault> {
        for (i, o) in out.iter_mut().enumerate() {
            let (row, col) = if self.down { (i, 0) } else { (self.row, i) };
            *o = convert(scalar.eval(
                self.env,
                At {
                    arena: self.arena,
                    row,
                    col,
                },
            )?);
        }
        Ok(())
    }
}

#[inline(always)]
fn line_float<'a, const FMA: bool>(
    line: &Line<'a>,
    step: &Step,
    registers: &'a Registers,
    out: &mut [f32],
) -> Result<(), Fault> {
    let [x, y, z] = step.args;
    let a = || line.float(x, registers);
    let b = || line.float(y, registers);
    match &step.op {
        Op::ToFloat => each(line.int(x, registers), out, |n| n as f32),
        Op::FloatUnary(Unary::Exp2) => each(a(), out, math::exp2::<FMA>),
        Op::FloatUnary(Unary::Log2) => each(a(), out, f32::log2),
        Op::FloatUnary(Unary::Rsqrt) => each(a(), out, math::rsqrt),
        Op::FloatBinary(Binary::Add) => zip(a(), b(), out, |a, b| a + b),
        Op::FloatBinary(Binary::Sub) => zip(a(), b(), out, |a, b| a - b),
        Op::FloatBinary(Binary::Mul) => zip(a(), b(), out, |a, b| a * b),
        Op::FloatBinary(Binary::Div) => zip(a(), b(), out, |a, b| a / b),
        Op::FloatBinary(Binary::Rem) => zip(a(), b(), out, |a, b| a % b),
        Op::FloatBinary(Binary::Min) => zip(a(), b(), out, f32::min),
        Op::FloatBinary(Binary::Max) => zip(a(), b(), out, f32::max),
        Op::SelectFloat => select(line.mask(x, registers), b(), line.float(z, registers), out),
        Op::EachFloat(scalar) => line.each(scalar, out, bits_float)?,
        _ => {}
    }
    Ok(())
}

/// Integers along a line wrap: nothing is addressed with them here.
#[inline(always)]
fn line_int<'a>(line: &Line<'a>, step: &Step, registers: &'a Registers, out: &mut [i64]) -> Result<(), Fault> {
    let [x, y, z] = step.args;
    let a = || line.int(x, registers);
    let b = || line.int(y, registers);
    match &step.op {
        Op::Index => out.iter_mut().zip(0..).for_each(|(o, i)| *o = i),
        Op::IntBinary(Binary::Add) => zip(a(), b(), out, i64::wrapping_add),
        Op::IntBinary(Binary::Sub) => zip(a(), b(), out, i64::wrapping_sub),
        Op::IntBinary(Binary::Mul) => zip(a(), b(), out, i64::wrapping_mul),
        Op::IntBinary(Binary::Min) => zip(a(), b(), out, i64::min),
        Op::IntBinary(Binary::Max) => zip(a(), b(), out, i64::max),
        Op::IntBinary(op @ (Binary::Div | Binary::Rem)) => divide(*op, a(), b(), out)?,
        Op::SelectInt => select(line.mask(x, registers), b(), line.int(z, registers), out),
        Op::EachInt(scalar) => line.each(scalar, out, |n| n)?,
        _ => {}
    }
    Ok(())
}

fn divide(op: Binary, a: Source<'_, i64>, b: Source<'_, i64>, out: &mut [i64]) -> Result<(), Fault> {
    let zero = match b {
        Source::One(b) => b == 0,
        Source::Many(b) => b.contains(&0),
    };
    if zero {
        return Err(Fault::DivideByZero);
    }
    match op {
        Binary::Div => zip(a, b, out, i64::wrapping_div),
        _ => zip(a, b, out, i64::wrapping_rem),
    }
    Ok(())
}

#[inline(always)]
fn line_mask<'a>(line: &Line<'a>, step: &Step, registers: &'a Registers, out: &mut [u32]) -> Result<(), Fault> {
    let [x, y, z] = step.args;
    let float = |o| line.float(o, registers);
    let int = |o| line.int(o, registers);
    let mask = |o| line.mask(o, registers);
    match &step.op {
        Op::FloatCompare(Binary::Lt) => zip(float(x), float(y), out, |a, b| u32::from(a < b)),
        Op::FloatCompare(Binary::Le) => zip(float(x), float(y), out, |a, b| u32::from(a <= b)),
        Op::FloatCompare(_) => zip(float(x), float(y), out, |a, b| u32::from(a == b)),
        Op::IntCompare(Binary::Lt) => zip(int(x), int(y), out, |a, b| u32::from(a < b)),
        Op::IntCompare(Binary::Le) => zip(int(x), int(y), out, |a, b| u32::from(a <= b)),
        Op::IntCompare(_) => zip(int(x), int(y), out, |a, b| u32::from(a == b)),
        Op::And => zip(mask(x), mask(y), out, |a, b| a & b),
        Op::SelectBool => select(mask(x), mask(y), mask(z), out),
        Op::EachBool(scalar) => line.each(scalar, out, |n| n as u32)?,
        _ => {}
    }
    Ok(())
}

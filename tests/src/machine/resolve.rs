//! Names to slots, and the C type of every expression.

use super::Arg;
use super::global::Memory;
use mlafuse_codegen::thread::{self, Binary, Intrinsic, ParamTy, ThreadProgram, Ty};
use mlafuse_codegen::tile::Axis;
use mlafuse_tensor::DType;

/// A program ready to run.
#[derive(Debug)]
pub(super) struct Code<'a> {
    pub program: &'a ThreadProgram,
    pub body: Vec<Stmt<'a>>,
    pub pointers: Vec<Pointer>,
    /// Values of the scalar slots before the first statement: those of the parameters.
    pub scalars: Vec<i64>,
    pub slots: usize,
    pub arrays: Vec<Array>,
}

/// A pointer parameter.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    pub name: String,
    pub buffer: usize,
    pub dtype: DType,
    pub written: bool,
}

/// A register array.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub name: String,
    pub float: bool,
    pub len: usize,
}

#[derive(Debug)]
pub(super) struct Expr {
    pub ty: Ty,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Int(i64),
    Float(f32),
    Slot(usize),
    Thread,
    Block(Axis),
    Shared,
    Register(usize, Box<Expr>),
    Array(usize),
    Pointer(usize),
    Global(usize, Box<Expr>),
    Cast(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    Call(Intrinsic, Vec<Expr>),
}

#[derive(Debug)]
pub(super) struct Stmt<'a> {
    pub source: &'a thread::Stmt,
    pub act: Act<'a>,
}

#[derive(Debug)]
pub(super) enum Act<'a> {
    Nothing,
    Let(usize, Ty, Expr),
    Array(usize),
    Set(usize, Expr, Expr),
    Store(usize, Expr, Expr),
    For {
        slot: usize,
        start: Expr,
        end: Expr,
        body: Vec<Stmt<'a>>,
    },
    If {
        cond: Expr,
        body: Vec<Stmt<'a>>,
    },
    Scope(Vec<Stmt<'a>>),
    Do(Intrinsic, Vec<Expr>),
    Return,
}

#[derive(Clone, Copy)]
enum Bound {
    Slot(usize, Ty),
    Array(usize),
    Pointer(usize),
}

struct Resolver<'a> {
    names: Vec<(&'a str, Bound)>,
    slots: usize,
    arrays: Vec<Array>,
    pointers: Vec<Pointer>,
}

/// `program` with its names resolved and `args` bound.
pub(super) fn resolve<'a>(program: &'a ThreadProgram, args: &[Arg], memory: &Memory) -> Result<Code<'a>, String> {
    if args.len() != program.params.len() {
        return Err(format!(
            "{} arguments for {} parameters",
            args.len(),
            program.params.len()
        ));
    }
    if program.threads == 0 || !program.threads.is_multiple_of(32) {
        return Err(format!("{} threads are not whole warps", program.threads));
    }
    let mut resolver = Resolver {
        names: Vec::new(),
        slots: 0,
        arrays: Vec::new(),
        pointers: Vec::new(),
    };
    let mut scalars = Vec::new();
    for (param, arg) in program.params.iter().zip(args) {
        let bound = match (param.ty, *arg) {
            (ParamTy::Pointer { dtype, written }, Arg::Buffer(buffer)) if buffer < memory.buffers.len() => {
                resolver.pointers.push(Pointer {
                    name: param.name.clone(),
                    buffer,
                    dtype,
                    written,
                });
                Bound::Pointer(resolver.pointers.len() - 1)
            }
            (ParamTy::I32, Arg::Int(value)) if i32::try_from(value).is_ok() => {
                scalars.push(value);
                resolver.slot(Ty::I32)
            }
            (ParamTy::I64, Arg::Int(value)) => {
                scalars.push(value);
                resolver.slot(Ty::I64)
            }
            (ty, arg) => return Err(format!("parameter `{}`, {ty}, is bound to {arg:?}", param.name)),
        };
        resolver.names.push((&param.name, bound));
    }
    let body = resolver.body(&program.body)?;
    let Resolver {
        slots,
        arrays,
        pointers,
        ..
    } = resolver;
    Ok(Code {
        program,
        body,
        pointers,
        scalars,
        slots,
        arrays,
    })
}

impl<'a> Resolver<'a> {
    fn slot(&mut self, ty: Ty) -> Bound {
        self.slots += 1;
        Bound::Slot(self.slots - 1, ty)
    }

    fn find(&self, name: &str) -> Result<Bound, String> {
        let found = self.names.iter().rev().find(|(n, _)| *n == name);
        found
            .map(|(_, bound)| *bound)
            .ok_or_else(|| format!("`{name}` is not bound"))
    }

    fn array(&self, name: &str) -> Result<usize, String> {
        match self.find(name)? {
            Bound::Array(index) => Ok(index),
            _ => Err(format!("`{name}` is no register array")),
        }
    }

    fn pointer(&self, name: &str) -> Result<usize, String> {
        match self.find(name)? {
            Bound::Pointer(index) => Ok(index),
            _ => Err(format!("`{name}` is no pointer")),
        }
    }

    fn body(&mut self, body: &'a [thread::Stmt]) -> Result<Vec<Stmt<'a>>, String> {
        let outer = self.names.len();
        let stmts = body
            .iter()
            .map(|source| {
                Ok(Stmt {
                    source,
                    act: self.stmt(source)?,
                })
            })
            .collect();
        self.names.truncate(outer);
        stmts
    }

    fn stmt(&mut self, stmt: &'a thread::Stmt) -> Result<Act<'a>, String> {
        use thread::Stmt as S;
        Ok(match stmt {
            S::Comment(_) => Act::Nothing,
            S::Let { ty, name, value } => {
                let value = self.expr(value)?;
                let bound = self.slot(*ty);
                self.names.push((name, bound));
                Act::Let(self.slots - 1, *ty, value)
            }
            S::Array { ty, name, len } => {
                self.arrays.push(Array {
                    name: name.clone(),
                    float: *ty == Ty::F32,
                    len: *len,
                });
                let index = self.arrays.len() - 1;
                self.names.push((name, Bound::Array(index)));
                Act::Array(index)
            }
            S::Set { name, at, value } => Act::Set(self.array(name)?, self.expr(at)?, self.expr(value)?),
            S::StoreGlobal { pointer, index, value } => {
                Act::Store(self.pointer(pointer)?, self.expr(index)?, self.expr(value)?)
            }
            S::For {
                var, start, end, body, ..
            } => {
                let (start, end) = (self.expr(start)?, self.expr(end)?);
                let bound = self.slot(Ty::I32);
                let slot = self.slots - 1;
                self.names.push((var, bound));
                let body = self.body(body)?;
                self.names.pop();
                Act::For { slot, start, end, body }
            }
            S::If { cond, body } => Act::If {
                cond: self.expr(cond)?,
                body: self.body(body)?,
            },
            S::Scope { body } => Act::Scope(self.body(body)?),
            S::Do { intrinsic, args } => Act::Do(*intrinsic, self.exprs(args)?),
            S::Return => Act::Return,
        })
    }

    fn exprs(&self, exprs: &[thread::Expr]) -> Result<Vec<Expr>, String> {
        exprs.iter().map(|e| self.expr(e)).collect()
    }

    fn boxed(&self, e: &thread::Expr) -> Result<Box<Expr>, String> {
        Ok(Box::new(self.expr(e)?))
    }

    fn expr(&self, e: &thread::Expr) -> Result<Expr, String> {
        use thread::Expr as E;
        let (ty, kind) = match e {
            E::Int(n) => (if i32::try_from(*n).is_ok() { Ty::I32 } else { Ty::I64 }, Kind::Int(*n)),
            E::Float(x) => (Ty::F32, Kind::Float(*x)),
            E::Name(name) => match self.find(name)? {
                Bound::Slot(slot, ty) => (ty, Kind::Slot(slot)),
                Bound::Pointer(index) => (Ty::I64, Kind::Pointer(index)),
                Bound::Array(_) => return Err(format!("register array `{name}` used as a value")),
            },
            E::Thread => (Ty::I32, Kind::Thread),
            E::Block(axis) => (Ty::I32, Kind::Block(*axis)),
            E::Shared => (Ty::U32, Kind::Shared),
            E::Register(name, at) => {
                let index = self.array(name)?;
                let ty = if self.arrays[index].float { Ty::F32 } else { Ty::U32 };
                (ty, Kind::Register(index, self.boxed(at)?))
            }
            E::Array(name) => (Ty::U32, Kind::Array(self.array(name)?)),
            E::Global(name, at) => {
                let pointer = self.pointer(name)?;
                (
                    element(self.pointers[pointer].dtype)?,
                    Kind::Global(pointer, self.boxed(at)?),
                )
            }
            E::Cast(ty, a) => (*ty, Kind::Cast(self.boxed(a)?)),
            E::Binary(op, a, b) => {
                let (a, b) = (self.boxed(a)?, self.boxed(b)?);
                let ty = match op {
                    Binary::Lt | Binary::Le | Binary::Eq | Binary::And => Ty::Bool,
                    _ => common(a.ty, b.ty),
                };
                (ty, Kind::Binary(*op, a, b))
            }
            E::Select(cond, a, b) => {
                let (cond, a, b) = (self.boxed(cond)?, self.boxed(a)?, self.boxed(b)?);
                (common(a.ty, b.ty), Kind::Select(cond, a, b))
            }
            E::Call(intrinsic, args) => (result(*intrinsic), Kind::Call(*intrinsic, self.exprs(args)?)),
        };
        Ok(Expr { ty, kind })
    }
}

/// What a load of an element gives in C: 16-bit floats travel as their bits.
fn element(dtype: DType) -> Result<Ty, String> {
    match dtype {
        DType::F32 => Ok(Ty::F32),
        DType::BF16 | DType::F16 | DType::I32 => Ok(Ty::I32),
        DType::I64 => Ok(Ty::I64),
        DType::F64 => Err("kernels of f64 are not modelled".into()),
    }
}

/// C's usual arithmetic conversions.
fn common(a: Ty, b: Ty) -> Ty {
    [Ty::F32, Ty::I64, Ty::U32]
        .into_iter()
        .find(|&ty| a == ty || b == ty)
        .unwrap_or(Ty::I32)
}

fn result(intrinsic: Intrinsic) -> Ty {
    use Intrinsic::*;
    match intrinsic {
        Exp2 | Log2 | Rsqrt | ShuffleXor | ToFloat(_) | LoadSharedF32 | FromFloat(DType::F32) => Ty::F32,
        Pack2(_) => Ty::U32,
        _ => Ty::I32,
    }
}

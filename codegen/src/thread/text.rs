//! The text dump of a thread program.

use std::fmt::{self, Display, Formatter};

use super::{Binary, Expr, ParamTy, Stmt, ThreadProgram, Ty};
use crate::tile::Axis;

impl Display for ThreadProgram {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "thread_program {}", self.name)?;
        self.doc.iter().try_for_each(|line| writeln!(f, "  # {line}"))?;
        for param in &self.params {
            writeln!(f, "  param {}: {}", param.name, param.ty)?;
        }
        writeln!(f, "  threads {}, shared {} bytes", self.threads, self.shared_bytes)?;
        body(f, &self.body, 1)
    }
}

impl Display for ParamTy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ParamTy::Pointer { dtype, written: false } => write!(f, "pointer to {dtype}"),
            ParamTy::Pointer { dtype, written: true } => write!(f, "pointer to {dtype}, written"),
            ParamTy::I32 => write!(f, "i32"),
            ParamTy::I64 => write!(f, "i64"),
        }
    }
}

impl Display for Ty {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ty::I32 => "i32",
            Ty::I64 => "i64",
            Ty::U32 => "u32",
            Ty::F32 => "f32",
            Ty::Bool => "bool",
        })
    }
}

fn body(f: &mut Formatter<'_>, stmts: &[Stmt], depth: usize) -> fmt::Result {
    stmts.iter().try_for_each(|stmt| statement(f, stmt, depth))
}

fn block(f: &mut Formatter<'_>, head: &str, stmts: &[Stmt], depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    writeln!(f, "{pad}{head}{{")?;
    body(f, stmts, depth + 1)?;
    writeln!(f, "{pad}}}")
}

fn statement(f: &mut Formatter<'_>, stmt: &Stmt, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    match stmt {
        Stmt::Comment(words) => writeln!(f, "{pad}# {words}"),
        Stmt::Let { ty, name, value } => writeln!(f, "{pad}let {name}: {ty} = {value}"),
        Stmt::Array { ty, name, len } => writeln!(f, "{pad}registers {name}: {ty}[{len}]"),
        Stmt::Set { name, at, value } => writeln!(f, "{pad}{name}[{at}] = {value}"),
        Stmt::StoreGlobal { pointer, index, value } => writeln!(f, "{pad}global {pointer}[{index}] = {value}"),
        Stmt::For {
            var,
            start,
            end,
            unroll,
            body,
        } => {
            let unroll = match unroll {
                0 => " unrolled".to_string(),
                1 => String::new(),
                n => format!(" unrolled {n}"),
            };
            block(f, &format!("for {var} in {start}..{end}{unroll} "), body, depth)
        }
        Stmt::If { cond, body } => block(f, &format!("if {cond} "), body, depth),
        Stmt::Scope { body } => block(f, "", body, depth),
        Stmt::Do { intrinsic, args } => {
            let args: Vec<String> = args.iter().map(Expr::to_string).collect();
            let line = format!("{pad}{intrinsic:?} {}", args.join(", "));
            writeln!(f, "{}", line.trim_end())
        }
        Stmt::Return => writeln!(f, "{pad}return"),
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        expr(f, self, 0)
    }
}

fn expr(f: &mut Formatter<'_>, e: &Expr, outer: u8) -> fmt::Result {
    match e {
        Expr::Int(n) => write!(f, "{n}"),
        Expr::Float(x) => write!(f, "{x:?}"),
        Expr::Name(name) | Expr::Array(name) => f.write_str(name),
        Expr::Thread => f.write_str("thread"),
        Expr::Block(Axis::X) => f.write_str("block.x"),
        Expr::Block(Axis::Y) => f.write_str("block.y"),
        Expr::Block(Axis::Z) => f.write_str("block.z"),
        Expr::Shared => f.write_str("shared_memory"),
        Expr::Register(name, at) => write!(f, "{name}[{at}]"),
        Expr::Global(name, at) => write!(f, "global {name}[{at}]"),
        Expr::Cast(ty, a) => write!(f, "{ty}({a})"),
        Expr::Binary(op, a, b) => match op.infix() {
            Some((symbol, binds)) => {
                let (open, close) = if binds < outer { ("(", ")") } else { ("", "") };
                f.write_str(open)?;
                expr(f, a, binds)?;
                write!(f, " {symbol} ")?;
                expr(f, b, binds + 1)?;
                f.write_str(close)
            }
            None => {
                let name = if matches!(op, Binary::Min | Binary::FMin) {
                    "min"
                } else {
                    "max"
                };
                write!(f, "{name}({a}, {b})")
            }
        },
        Expr::Select(cond, a, b) => write!(f, "select({cond}, {a}, {b})"),
        Expr::Call(intrinsic, args) => {
            write!(f, "{intrinsic:?}(")?;
            for (i, arg) in args.iter().enumerate() {
                write!(f, "{}{arg}", if i > 0 { ", " } else { "" })?;
            }
            f.write_str(")")
        }
    }
}

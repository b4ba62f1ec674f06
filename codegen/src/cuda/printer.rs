//! Prints thread programs as CUDA C++.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::intrinsics;
use crate::thread::{Binary, Expr, Intrinsic, ParamTy, Stmt, ThreadProgram, Ty};
use crate::tile::Axis;

/// The CUDA C++ source of `program`: the same bytes for the same program.
pub fn print(program: &ThreadProgram) -> String {
    let mut out = String::new();
    for line in &program.doc {
        out.push_str(format!("// {line}").trim_end());
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "// {} threads, {} bytes of dynamic shared memory",
        program.threads, program.shared_bytes
    );
    out.push_str("typedef unsigned short u16;\ntypedef unsigned int u32;\ntypedef long long i64;\n\n");
    for definition in definitions(program).values() {
        out.push_str(definition);
    }
    let params: Vec<String> = program
        .params
        .iter()
        .map(|p| format!("    {} {}", param_type(p.ty), p.name))
        .collect();
    let _ = writeln!(
        out,
        "\nextern \"C\" __global__ void __launch_bounds__({}, 1)",
        program.threads
    );
    let _ = writeln!(out, "{}(\n{})\n{{", program.name, params.join(",\n"));
    if program.shared_bytes > 0 {
        out.push_str("    extern __shared__ __align__(128) unsigned char shared_memory[];\n");
    }
    Printer {
        out: &mut out,
        depth: 1,
    }
    .body(&program.body);
    out.push_str("}\n");
    out
}

/// The device functions that the program calls, in the table's order.
fn definitions(program: &ThreadProgram) -> BTreeMap<Intrinsic, String> {
    let mut used = BTreeMap::new();
    let mut names = Vec::new();
    let mut add = |intrinsic: Intrinsic| {
        // A template serves several intrinsics.
        let definition = intrinsics::definition(intrinsic);
        if !definition.is_empty() && !names.contains(&definition) {
            names.push(definition.clone());
            used.insert(intrinsic, definition);
        }
    };
    program.walk(&mut |stmt| {
        if let Stmt::Do { intrinsic, .. } = stmt {
            add(*intrinsic);
        }
        expressions(stmt).into_iter().for_each(|e| {
            e.walk(&mut |e| {
                if let Expr::Call(intrinsic, _) = e {
                    add(*intrinsic);
                }
            });
        });
    });
    used
}

/// The expressions of a statement itself.
fn expressions(stmt: &Stmt) -> Vec<&Expr> {
    match stmt {
        Stmt::Let { value, .. } => vec![value],
        Stmt::Set { at, value, .. } => vec![at, value],
        Stmt::StoreGlobal { index, value, .. } => vec![index, value],
        Stmt::For { start, end, .. } => vec![start, end],
        Stmt::If { cond, .. } => vec![cond],
        Stmt::Do { args, .. } => args.iter().collect(),
        Stmt::Comment(_) | Stmt::Array { .. } | Stmt::Scope { .. } | Stmt::Return => vec![],
    }
}

fn param_type(ty: ParamTy) -> String {
    match ty {
        ParamTy::Pointer { dtype, written: true } => format!("{}* __restrict__", intrinsics::element(dtype)),
        ParamTy::Pointer { dtype, written: false } => format!("const {}* __restrict__", intrinsics::element(dtype)),
        ParamTy::I32 => "int".into(),
        ParamTy::I64 => "i64".into(),
    }
}

fn c_type(ty: Ty) -> &'static str {
    match ty {
        Ty::I32 => "int",
        Ty::I64 => "i64",
        Ty::U32 => "u32",
        Ty::F32 => "float",
        Ty::Bool => "bool",
    }
}

struct Printer<'a> {
    out: &'a mut String,
    depth: usize,
}

impl Printer<'_> {
    fn body(&mut self, stmts: &[Stmt]) {
        stmts.iter().for_each(|stmt| self.statement(stmt));
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}{text}", "    ".repeat(self.depth));
    }

    fn block(&mut self, head: &str, stmts: &[Stmt]) {
        self.line(&format!("{head}{{"));
        self.depth += 1;
        self.body(stmts);
        self.depth -= 1;
        self.line("}");
    }

    fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Comment(words) => self.line(&format!("// {words}")),
            Stmt::Let { ty, name, value } => {
                self.line(&format!("const {} {name} = {};", c_type(*ty), text(value)));
            }
            Stmt::Array { ty, name, len } => self.line(&format!("{} {name}[{len}];", c_type(*ty))),
            Stmt::Set { name, at, value } => self.line(&format!("{name}[{}] = {};", text(at), text(value))),
            Stmt::StoreGlobal { pointer, index, value } => {
                self.line(&format!("{pointer}[{}] = {};", text(index), text(value)));
            }
            Stmt::For {
                var,
                start,
                end,
                unroll,
                body,
            } => {
                match unroll {
                    0 => self.line("#pragma unroll"),
                    n => self.line(&format!("#pragma unroll {n}")),
                }
                self.block(
                    &format!("for (int {var} = {}; {var} < {}; ++{var}) ", text(start), text(end)),
                    body,
                );
            }
            Stmt::If { cond, body } => self.block(&format!("if ({}) ", text(cond)), body),
            Stmt::Scope { body } => self.block("", body),
            Stmt::Do { intrinsic, args } => self.line(&format!("{};", call(*intrinsic, args))),
            Stmt::Return => self.line("return;"),
        }
    }
}

fn call(intrinsic: Intrinsic, args: &[Expr]) -> String {
    let args: Vec<String> = args.iter().map(text).collect();
    format!("{}({})", intrinsics::name(intrinsic), args.join(", "))
}

fn text(e: &Expr) -> String {
    expr(e, 0)
}

/// `e` in parentheses where it binds less tightly than `outer`. Bit operators among others get them always, as compilers
/// and readers like it.
fn expr(e: &Expr, outer: u8) -> String {
    match e {
        Expr::Int(n) if i32::try_from(*n).is_err() => format!("{n}LL"),
        Expr::Int(n) => n.to_string(),
        Expr::Float(x) => float(*x),
        Expr::Name(name) | Expr::Array(name) => name.clone(),
        Expr::Thread => "(int)threadIdx.x".into(),
        Expr::Block(Axis::X) => "(int)blockIdx.x".into(),
        Expr::Block(Axis::Y) => "(int)blockIdx.y".into(),
        Expr::Block(Axis::Z) => "(int)blockIdx.z".into(),
        Expr::Shared => "(u32)__cvta_generic_to_shared(shared_memory)".into(),
        Expr::Register(name, at) | Expr::Global(name, at) => format!("{name}[{}]", text(at)),
        Expr::Cast(ty, a) => format!("({}){}", c_type(*ty), expr(a, 11)),
        Expr::Binary(op, a, b) => match op.infix() {
            Some((symbol, binds)) => {
                let inner = if binds <= 8 && binds > 3 { 9 } else { binds };
                let joined = format!("{} {symbol} {}", expr(a, inner), expr(b, inner.max(binds + 1)));
                if binds < outer { format!("({joined})") } else { joined }
            }
            None => {
                let name = match op {
                    Binary::Min => "min",
                    Binary::Max => "max",
                    Binary::FMin => "fminf",
                    _ => "fmaxf",
                };
                format!("{name}({}, {})", text(a), text(b))
            }
        },
        Expr::Select(cond, a, b) => {
            let joined = format!("{} ? {} : {}", expr(cond, 3), expr(a, 3), expr(b, 3));
            if outer > 0 { format!("({joined})") } else { joined }
        }
        Expr::Call(intrinsic, args) => call(*intrinsic, args),
    }
}

fn float(x: f32) -> String {
    match x {
        f32::INFINITY => "__int_as_float(0x7f800000)".into(),
        f32::NEG_INFINITY => "__int_as_float(0xff800000)".into(),
        x if x.is_nan() => "__int_as_float(0x7fc00000)".into(),
        x => format!("{x:?}f"),
    }
}

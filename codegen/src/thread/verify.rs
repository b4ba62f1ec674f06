//! What every thread program must satisfy before it is printed.

use super::{Expr, Intrinsic, Stmt, ThreadProgram};

/// Why a thread program is malformed: a fault of the lowering, never of the user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("thread program `{program}`: {message} in `{statement}`")]
pub struct ThreadError {
    /// The program.
    pub program: String,
    /// The statement, as text.
    pub statement: String,
    /// What is wrong.
    pub message: String,
}

/// The names visible at a point, innermost last: scalars have no length.
type Names = Vec<(String, Option<usize>)>;

/// Checks that names are bound before use and not twice in a scope, that registers lie in their arrays where that is
/// known, and that intrinsics have the operands they want.
pub fn verify(program: &ThreadProgram) -> Result<(), ThreadError> {
    let mut names: Names = program.params.iter().map(|p| (p.name.clone(), None)).collect();
    body(&program.body, &mut names).map_err(|(message, stmt)| ThreadError {
        program: program.name.clone(),
        statement: head(stmt),
        message,
    })
}

/// The statement without the bodies in it.
fn head(stmt: &Stmt) -> String {
    match stmt {
        Stmt::For { var, start, end, .. } => format!("for {var} in {start}..{end}"),
        Stmt::If { cond, .. } => format!("if {cond}"),
        other => format!("{other:?}"),
    }
}

fn body<'a>(stmts: &'a [Stmt], names: &mut Names) -> Result<(), (String, &'a Stmt)> {
    let outer = names.len();
    for stmt in stmts {
        statement(stmt, names, outer)?;
    }
    names.truncate(outer);
    Ok(())
}

fn statement<'a>(stmt: &'a Stmt, names: &mut Names, scope: usize) -> Result<(), (String, &'a Stmt)> {
    let fail = |message: String| (message, stmt);
    let mut used: Vec<&Expr> = Vec::new();
    match stmt {
        Stmt::Comment(_) | Stmt::Return => {}
        Stmt::Let { value, .. } => used.push(value),
        Stmt::Array { len, .. } if *len == 0 => return Err(fail("an array of no registers".into())),
        Stmt::Array { .. } | Stmt::Scope { .. } => {}
        Stmt::Set { at, value, .. } => used.extend([at, value]),
        Stmt::StoreGlobal { index, value, .. } => used.extend([index, value]),
        Stmt::For { start, end, .. } => used.extend([start, end]),
        Stmt::If { cond, .. } => used.push(cond),
        Stmt::Do { args, .. } => used.extend(args),
    }
    used.iter().try_for_each(|e| expression(e, names)).map_err(fail)?;
    match stmt {
        Stmt::Let { name, value, .. } if mentions(value, name) => Err(fail(format!("`{name}` is bound to itself"))),
        Stmt::Let { name, .. } => bind(name, None, names, scope).map_err(fail),
        Stmt::Array { name, len, .. } => bind(name, Some(*len), names, scope).map_err(fail),
        Stmt::Set { name, at, .. } => register(name, at, names).map_err(fail),
        Stmt::StoreGlobal { pointer, .. } => find(pointer, names).map(|_| ()).map_err(fail),
        Stmt::Do { intrinsic, args } => operands(*intrinsic, args.len()).map_err(fail),
        Stmt::For { var, body: inner, .. } => {
            let before = names.len();
            names.push((var.clone(), None));
            let result = body(inner, names);
            names.truncate(before);
            result
        }
        Stmt::If { body: inner, .. } | Stmt::Scope { body: inner } => body(inner, names),
        Stmt::Comment(_) | Stmt::Return => Ok(()),
    }
}

/// In C a name is visible in its own initialiser, so that one that hides another cannot be made from it.
fn mentions(e: &Expr, name: &str) -> bool {
    let mut found = false;
    e.walk(&mut |e| found |= matches!(e, Expr::Name(n) if n == name));
    found
}

fn bind(name: &str, len: Option<usize>, names: &mut Names, scope: usize) -> Result<(), String> {
    if names[scope..].iter().any(|(n, _)| n == name) {
        return Err(format!("`{name}` is bound twice"));
    }
    names.push((name.to_string(), len));
    Ok(())
}

fn find(name: &str, names: &Names) -> Result<Option<usize>, String> {
    let found = names.iter().rev().find(|(n, _)| n == name);
    found
        .map(|(_, len)| *len)
        .ok_or_else(|| format!("`{name}` is not bound"))
}

fn register(name: &str, at: &Expr, names: &Names) -> Result<(), String> {
    match (find(name, names)?, at) {
        (None, _) => Err(format!("`{name}` is no register array")),
        (Some(len), Expr::Int(n)) if *n < 0 || *n as usize >= len => {
            Err(format!("register {n} of `{name}`, which has {len}"))
        }
        _ => Ok(()),
    }
}

fn expression(e: &Expr, names: &Names) -> Result<(), String> {
    let mut result = Ok(());
    e.walk(&mut |e| {
        let found = match e {
            Expr::Name(name) => match find(name, names) {
                Ok(Some(_)) => Err(format!("`{name}` is a register array, not a value")),
                other => other.map(|_| ()),
            },
            Expr::Array(name) => find(name, names).and_then(|len| match len {
                Some(_) => Ok(()),
                None => Err(format!("`{name}` is no register array")),
            }),
            Expr::Register(name, at) => register(name, at, names),
            Expr::Global(name, _) => find(name, names).map(|_| ()),
            Expr::Call(intrinsic, args) => operands(*intrinsic, args.len()),
            _ => Ok(()),
        };
        if result.is_ok() {
            result = found;
        }
    });
    result
}

fn operands(intrinsic: Intrinsic, found: usize) -> Result<(), String> {
    use Intrinsic::*;
    let wanted = match intrinsic {
        CopyCommit | CopyWait(_) | Barrier => 0,
        Exp2 | Log2 | Rsqrt | WarpSum | ToFloat(_) | FromFloat(_) | LoadSharedF32 | LoadShared16 => 1,
        ShuffleXor | Pack2(_) | StoreSharedF32 | StoreShared32 | StoreShared16 => 2,
        StoreGlobal16x2 | LoadMatrix4 | LoadMatrix4Transposed | LoadMatrix2 | LoadMatrix2Transposed => 3,
        LoadGlobalF32x2 | StoreGlobalF32x2 | StoreGlobal16x4 | CopyAsync(..) => 4,
        Mma(_) => 6,
    };
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{intrinsic:?} wants {wanted} operands and has {found}")),
    }
}

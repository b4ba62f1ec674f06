//! Kernels with a part taken away, which a check must notice.

use mlafuse_codegen::thread::{Stmt, ThreadProgram};

/// `program` without the statement that comes `index`-th among those that do something, and what that was; `None` where
/// there are not so many.
pub fn without(program: &ThreadProgram, index: usize) -> Option<(ThreadProgram, String)> {
    fn remove(body: &mut Vec<Stmt>, left: &mut usize) -> Option<Stmt> {
        for at in 0..body.len() {
            match &mut body[at] {
                Stmt::For { body, .. } | Stmt::If { body, .. } | Stmt::Scope { body } => {
                    let found = remove(body, left);
                    if found.is_some() {
                        return found;
                    }
                }
                Stmt::Do { .. } | Stmt::Set { .. } | Stmt::StoreGlobal { .. } | Stmt::Return => match *left {
                    0 => return Some(body.remove(at)),
                    _ => *left -= 1,
                },
                Stmt::Comment(_) | Stmt::Let { .. } | Stmt::Array { .. } => {}
            }
        }
        None
    }
    let mut mutant = program.clone();
    let mut left = index;
    remove(&mut mutant.body, &mut left).map(|stmt| (mutant, format!("{stmt:?}")))
}

//! Tests of the parser: constructs one by one, real files, errors and limits, mutations.

mod declarations;
mod errors;
mod instructions;
mod mutations;
mod real_files;

use super::{ParseError, parse};
use crate::ast::{Function, Inst, Item, Module, Operand, Stmt, Variable};

const HEADER: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// Parses module-level text after a header of three lines.
fn try_module(text: &str) -> Result<Module, ParseError> {
    parse(&format!("{HEADER}{text}"))
}

fn module(text: &str) -> Module {
    try_module(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The last function of a module.
fn function(text: &str) -> Function {
    let mut functions = module(text).items.into_iter().filter_map(|item| match item {
        Item::Function(function) => Some(function),
        Item::Variable(_) => None,
    });
    functions.next_back().expect("a function")
}

/// The last variable of a module.
fn variable(text: &str) -> Variable {
    match module(text).items.pop() {
        Some(Item::Variable(variable)) => variable,
        other => panic!("expected a variable, found {other:?}"),
    }
}

/// The statements of a kernel's body.
fn body(text: &str) -> Vec<Stmt> {
    function(&format!(".entry k() {{\n{text}\n}}")).body.expect("a body")
}

/// The only instruction of a body.
fn inst(text: &str) -> Inst {
    let mut insts = body(text).into_iter().filter_map(|statement| match statement {
        Stmt::Inst(inst) => Some(inst),
        _ => None,
    });
    insts.next_back().expect("an instruction")
}

fn register(name: &str) -> Operand {
    Operand::Register(name.to_owned())
}

fn symbol(name: &str) -> Operand {
    Operand::Symbol(name.to_owned())
}

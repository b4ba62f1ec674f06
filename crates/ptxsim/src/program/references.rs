//! Which of a module's variables a function uses.
//!
//! Shared memory is laid out for a kernel with what it calls, and not for the module's other kernels. Functions whose address
//! stands in the initialiser of a variable can be called by whoever reads it.

use std::collections::HashMap;

use super::DecodeError;
use super::decoder::Decoder;
use crate::ast::{self, AddressBase, Init, InitScalar, Item, Module, Operand, Stmt};

/// The variables that stand outside of functions, by name.
pub(super) fn module_variables(module: &Module) -> HashMap<&str, &ast::Variable> {
    let mut variables = HashMap::new();
    for item in &module.items {
        if let Item::Variable(variable) = item {
            variables.insert(variable.name.as_str(), variable);
        }
    }
    variables
}

impl<'a> Decoder<'a> {
    /// Makes the module's variables known that stand in a function's text, with what their initialisers refer to.
    pub(super) fn refer(&mut self, body: &'a [Stmt]) -> Result<(), DecodeError> {
        let mut names = Vec::new();
        in_statements(body, &mut names);
        while let Some(name) = names.pop() {
            let Some(variable) = self.module_variables.remove(name) else {
                continue;
            };
            if variable.space == ast::Space::Shared {
                self.layout.add(variable)?;
            }
            for symbol in symbols(variable) {
                let is_variable = self.layout.is_known(symbol) || self.module_variables.contains_key(symbol);
                if !is_variable {
                    self.line = variable.line;
                    self.function_id(symbol)?;
                }
                names.push(symbol);
            }
        }
        Ok(())
    }
}

/// The symbols whose addresses stand in a variable's initialiser.
fn symbols(variable: &ast::Variable) -> impl Iterator<Item = &str> {
    let scalars = match &variable.init {
        Some(Init::Scalars(scalars)) => scalars.as_slice(),
        None => &[],
    };
    scalars.iter().filter_map(|scalar| match scalar {
        InitScalar::Symbol { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn in_statements<'a>(statements: &'a [Stmt], names: &mut Vec<&'a str>) {
    for statement in statements {
        match statement {
            Stmt::Block(inner) => in_statements(inner, names),
            Stmt::Inst(inst) => in_operands(&inst.operands, names),
            Stmt::Variable(variable) => names.extend(symbols(variable)),
            _ => {}
        }
    }
}

fn in_operands<'a>(operands: &'a [Operand], names: &mut Vec<&'a str>) {
    for operand in operands {
        match operand {
            Operand::Symbol(name) | Operand::SymbolOffset { name, .. } => names.push(name),
            Operand::Address {
                base: AddressBase::Name(name),
                ..
            } => names.push(name),
            Operand::Vector(inner) => in_operands(inner, names),
            Operand::Call { params, .. } => in_operands(params, names),
            _ => {}
        }
    }
}

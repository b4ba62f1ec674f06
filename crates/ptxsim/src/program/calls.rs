//! Calls of device functions, and where their parameters lie.

use super::decoder::{Decoder, functions};
use super::op::{Call, CallTarget, Op, Space};
use super::scope::{Entry, Scope, words};
use super::{DecodeError, Function, Place};
use crate::ast::{self, Operand, Type};

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    let [
        Operand::Call {
            returns,
            target,
            params,
            ..
        },
    ] = inst.operands.as_slice()
    else {
        return Ok(None);
    };
    if let Operand::Symbol(name) = &**target
        && let Some(op) = decoder.host_function(name, returns)?
    {
        return Ok(Some(op));
    }
    let target = match &**target {
        Operand::Symbol(name) => CallTarget::Direct(decoder.function_id(name)?),
        other => CallTarget::Indirect(decoder.source(other, Type::B64)?),
    };
    let (formal_params, formal_returns) = match target {
        CallTarget::Direct(id) => {
            let callee = &decoder.kernel.functions[id as usize];
            if callee.params.len() != params.len() || callee.returns.len() != returns.len() {
                return Err(decoder.misfit(id));
            }
            (callee.params.clone(), callee.returns.clone())
        }
        // What is called is known when it is: then parameters are compared.
        CallTarget::Indirect(_) => (Vec::new(), Vec::new()),
    };
    let formal = |places: &[Place], index: usize| places.get(index).copied();
    let arguments = params.iter().enumerate();
    let arguments = arguments
        .map(|(index, param)| decoder.argument(param, formal(&formal_params, index)))
        .collect::<Result<Box<[_]>, _>>()?;
    let returns = returns.iter().enumerate();
    let returns = returns
        .map(|(index, value)| decoder.result(value, formal(&formal_returns, index)))
        .collect::<Result<Box<[_]>, _>>()?;
    if let CallTarget::Direct(id) = target {
        let fits = |formal: &[Place], actual: &[Place]| formal.iter().zip(actual).all(|(a, b)| a.accepts(*b));
        if !fits(&formal_params, &arguments) || !fits(&formal_returns, &returns) {
            return Err(decoder.misfit(id));
        }
    }
    Ok(Some(Op::Call(Box::new(Call {
        target,
        arguments,
        returns,
    }))))
}

impl Place {
    /// Whether a formal parameter takes this actual one. One in memory may be given for one in a register, and the other way
    /// round (PTX ISA, "Parameter state space").
    pub(crate) fn accepts(self, actual: Place) -> bool {
        match (self, actual) {
            (Place::Memory { bytes, .. }, Place::Memory { bytes: given, .. }) => bytes == given,
            (Place::Register { words, .. }, Place::Register { words: given, .. }) => words == given,
            (Place::Memory { bytes, .. }, Place::Register { words, .. })
            | (Place::Register { words, .. }, Place::Memory { bytes, .. }) => words == bytes.div_ceil(4),
        }
    }

    /// The type of a constant that is given for a formal parameter.
    fn constant_type(self) -> Option<Type> {
        match self {
            Place::Memory { bytes: 1, .. } => Some(Type::B8),
            Place::Memory { bytes: 2, .. } => Some(Type::B16),
            Place::Memory { bytes: 4, .. } | Place::Register { words: 1, .. } => Some(Type::B32),
            Place::Memory { bytes: 8, .. } | Place::Register { words: 2, .. } => Some(Type::B64),
            _ => None,
        }
    }
}

impl<'a> Decoder<'a> {
    /// What stands for a function of the host's that device code may call.
    fn host_function(&mut self, name: &str, returns: &[Operand]) -> Result<Option<Op>, DecodeError> {
        Ok(match name {
            "__assertfail" => Some(Op::AssertFail),
            // Nothing is printed; the result is 0 arguments, as where the buffer is full.
            "vprintf" => {
                if let [Operand::Symbol(value)] = returns {
                    let value = self.variable(value);
                    return Ok(value.map(|value| Op::Print {
                        result: value.address as u32,
                    }));
                }
                Some(Op::Nop)
            }
            _ => None,
        })
    }

    /// The error of a call whose parameters do not fit.
    fn misfit(&self, id: u32) -> DecodeError {
        let name = &self.kernel.functions[id as usize].name;
        self.error(format!("the call's parameters are not those of `{name}`"))
    }

    /// Where an argument lies; constants get a slot.
    fn argument(&mut self, operand: &Operand, formal: Option<Place>) -> Result<Place, DecodeError> {
        let ty = formal.and_then(Place::constant_type);
        match (operand, ty) {
            (Operand::Int(_) | Operand::F32(_) | Operand::F64(_), Some(ty)) => {
                let reg = self.source(operand, ty)?;
                Ok(Place::Register { reg, words: words(ty) })
            }
            _ => self.place(operand),
        }
    }

    /// Where a result goes.
    fn result(&mut self, operand: &Operand, formal: Option<Place>) -> Result<Place, DecodeError> {
        match (operand, formal.and_then(Place::constant_type)) {
            (Operand::Sink, Some(ty)) => {
                let words = words(ty);
                let reg = self.new_slots(words)?;
                Ok(Place::Register { reg, words })
            }
            _ => self.place(operand),
        }
    }

    /// Where an actual parameter lies.
    fn place(&mut self, operand: &Operand) -> Result<Place, DecodeError> {
        if let Operand::Symbol(name) = operand
            && let Some(variable) = self.variable(name).filter(|variable| variable.space == Space::Local)
        {
            return Ok(Place::Memory {
                offset: variable.address as u32,
                bytes: variable.bytes as u32,
            });
        }
        match operand {
            Operand::Register(name) => {
                let (reg, ty) = self.register(name)?;
                Ok(Place::Register { reg, words: words(ty) })
            }
            _ => Err(self.error("expected a `.param` variable or a register as a parameter")),
        }
    }

    /// The number of a function, which is decoded if it was not yet.
    pub(super) fn function_id(&mut self, name: &str) -> Result<u32, DecodeError> {
        let name = self.module.aliases.get(name).map_or(name, String::as_str);
        if let Some(id) = self.function_ids.get(name) {
            return Ok(*id);
        }
        let module = self.module;
        let named = || functions(module).filter(|function| function.name == name);
        let Some(function) = named().find(|function| function.body.is_some()) else {
            let what = if named().next().is_some() {
                "is declared but not defined"
            } else {
                "is not declared"
            };
            return Err(self.error(format!("`{name}` {what} in this file")));
        };
        let id = self.kernel.functions.len() as u32;
        self.function_ids.insert(name.to_owned(), id);
        self.kernel.functions.push(Function {
            name: name.to_owned(),
            ..Function::default()
        });
        self.formal_params(id, function)?;
        self.pending.push((id, function));
        Ok(id)
    }

    /// Gives a function's parameters their places.
    fn formal_params(&mut self, id: u32, function: &ast::Function) -> Result<(), DecodeError> {
        let caller = std::mem::replace(&mut self.current, id);
        let params = function
            .params
            .iter()
            .map(|param| self.formal_param(param))
            .collect::<Result<_, _>>();
        let returns = function
            .returns
            .iter()
            .map(|param| self.formal_param(param))
            .collect::<Result<_, _>>();
        self.current = caller;
        let entry = &mut self.kernel.functions[id as usize];
        (entry.params, entry.returns) = (params?, returns?);
        Ok(())
    }

    fn formal_param(&mut self, param: &ast::Variable) -> Result<Place, DecodeError> {
        if param.space == ast::Space::Reg {
            let words = words(param.ty);
            let reg = self.new_slots(words)?;
            return Ok(Place::Register { reg, words });
        }
        let variable = self.frame_variable(param)?;
        Ok(Place::Memory {
            offset: variable.address as u32,
            bytes: variable.bytes as u32,
        })
    }

    /// The names of a function's parameters.
    pub(super) fn function_scope(&mut self, id: u32, function: &ast::Function) -> Result<Scope, DecodeError> {
        let mut scope = Scope::default();
        if id == 0 {
            return Ok(scope);
        }
        let entry = &self.kernel.functions[id as usize];
        let formal = function.params.iter().zip(&entry.params);
        for (param, place) in formal.chain(function.returns.iter().zip(&entry.returns)) {
            scope.declare(&param.name, Entry::of_place(*place, param.ty));
        }
        Ok(scope)
    }
}

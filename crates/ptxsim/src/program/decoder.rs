//! Walks a kernel's text: declares names, resolves operands, and hands each instruction to its family.

use std::collections::HashMap;

use super::op::{Guard, Inst, Op};
use super::scope::{Entry, Scope, words};
use super::variables::Layout;
use super::{
    DecodeError, Function, Kernel, Pred, Reg, Special, Target, alu, asynchronous, calls, control, memory, references,
    tensor, warp,
};
use crate::ast::{self, FunctionKind, Item, Module, RegisterNames, Stmt, Type};
use crate::machine::report::SourceLine;

/// Slots of a warp's register file, and predicates, that a kernel with everything it calls may take.
const MAX_SLOTS: u32 = 1 << 20;
/// Instructions of a kernel with everything it calls.
const MAX_CODE: usize = 1 << 22;

/// Makes an entry of a module executable.
pub(super) fn decode(module: &Module, entry: &str) -> Result<Kernel, DecodeError> {
    let target = Target::parse(&module.target).ok_or_else(|| DecodeError::Target {
        target: module.target.clone(),
    })?;
    let found = functions(module).find(|f| f.kind == FunctionKind::Entry && f.name == entry && f.body.is_some());
    let Some(function) = found else {
        return Err(DecodeError::NoEntry {
            entry: entry.to_owned(),
            entries: Kernel::entries(module).into_iter().map(str::to_owned).collect(),
        });
    };
    // Dynamic shared memory begins where static memory ends, which only decoding tells.
    let mut dynamic_base = 0;
    loop {
        let decoder = decode_at(module, &target, function, dynamic_base)?;
        let start = decoder.layout.dynamic_start();
        if start == dynamic_base {
            return decoder.finish();
        }
        dynamic_base = start;
    }
}

fn decode_at<'a>(
    module: &'a Module,
    target: &Target,
    function: &'a ast::Function,
    dynamic_base: u64,
) -> Result<Decoder<'a>, DecodeError> {
    let layout = Layout::of_module(module, dynamic_base)?;
    let mut decoder = Decoder::new(module, target.clone(), layout, function);
    decoder.declare_params(function)?;
    decoder.function(0, function)?;
    // Decoding a function may find others that it calls.
    while let Some((id, function)) = decoder.pending.pop() {
        decoder.function(id, function)?;
    }
    Ok(decoder)
}

/// The functions of a module in order.
pub(super) fn functions(module: &Module) -> impl Iterator<Item = &ast::Function> {
    module.items.iter().filter_map(|item| match item {
        Item::Function(function) => Some(function),
        Item::Variable(_) => None,
    })
}

/// The state of decoding one kernel.
pub(super) struct Decoder<'a> {
    pub(super) module: &'a Module,
    pub(super) kernel: Kernel,
    pub(super) layout: Layout,
    pub(super) scopes: Vec<Scope>,
    /// Functions by name, as far as something names them.
    pub(super) function_ids: HashMap<String, u32>,
    /// Functions still to decode.
    pub(super) pending: Vec<(u32, &'a ast::Function)>,
    /// The function being decoded.
    pub(super) current: u32,
    /// The module's variables that nothing has referred to yet.
    pub(super) module_variables: HashMap<&'a str, &'a ast::Variable>,
    /// Where each label stands.
    labels: Vec<Option<u32>>,
    pub(super) constants: HashMap<(u64, u32), Reg>,
    pub(super) specials: HashMap<Special, Reg>,
    source_ids: HashMap<SourceLine, u32>,
    /// The flag of `add.cc` and the like, once something uses it.
    carry: Option<Pred>,
    source: u32,
    pub(super) line: u32,
}

impl<'a> Decoder<'a> {
    fn new(module: &'a Module, target: Target, layout: Layout, function: &ast::Function) -> Decoder<'a> {
        Decoder {
            module,
            kernel: Kernel {
                name: function.name.clone(),
                target,
                params: Vec::new(),
                param_bytes: 0,
                static_shared_bytes: 0,
                performance: function.performance.clone(),
                code: Vec::new(),
                functions: vec![Function {
                    name: function.name.clone(),
                    ..Function::default()
                }],
                slots: 0,
                predicates: 0,
                constants: Vec::new(),
                specials: Vec::new(),
                variables: Vec::new(),
                sources: Vec::new(),
            },
            layout,
            scopes: Vec::new(),
            function_ids: HashMap::new(),
            pending: Vec::new(),
            module_variables: references::module_variables(module),
            current: 0,
            labels: Vec::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            source_ids: HashMap::new(),
            carry: None,
            source: u32::MAX,
            line: function.line,
        }
    }

    /// An error at the statement being decoded.
    pub(super) fn error(&self, message: impl Into<String>) -> DecodeError {
        DecodeError::Line {
            line: self.line,
            message: message.into(),
        }
    }

    fn finish(mut self) -> Result<Kernel, DecodeError> {
        self.kernel.static_shared_bytes = self.layout.dynamic_start() as u32;
        self.kernel.variables = self.layout.take_variables(self.module, &self.function_ids);
        let labels = std::mem::take(&mut self.labels);
        // Every label got its place when its scope ended.
        let place = |label: &mut u32| *label = labels[*label as usize].unwrap_or(0);
        for inst in &mut self.kernel.code {
            match &mut inst.op {
                Op::Branch { target } => place(target),
                Op::BranchIndexed { targets, .. } => targets.iter_mut().for_each(place),
                _ => {}
            }
        }
        Ok(self.kernel)
    }

    fn function(&mut self, id: u32, function: &'a ast::Function) -> Result<(), DecodeError> {
        self.line = function.line;
        self.source = u32::MAX;
        self.current = id;
        let first = (self.kernel.slots, self.kernel.predicates);
        self.kernel.functions[id as usize].entry = self.pc();
        let body = function.body.as_deref().unwrap_or_default();
        self.refer(body)?;
        self.line = function.line;
        self.scopes = vec![self.function_scope(id, function)?];
        self.block(body)?;
        self.push(if id == 0 { Op::Exit } else { Op::Return }, None)?;
        let entry = &mut self.kernel.functions[id as usize];
        entry.registers = (first.0, self.kernel.slots);
        entry.predicates = (first.1, self.kernel.predicates);
        Ok(())
    }

    fn pc(&self) -> u32 {
        self.kernel.code.len() as u32
    }

    /// Appends an instruction at the line being decoded.
    pub(super) fn push(&mut self, op: Op, guard: Option<Guard>) -> Result<(), DecodeError> {
        if self.kernel.code.len() == MAX_CODE {
            return Err(self.error(format!("the kernel has more than {MAX_CODE} instructions")));
        }
        self.kernel.code.push(Inst {
            op,
            guard,
            line: self.line,
            source: self.source,
        });
        Ok(())
    }

    fn block(&mut self, statements: &'a [Stmt]) -> Result<(), DecodeError> {
        let mut scope = Scope::default();
        let first_label = self.labels.len();
        for statement in statements {
            match statement {
                Stmt::Label { name, line } => {
                    let label = self.labels.len() as u32;
                    self.labels.push(None);
                    if !scope.declare(name, Entry::Label(label)) {
                        self.line = *line;
                        return Err(self.error(format!("the label `{name}` stands twice in one block")));
                    }
                }
                Stmt::BranchTargets { name, labels } => {
                    scope.branch_targets.insert(name.clone(), labels.clone());
                }
                _ => {}
            }
        }
        self.scopes.push(scope);
        let mut next_label = first_label;
        for statement in statements {
            if let Stmt::Label { .. } = statement {
                self.labels[next_label] = Some(self.pc());
                next_label += 1;
            } else {
                self.statement(statement)?;
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn statement(&mut self, statement: &'a Stmt) -> Result<(), DecodeError> {
        match statement {
            Stmt::Registers {
                ty,
                vector,
                names,
                line,
            } => {
                self.line = *line;
                names.iter().try_for_each(|names| self.registers(*ty, *vector, names))
            }
            Stmt::Variable(variable) => {
                self.line = variable.line;
                self.declare_variable(variable)
            }
            Stmt::Block(statements) => self.block(statements),
            Stmt::Loc { file, line, .. } => {
                self.source = self.source_line(*file, *line);
                Ok(())
            }
            Stmt::Inst(inst) => self.instruction(inst),
            Stmt::Label { .. }
            | Stmt::Pragma(_)
            | Stmt::CallPrototype { .. }
            | Stmt::BranchTargets { .. }
            | Stmt::CallTargets { .. } => Ok(()),
        }
    }

    fn source_line(&mut self, file: u32, line: u32) -> u32 {
        let Some(file) = self.module.files.get(&file) else {
            return u32::MAX;
        };
        let line = SourceLine {
            file: file.clone(),
            line,
        };
        let next = self.kernel.sources.len() as u32;
        let id = *self.source_ids.entry(line.clone()).or_insert(next);
        if id == next {
            self.kernel.sources.push(line);
        }
        id
    }

    fn registers(&mut self, ty: Type, vector: u32, names: &RegisterNames) -> Result<(), DecodeError> {
        let (name, count) = match names {
            RegisterNames::One(name) => (name, None),
            RegisterNames::Range { prefix, count } => (prefix, Some(*count)),
        };
        let total = count.unwrap_or(1).saturating_mul(vector);
        let first = if ty == Type::Pred {
            Entry::Predicate(self.new_predicates(total)?)
        } else {
            let slots = total.saturating_mul(words(ty));
            Entry::Register {
                reg: self.new_slots(slots)?,
                ty,
            }
        };
        let Some(scope) = self.scopes.last_mut() else {
            return Ok(());
        };
        match count {
            None if vector > 1 => {
                scope.declare_range(&format!("{name}."), first, vector);
            }
            None => {
                scope.declare(name, first);
            }
            Some(_) if vector > 1 => return Err(self.error("a range of vector registers is not implemented")),
            Some(count) => scope.declare_range(name, first, count),
        }
        Ok(())
    }

    /// New slots, whose number 4 would be for one value of 128 bits.
    pub(super) fn new_slots(&mut self, count: u32) -> Result<Reg, DecodeError> {
        let reg = Reg(self.kernel.slots);
        let total = reg.0.checked_add(count).filter(|total| *total <= MAX_SLOTS);
        self.kernel.slots = total.ok_or_else(|| self.error(format!("more than {MAX_SLOTS} words of registers")))?;
        Ok(reg)
    }

    /// New predicates.
    pub(super) fn new_predicates(&mut self, count: u32) -> Result<Pred, DecodeError> {
        let pred = Pred(self.kernel.predicates);
        let total = pred.0.checked_add(count).filter(|total| *total <= MAX_SLOTS);
        self.kernel.predicates = total.ok_or_else(|| self.error(format!("more than {MAX_SLOTS} predicates")))?;
        Ok(pred)
    }

    /// The carry flag.
    pub(super) fn carry(&mut self) -> Result<Pred, DecodeError> {
        if let Some(carry) = self.carry {
            return Ok(carry);
        }
        let carry = self.new_predicates(1)?;
        self.carry = Some(carry);
        Ok(carry)
    }

    fn instruction(&mut self, inst: &'a ast::Inst) -> Result<(), DecodeError> {
        self.line = inst.line;
        let guard = match &inst.guard {
            None => None,
            Some(guard) => Some(Guard {
                pred: self.predicate(&guard.register)?,
                negated: guard.negated,
            }),
        };
        let op = self.op(inst)?;
        self.push(op, guard)
    }

    fn op(&mut self, inst: &'a ast::Inst) -> Result<Op, DecodeError> {
        let families = [
            memory::decode,
            asynchronous::decode,
            tensor::decode,
            warp::decode,
            control::decode,
            calls::decode,
            alu::decode,
        ];
        for family in families {
            if let Some(op) = family(self, inst)? {
                return Ok(op);
            }
        }
        Err(self.unknown(inst))
    }

    /// The error of an opcode that is not implemented.
    pub(super) fn unknown(&self, inst: &ast::Inst) -> DecodeError {
        self.error(format!("`{}` is not implemented", inst.opcode.join(".")))
    }
}

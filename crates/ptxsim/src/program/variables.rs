//! Where variables and parameters lie.

use std::collections::HashMap;

use super::decoder::Decoder;
use super::op::Space;
use super::scope::{self, Entry, Variable};
use super::{DecodeError, GlobalVariable, Param};
use crate::ast::{self, Init, InitScalar, Item, Linkage, Module, Type};
use crate::machine::address::{FUNCTIONS, MODULE_BASE, to_generic};

/// Bytes that lie between variables in global memory at least.
const RED_ZONE: u64 = 256;
/// Bytes of all module-level variables.
const MAX_GLOBAL: u64 = 1 << 32;
/// Bytes of a frame.
const MAX_FRAME: u64 = 1 << 20;
/// Bytes of parameters.
const MAX_PARAMS: u64 = 1 << 16;

/// A variable at module level, with what its initialiser needs.
#[derive(Debug)]
struct Global {
    variable: GlobalVariable,
    /// Offsets in the contents at which addresses of symbols go.
    symbols: Vec<Relocation>,
}

#[derive(Debug)]
struct Relocation {
    at: usize,
    bytes: usize,
    name: String,
    offset: i64,
    generic: bool,
    mask: Option<u64>,
}

/// Variables outside of frames.
#[derive(Debug, Default)]
pub(super) struct Layout {
    names: HashMap<String, Variable>,
    globals: Vec<Global>,
    global_end: u64,
    shared_end: u64,
    /// Largest alignment of dynamic shared memory.
    dynamic_align: u64,
    /// Where dynamic shared memory begins.
    pub(super) dynamic_base: u64,
}

impl Layout {
    /// Lays out what the module declares outside of functions, but for shared memory.
    pub(super) fn of_module(module: &Module, dynamic_base: u64) -> Result<Layout, DecodeError> {
        let mut layout = Layout {
            dynamic_base,
            dynamic_align: 16,
            ..Layout::default()
        };
        for item in &module.items {
            if let Item::Variable(variable) = item
                && variable.space != ast::Space::Shared
            {
                layout.add(variable)?;
            }
        }
        Ok(layout)
    }

    /// Gives a variable that stands outside of functions its place.
    pub(super) fn add(&mut self, variable: &ast::Variable) -> Result<(), DecodeError> {
        let placed = self.place(variable)?;
        self.names.insert(variable.name.clone(), placed);
        Ok(())
    }

    /// Whether a variable that stands outside of functions has its place.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn place(&mut self, variable: &ast::Variable) -> Result<Variable, DecodeError> {
        let error = |message: String| DecodeError::Line {
            line: variable.line,
            message,
        };
        let bytes = variable.bytes().unwrap_or(u64::MAX);
        let align = u64::from(variable.alignment());
        match variable.space {
            ast::Space::Shared if variable.linkage == Linkage::Extern => {
                self.dynamic_align = self.dynamic_align.max(align);
                Ok(Variable {
                    space: Space::Shared,
                    address: self.dynamic_base,
                    bytes: 0,
                })
            }
            ast::Space::Shared => {
                let address = self.shared_end.next_multiple_of(align);
                self.shared_end = address.saturating_add(bytes);
                if self.shared_end > 1 << 24 {
                    return Err(error(format!("`{}` passes what shared memory can have", variable.name)));
                }
                Ok(Variable {
                    space: Space::Shared,
                    address,
                    bytes,
                })
            }
            ast::Space::Global | ast::Space::Const => self.place_global(variable, bytes, align),
            _ => Err(error(
                format!("`.{:?}` cannot stand here", variable.space).to_lowercase(),
            )),
        }
    }

    fn place_global(&mut self, variable: &ast::Variable, bytes: u64, align: u64) -> Result<Variable, DecodeError> {
        let start = (self.global_end + RED_ZONE).next_multiple_of(align.max(256));
        let end = start.saturating_add(bytes);
        if end > MAX_GLOBAL {
            return Err(DecodeError::Line {
                line: variable.line,
                message: format!(
                    "`{}` makes the module's variables larger than {MAX_GLOBAL} bytes",
                    variable.name
                ),
            });
        }
        self.global_end = end;
        let address = MODULE_BASE + start;
        let read_only = variable.space == ast::Space::Const;
        let (contents, symbols) = contents(variable);
        self.globals.push(Global {
            variable: GlobalVariable {
                name: variable.name.clone(),
                address,
                bytes,
                contents,
                read_only,
            },
            symbols,
        });
        let space = if read_only { Space::Const } else { Space::Global };
        Ok(Variable { space, address, bytes })
    }

    /// Where dynamic shared memory must begin, given what was placed.
    pub(super) fn dynamic_start(&self) -> u64 {
        self.shared_end.next_multiple_of(self.dynamic_align)
    }

    /// The module's variables with addresses filled in. Those of functions that the kernel cannot reach are 0.
    pub(super) fn take_variables(&mut self, module: &Module, functions: &HashMap<String, u32>) -> Vec<GlobalVariable> {
        let globals = std::mem::take(&mut self.globals);
        let fill = |mut global: Global| {
            for symbol in &global.symbols {
                let address = self.symbol(symbol, module, functions).unwrap_or(0);
                let value = match symbol.mask {
                    None => address,
                    Some(0) => 0,
                    Some(mask) => (address & mask) >> mask.trailing_zeros(),
                };
                let place = &mut global.variable.contents[symbol.at..symbol.at + symbol.bytes];
                place.copy_from_slice(&value.to_le_bytes()[..symbol.bytes]);
            }
            global.variable
        };
        globals.into_iter().map(fill).collect()
    }

    fn symbol(&self, symbol: &Relocation, module: &Module, functions: &HashMap<String, u32>) -> Option<u64> {
        let address = match self.names.get(&symbol.name) {
            Some(variable) if symbol.generic => to_generic(variable.space, variable.address),
            Some(variable) => variable.address,
            None => FUNCTIONS + u64::from(*functions.get(module.aliases.get(&symbol.name).unwrap_or(&symbol.name))?),
        };
        Some(address.wrapping_add_signed(symbol.offset))
    }
}

/// The bytes of an initialiser, and where symbols' addresses go in them.
fn contents(variable: &ast::Variable) -> (Vec<u8>, Vec<Relocation>) {
    let Some(Init::Scalars(scalars)) = &variable.init else {
        return (Vec::new(), Vec::new());
    };
    let width = variable.ty.bytes() as usize;
    let (mut bytes, mut symbols) = (Vec::with_capacity(scalars.len() * width), Vec::new());
    for scalar in scalars {
        let value = match scalar {
            InitScalar::Int(value) => match variable.ty {
                Type::F32 => u128::from((*value as f32).to_bits()),
                Type::F64 => u128::from((*value as f64).to_bits()),
                _ => *value as u128,
            },
            InitScalar::F32(bits) if variable.ty == Type::F64 => u128::from(f64::from(f32::from_bits(*bits)).to_bits()),
            InitScalar::F32(bits) => u128::from(*bits),
            InitScalar::F64(bits) if width == 4 => u128::from((f64::from_bits(*bits) as f32).to_bits()),
            InitScalar::F64(bits) => u128::from(*bits),
            InitScalar::Symbol {
                name,
                offset,
                generic,
                mask,
            } => {
                symbols.push(Relocation {
                    at: bytes.len(),
                    bytes: width.min(8),
                    name: name.clone(),
                    offset: *offset,
                    generic: *generic,
                    mask: *mask,
                });
                0
            }
        };
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    (bytes, symbols)
}

impl Decoder<'_> {
    /// Lays out the kernel's parameters.
    pub(super) fn declare_params(&mut self, function: &ast::Function) -> Result<(), DecodeError> {
        let mut end = 0_u64;
        for param in &function.params {
            let bytes = param.bytes().unwrap_or(u64::MAX);
            let offset = end.next_multiple_of(u64::from(param.alignment()));
            end = offset.saturating_add(bytes);
            if end > MAX_PARAMS {
                return Err(DecodeError::Line {
                    line: param.line,
                    message: format!("the parameters take more than {MAX_PARAMS} bytes"),
                });
            }
            self.kernel.params.push(Param {
                name: param.name.clone(),
                offset: offset as u32,
                bytes: bytes as u32,
            });
        }
        self.kernel.param_bytes = end as u32;
        Ok(())
    }

    /// A variable of the function's body.
    pub(super) fn declare_variable(&mut self, variable: &ast::Variable) -> Result<(), DecodeError> {
        let placed = match variable.space {
            ast::Space::Local | ast::Space::Param => self.frame_variable(variable)?,
            ast::Space::Reg => return Err(self.error("`.reg` cannot stand here")),
            _ => self.layout.place(variable)?,
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.declare(&variable.name, Entry::Variable(placed));
        }
        Ok(())
    }

    /// Room in the current function's frame.
    pub(super) fn frame_variable(&mut self, variable: &ast::Variable) -> Result<Variable, DecodeError> {
        let bytes = variable.bytes().unwrap_or(u64::MAX);
        let end = u64::from(self.kernel.functions[self.current as usize].frame_bytes);
        let offset = end.next_multiple_of(u64::from(variable.alignment()));
        let end = offset.saturating_add(bytes);
        if end > MAX_FRAME {
            return Err(self.error(format!(
                "`{}` makes the frame larger than {MAX_FRAME} bytes",
                variable.name
            )));
        }
        self.kernel.functions[self.current as usize].frame_bytes = end as u32;
        Ok(Variable {
            space: Space::Local,
            address: offset,
            bytes,
        })
    }

    /// A variable by name: of the function, of the kernel's parameters, or of the module.
    pub(super) fn variable(&self, name: &str) -> Option<Variable> {
        match scope::find(&self.scopes, name) {
            Some(Entry::Variable(variable)) => return Some(variable),
            // A register or label hides variables of the same name that stand further out.
            Some(_) => return None,
            None => {}
        }
        let param = self.kernel.params.iter().find(|param| param.name == name);
        if let Some(param) = param.filter(|_| self.current == 0) {
            return Some(Variable {
                space: Space::Param,
                address: u64::from(param.offset),
                bytes: u64::from(param.bytes),
            });
        }
        self.layout.names.get(name).copied()
    }

    /// The address of a variable in its own space, or of a function; not of what lies in a frame.
    pub(super) fn symbol_address(&mut self, name: &str, offset: i64) -> Result<u64, DecodeError> {
        match self.variable(name) {
            Some(variable) if variable.space == Space::Local => Err(self.error(format!(
                "the address of `{name}` cannot stand here: only `mov` takes it"
            ))),
            Some(variable) => Ok(variable.address.wrapping_add_signed(offset)),
            None => Ok(FUNCTIONS + u64::from(self.function_id(name)?)),
        }
    }
}

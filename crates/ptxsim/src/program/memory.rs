//! Loads, stores, atomics, and the operands that are addresses.

use super::DecodeError;
use super::decoder::Decoder;
use super::op::{Address, Atomic, AtomicFunction, Base, Load, Op, Order, Space, Store};
use super::operands::elements;
use super::scope::words;
use crate::ast::{self, AddressBase, Operand, Type};
use crate::machine::address::to_generic;
use crate::machine::race::Scope;

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    match inst.opcode[0].as_str() {
        "ld" | "ldu" => decoder.load(inst).map(Some),
        "st" => decoder.store(inst).map(Some),
        "atom" | "red" => decoder.atomic(inst).map(Some),
        "isspacep" => decoder.is_space(inst).map(Some),
        "prefetch" | "prefetchu" | "applypriority" | "discard" => Ok(Some(Op::Nop)),
        "createpolicy" => {
            let dst = inst.operands.first().ok_or_else(|| decoder.unknown(inst))?;
            let dst = decoder.destination(dst, Type::B64)?;
            Ok(Some(Op::Policy { dst }))
        }
        _ => Ok(None),
    }
}

/// What the words of a memory instruction say.
struct Modifiers {
    space: Space,
    order: Order,
    vector: usize,
    ty: Type,
    function: Option<AtomicFunction>,
}

impl Modifiers {
    fn parse(decoder: &Decoder<'_>, inst: &ast::Inst) -> Result<Modifiers, DecodeError> {
        let mut modifiers = Modifiers {
            space: Space::Generic,
            order: Order {
                strong: false,
                acquire: false,
                release: false,
                scope: Scope::Device,
            },
            vector: 1,
            ty: Type::Pred,
            function: None,
        };
        for word in &inst.opcode[1..] {
            if !modifiers.take(word) {
                return Err(decoder.unknown(inst));
            }
        }
        if modifiers.ty == Type::Pred {
            return Err(decoder.unknown(inst));
        }
        Ok(modifiers)
    }

    fn take(&mut self, word: &str) -> bool {
        if let Some(space) = space(word) {
            self.space = space;
        } else if let Some(function) = atomic_function(word) {
            self.function = Some(function);
        } else if let Ok(ty) = word.parse() {
            self.ty = ty;
        } else {
            match word {
                "v2" => self.vector = 2,
                "v4" => self.vector = 4,
                "v8" => self.vector = 8,
                "volatile" | "relaxed" | "mmio" => self.order.strong = true,
                "acquire" => self.order.acquire = true,
                "release" => self.order.release = true,
                "cta" => self.order.scope = Scope::Block,
                "acq_rel" => (self.order.acquire, self.order.release) = (true, true),
                // Each block is a cluster of its own; caches are not modelled.
                "weak" | "cluster" | "gpu" | "sys" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc"
                | "noftz" | "unified" => {}
                _ => return word.starts_with("L1::") || word.starts_with("L2::"),
            }
        }
        self.order.strong |= self.order.acquire || self.order.release;
        true
    }
}

/// The space that a modifier names.
pub(super) fn space(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "const" => Space::Const,
        "param" | "param::entry" | "param::func" => Space::Param,
        "generic" => Space::Generic,
        _ => return None,
    })
}

fn atomic_function(word: &str) -> Option<AtomicFunction> {
    Some(match word {
        "add" => AtomicFunction::Add,
        "min" => AtomicFunction::Min,
        "max" => AtomicFunction::Max,
        "and" => AtomicFunction::And,
        "or" => AtomicFunction::Or,
        "xor" => AtomicFunction::Xor,
        "exch" => AtomicFunction::Exchange,
        "cas" => AtomicFunction::CompareAndSwap,
        "inc" => AtomicFunction::Increment,
        "dec" => AtomicFunction::Decrement,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// `[base+offset]` in a space.
    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> Result<Address, DecodeError> {
        let Operand::Address { base, offset } = operand else {
            return Err(self.error("expected an address in brackets"));
        };
        let name = match base {
            AddressBase::Int(address) => {
                return Ok(Address {
                    space,
                    base: Base::None,
                    offset: (*address as i64).wrapping_add(*offset),
                });
            }
            AddressBase::Name(name) => name,
        };
        if let Some(variable) = self.variable(name) {
            let fits = space == variable.space
                || space == Space::Generic
                || (space == Space::Param && variable.space == Space::Local);
            if !fits {
                return Err(self.error(format!("`{name}` lies in another space than the instruction says")));
            }
            let address = match (space, variable.space) {
                (Space::Generic, inner) if inner != Space::Local => to_generic(inner, variable.address),
                _ => variable.address,
            };
            let local = variable.space == Space::Local;
            return Ok(Address {
                space: if local { Space::Local } else { space },
                base: if local { Base::Frame } else { Base::None },
                offset: (address as i64).wrapping_add(*offset),
            });
        }
        let (reg, ty) = self.register(name)?;
        let base = match ty.bytes() {
            4 => Base::Word(reg),
            8 => Base::Wide(reg),
            other => return Err(self.error(format!("`{name}` has {} bits, an address 32 or 64", 8 * other))),
        };
        // A function's parameters lie in its frame, a kernel's in a space of their own.
        let space = match space {
            Space::Param if self.current != 0 => Space::Local,
            space => space,
        };
        Ok(Address {
            space,
            base,
            offset: *offset,
        })
    }

    /// The operands of an instruction without its cache policy, if it has one.
    fn without_policy<'i>(&self, inst: &'i ast::Inst) -> &'i [Operand] {
        let hint = inst.opcode.iter().any(|word| word == "L2::cache_hint");
        &inst.operands[..inst.operands.len() - usize::from(hint && !inst.operands.is_empty())]
    }

    fn check_vector(&self, operand: &Operand, modifiers: &Modifiers) -> Result<(), DecodeError> {
        let found = elements(operand).len();
        if found != modifiers.vector {
            return Err(self.error(format!("expected {} registers, found {found}", modifiers.vector)));
        }
        let bytes = modifiers.vector as u32 * modifiers.ty.bytes();
        if bytes > 32 {
            return Err(self.error(format!("{bytes} bytes a lane, at most 32 are possible")));
        }
        Ok(())
    }

    fn load(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        let modifiers = Modifiers::parse(self, inst)?;
        let [dst, address] = self.without_policy(inst) else {
            return Err(self.error("a load takes a destination and an address"));
        };
        self.check_vector(dst, &modifiers)?;
        let address = self.address(address, modifiers.space)?;
        let ty = modifiers.ty;
        let (mut registers, mut width) = (Vec::new(), ty);
        for element in elements(dst) {
            if *element == Operand::Sink {
                registers.push(None);
                continue;
            }
            let (reg, found) = self.wide_destination(element, ty)?;
            registers.push(Some(reg));
            width = found;
        }
        Ok(Op::Load(Load {
            address,
            dst: registers.into_boxed_slice(),
            bytes: ty.bytes(),
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32),
            words: words(width),
            register_bytes: width.bytes(),
            order: modifiers.order,
        }))
    }

    fn store(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        let modifiers = Modifiers::parse(self, inst)?;
        let [address, src] = self.without_policy(inst) else {
            return Err(self.error("a store takes an address and a value"));
        };
        self.check_vector(src, &modifiers)?;
        let address = self.address(address, modifiers.space)?;
        let value = |element| Ok(self.wide_source(element, modifiers.ty)?.0);
        let src = elements(src).iter().map(value).collect::<Result<_, _>>()?;
        if matches!(address.space, Space::Const | Space::Param) {
            return Err(self.error("constants and a kernel's parameters cannot be stored to"));
        }
        Ok(Op::Store(Store {
            address,
            src,
            bytes: modifiers.ty.bytes(),
            order: modifiers.order,
        }))
    }

    fn atomic(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        let mut modifiers = Modifiers::parse(self, inst)?;
        modifiers.order.strong = true;
        let returns = inst.opcode[0] == "atom";
        let mut operands = self.without_policy(inst);
        let ty = modifiers.ty;
        let mut dst = None;
        if let (true, [first, rest @ ..]) = (returns, operands) {
            operands = rest;
            if *first != Operand::Sink {
                self.check_vector(first, &modifiers)?;
            }
            let registers = elements(first).iter().map(|element| self.destination(element, ty));
            dst = (*first != Operand::Sink).then(|| registers.collect()).transpose()?;
        }
        let function = modifiers.function.ok_or_else(|| self.unknown(inst))?;
        let (address, operand, swap) = match (operands, function) {
            ([address, operand, swap], AtomicFunction::CompareAndSwap) => (address, operand, Some(swap)),
            ([address, operand], function) if function != AtomicFunction::CompareAndSwap => (address, operand, None),
            _ => return Err(self.error("an atomic takes an address and a value, a compare-and-swap two values")),
        };
        self.check_vector(operand, &modifiers)?;
        check_atomic_type(function, ty).ok_or_else(|| self.unknown(inst))?;
        let address = self.address(address, modifiers.space)?;
        if !matches!(address.space, Space::Generic | Space::Global | Space::Shared) {
            return Err(self.error("atomics are possible in global and shared memory only"));
        }
        let operand = elements(operand).iter().map(|element| self.source(element, ty));
        Ok(Op::Atomic(Atomic {
            function,
            ty,
            address,
            dst,
            operand: operand.collect::<Result<_, _>>()?,
            swap: swap.map(|swap| self.source(swap, ty)).transpose()?,
            order: modifiers.order,
        }))
    }

    fn is_space(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        let [dst, address] = self.operands::<2>(inst)?;
        let space = inst
            .opcode
            .get(1)
            .and_then(|word| space(word))
            .ok_or_else(|| self.unknown(inst))?;
        Ok(Op::IsSpace {
            dst: self.predicate_destination(dst)?,
            space,
            address: self.source(address, Type::B64)?,
        })
    }
}

/// `Some` where the function exists for the type.
fn check_atomic_type(function: AtomicFunction, ty: Type) -> Option<()> {
    use AtomicFunction as F;
    let integer = matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64);
    let half = matches!(ty, Type::F16 | Type::BF16 | Type::F16x2 | Type::BF16x2);
    let bits = matches!(ty, Type::B32 | Type::B64);
    let known = match function {
        F::Add => integer || half || matches!(ty, Type::F32 | Type::F64),
        F::Min | F::Max => integer || half,
        F::And | F::Or | F::Xor => bits || integer,
        F::Exchange => bits || integer || matches!(ty, Type::F32 | Type::F64),
        F::CompareAndSwap => bits || integer || ty == Type::B16,
        F::Increment | F::Decrement => ty == Type::U32,
    };
    known.then_some(())
}

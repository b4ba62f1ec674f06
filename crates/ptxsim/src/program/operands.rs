//! Operands: registers, literals and predicates to the slots that hold them.

use super::decoder::Decoder;
use super::op::PredSource;
use super::scope::{self, Entry, words};
use super::special::special;
use super::{DecodeError, Pred, Reg};
use crate::ast::{self, Operand, Type};

impl Decoder<'_> {
    /// Exactly `N` operands.
    pub(super) fn operands<'i, const N: usize>(&self, inst: &'i ast::Inst) -> Result<&'i [Operand; N], DecodeError> {
        inst.operands.as_slice().try_into().map_err(|_| {
            let (opcode, found) = (inst.opcode.join("."), inst.operands.len());
            self.error(format!("`{opcode}` takes {N} operands, found {found}"))
        })
    }

    /// A register whose values are of `ty`: of a register of that width, a literal or an address.
    pub(super) fn source(&mut self, operand: &Operand, ty: Type) -> Result<Reg, DecodeError> {
        if let Operand::Register(name) = operand {
            let (reg, found) = self.register(name)?;
            if found.bytes() != ty.bytes() {
                let (found, expected) = (8 * found.bytes(), 8 * ty.bytes());
                return Err(self.error(format!("`{name}` has {found} bits, expected {expected} (.{ty})")));
            }
            return Ok(reg);
        }
        let bits = self.literal(operand, ty)?;
        self.constant(bits, words(ty))
    }

    /// A register of any width of at least `ty`'s, with its own type; literals are of `ty`.
    pub(super) fn wide_source(&mut self, operand: &Operand, ty: Type) -> Result<(Reg, Type), DecodeError> {
        match operand {
            Operand::Register(name) => {
                let (reg, found) = self.register(name)?;
                if found.bytes() < ty.bytes() {
                    let (found, expected) = (8 * found.bytes(), 8 * ty.bytes());
                    return Err(self.error(format!(
                        "`{name}` has {found} bits, expected at least {expected} (.{ty})"
                    )));
                }
                Ok((reg, found))
            }
            _ => Ok((self.source(operand, ty)?, ty)),
        }
    }

    /// The register that takes a result of `ty`; a slot of its own for `_`.
    pub(super) fn destination(&mut self, operand: &Operand, ty: Type) -> Result<Reg, DecodeError> {
        match self.wide_destination(operand, ty)? {
            (reg, found) if found.bytes() == ty.bytes() => Ok(reg),
            (_, found) => {
                let (found, expected) = (8 * found.bytes(), 8 * ty.bytes());
                Err(self.error(format!("the destination has {found} bits, expected {expected} (.{ty})")))
            }
        }
    }

    /// The register that takes a result of `ty`, of that width or more, and its own type.
    pub(super) fn wide_destination(&mut self, operand: &Operand, ty: Type) -> Result<(Reg, Type), DecodeError> {
        match operand {
            Operand::Sink => Ok((self.new_slots(words(ty))?, ty)),
            Operand::Register(name) => {
                if name.starts_with('%') && special(name).is_some() {
                    return Err(self.error(format!("`{name}` cannot be written")));
                }
                let (reg, found) = self.register(name)?;
                if found.bytes() < ty.bytes() {
                    let (found, expected) = (8 * found.bytes(), 8 * ty.bytes());
                    return Err(self.error(format!(
                        "`{name}` has {found} bits, expected at least {expected} (.{ty})"
                    )));
                }
                Ok((reg, found))
            }
            _ => Err(self.error("expected a register to write to")),
        }
    }

    /// A register by name, with its type. Registers that the hardware sets get a slot that is filled before the start.
    pub(super) fn register(&mut self, name: &str) -> Result<(Reg, Type), DecodeError> {
        match scope::find(&self.scopes, name) {
            Some(Entry::Register { reg, ty }) => return Ok((reg, ty)),
            Some(Entry::Predicate(_)) => {
                return Err(self.error(format!("`{name}` is a predicate, expected a register of numbers")));
            }
            _ => {}
        }
        let Some(special) = special(name) else {
            return Err(self.error(format!("no register `{name}` is declared here")));
        };
        if let Some(reg) = self.specials.get(&special) {
            return Ok((*reg, Type::B32));
        }
        let reg = self.new_slots(1)?;
        self.specials.insert(special, reg);
        self.kernel.specials.push((special, reg));
        Ok((reg, Type::B32))
    }

    /// The type of a register operand, `None` of any other operand.
    pub(super) fn register_type(&mut self, operand: &Operand) -> Result<Option<Type>, DecodeError> {
        match operand {
            Operand::Register(name) => match scope::find(&self.scopes, name) {
                Some(Entry::Predicate(_)) => Ok(Some(Type::Pred)),
                _ => Ok(Some(self.register(name)?.1)),
            },
            _ => Ok(None),
        }
    }

    /// A predicate by name.
    pub(super) fn predicate(&self, name: &str) -> Result<Pred, DecodeError> {
        match scope::find(&self.scopes, name) {
            Some(Entry::Predicate(pred)) => Ok(pred),
            _ => Err(self.error(format!("no predicate `{name}` is declared here"))),
        }
    }

    /// The predicate that takes a result; one of its own for `_`.
    pub(super) fn predicate_destination(&mut self, operand: &Operand) -> Result<Pred, DecodeError> {
        match operand {
            Operand::Sink => self.new_predicates(1),
            Operand::Register(name) => self.predicate(name),
            _ => Err(self.error("expected a predicate to write to")),
        }
    }

    /// `p`, `!p`, or a literal, of which all but 0 are true.
    pub(super) fn predicate_source(&self, operand: &Operand) -> Result<PredSource, DecodeError> {
        let (name, negated) = match operand {
            Operand::Register(name) => (name, false),
            Operand::Negated(inner) => match &**inner {
                Operand::Register(name) => (name, true),
                _ => return Err(self.error("expected a predicate after `!`")),
            },
            Operand::Int(value) => {
                return Ok(PredSource {
                    pred: None,
                    negated: *value == 0,
                });
            }
            _ => return Err(self.error("expected a predicate")),
        };
        Ok(PredSource {
            pred: Some(self.predicate(name)?),
            negated,
        })
    }

    /// A slot (or two, or four) that holds the same bits in every lane.
    pub(super) fn constant(&mut self, bits: u64, words: u32) -> Result<Reg, DecodeError> {
        if let Some(reg) = self.constants.get(&(bits, words)) {
            return Ok(*reg);
        }
        let reg = self.new_slots(words)?;
        for word in 0..words.min(2) {
            self.kernel
                .constants
                .push((reg.word(word), (bits >> (32 * word)) as u32));
        }
        self.constants.insert((bits, words), reg);
        Ok(reg)
    }

    /// The bits of a literal of type `ty`, or of an address.
    pub(super) fn literal(&mut self, operand: &Operand, ty: Type) -> Result<u64, DecodeError> {
        let bits = 8 * ty.bytes();
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        match operand {
            Operand::Int(value) => {
                let (least, most) = (-(1_i128 << (bits.min(64) - 1)), (1_i128 << bits.min(64)) - 1);
                if !(least..=most).contains(value) && bits < 32 {
                    return Err(self.error(format!("{value} does not fit .{ty}")));
                }
                match ty {
                    Type::F32 => Ok(u64::from((*value as f32).to_bits())),
                    Type::F64 => Ok((*value as f64).to_bits()),
                    _ => Ok(*value as u64 & mask),
                }
            }
            Operand::F32(value) if bits == 32 => Ok(u64::from(*value)),
            Operand::F32(value) if ty == Type::F64 => Ok(f64::from(f32::from_bits(*value)).to_bits()),
            Operand::F64(value) if bits == 64 => Ok(*value),
            Operand::F64(value) if ty == Type::F32 => Ok(u64::from((f64::from_bits(*value) as f32).to_bits())),
            Operand::Symbol(name) if name == "WARP_SZ" => Ok(32),
            Operand::Symbol(name) => self.symbol_address(name, 0),
            Operand::SymbolOffset { name, offset } => self.symbol_address(name, *offset),
            _ => Err(self.error(format!("expected a register or a constant of type .{ty}"))),
        }
    }

    /// An integer literal that fits 32 bits.
    pub(super) fn int(&self, operand: &Operand) -> Result<u32, DecodeError> {
        match operand {
            Operand::Int(value) => {
                u32::try_from(*value).map_err(|_| self.error(format!("expected a number of 32 bits, found {value}")))
            }
            _ => Err(self.error("expected a number")),
        }
    }

    /// The number of a label.
    pub(super) fn label(&self, name: &str) -> Result<u32, DecodeError> {
        match scope::find(&self.scopes, name) {
            Some(Entry::Label(label)) => Ok(label),
            _ => Err(self.error(format!("no label `{name}` is in reach"))),
        }
    }

    /// The labels of a `.branchtargets`.
    pub(super) fn branch_targets(&self, name: &str) -> Result<Vec<u32>, DecodeError> {
        let found = self
            .scopes
            .iter()
            .rev()
            .find_map(|scope| scope.branch_targets.get(name));
        match found {
            Some(labels) => labels.iter().map(|label| self.label(label)).collect(),
            None => Err(self.error(format!("no `.branchtargets` named `{name}` is in reach"))),
        }
    }
}

/// The elements of a vector operand, or the operand alone.
pub(super) fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        other => std::slice::from_ref(other),
    }
}

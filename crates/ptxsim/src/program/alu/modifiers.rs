//! What follows an opcode's name.

use crate::ast;
use crate::numeric::Rounding;
use crate::numeric::compare::MinMax;
use crate::numeric::integer::{IntType, Part};

/// The modifiers of an opcode, to be taken one after the other; what nobody takes is unknown.
pub(super) struct Modifiers<'i> {
    rest: Vec<&'i str>,
}

impl<'i> Modifiers<'i> {
    pub(super) fn of(inst: &'i ast::Inst) -> Modifiers<'i> {
        Modifiers {
            rest: inst.opcode.iter().skip(1).map(String::as_str).collect(),
        }
    }

    /// Takes the last one, which mostly is the type; empty where there is none.
    pub(super) fn last(&mut self) -> &'i str {
        self.rest.pop().unwrap_or("")
    }

    /// Puts one back at the end.
    pub(super) fn push(&mut self, modifier: &'i str) {
        self.rest.push(modifier);
    }

    /// Takes a modifier; whether it was there.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.pick(|modifier| (modifier == name).then_some(())).is_some()
    }

    /// Takes the first modifier that `read` knows.
    pub(super) fn pick<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (index, value) = self
            .rest
            .iter()
            .enumerate()
            .find_map(|(index, modifier)| Some((index, read(modifier)?)))?;
        self.rest.remove(index);
        Some(value)
    }

    /// Takes `.rn`, `.rz`, `.rm` or `.rp`.
    pub(super) fn rounding(&mut self) -> Option<Rounding> {
        self.pick(|modifier| Rounding::parse(modifier).filter(|rounding| *rounding != Rounding::NearestAway))
    }

    /// Takes `.lo`, `.hi` or `.wide`.
    pub(super) fn part(&mut self) -> Option<Part> {
        self.pick(|modifier| {
            Some(match modifier {
                "lo" => Part::Low,
                "hi" => Part::High,
                "wide" => Part::Wide,
                _ => return None,
            })
        })
    }

    /// Takes the modifiers of a floating-point `min` (or `max`).
    pub(super) fn min_max(&mut self, name: &str) -> Option<MinMax> {
        let nan = self.flag("NaN");
        let xorsign = self.flag("xorsign");
        // `.xorsign` stands with `.abs` only.
        if xorsign && !self.flag("abs") {
            return None;
        }
        Some(MinMax {
            max: name == "max",
            nan,
            xorsign_abs: xorsign,
        })
    }

    /// `None` where something is left.
    pub(super) fn done(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

/// A signed or unsigned type of 16 to 64 bits.
pub(super) fn number_type(modifier: &str) -> Option<IntType> {
    IntType::parse(modifier).filter(|ty| ty.bits >= 16 && !modifier.starts_with('b'))
}

/// The width of `b16`, `b32` or `b64`.
pub(super) fn bits_type(modifier: &str) -> Option<u32> {
    let ty = IntType::parse(modifier).filter(|ty| ty.bits >= 16 && modifier.starts_with('b'))?;
    Some(ty.bits)
}

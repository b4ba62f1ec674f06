//! Names of a function, scope by scope.

use std::collections::HashMap;

use super::op::Space;
use super::{Place, Pred, Reg};
use crate::ast::Type;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Entry {
    /// A register; each element of a vector register takes `words` slots.
    Register {
        reg: Reg,
        ty: Type,
    },
    Predicate(Pred),
    Variable(Variable),
    Label(u32),
}

/// A variable: an address in its space; for `Local` an offset in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub space: Space,
    pub address: u64,
    pub bytes: u64,
}

/// Registers prefix0 to prefix(count-1), in slots that follow each other.
#[derive(Clone, Debug)]
struct Range {
    first: Entry,
    count: u32,
}

/// The names of one `{ }`.
#[derive(Debug, Default)]
pub(super) struct Scope {
    names: HashMap<String, Entry>,
    ranges: HashMap<String, Range>,
    /// `.branchtargets` by label.
    pub branch_targets: HashMap<String, Vec<String>>,
}

impl Scope {
    /// Declares a name; whether it was free.
    pub(super) fn declare(&mut self, name: &str, entry: Entry) -> bool {
        self.names.insert(name.to_owned(), entry).is_none()
    }

    pub(super) fn declare_range(&mut self, prefix: &str, first: Entry, count: u32) {
        self.ranges.insert(prefix.to_owned(), Range { first, count });
    }

    fn find(&self, name: &str) -> Option<Entry> {
        self.names.get(name).copied().or_else(|| self.in_range(name))
    }

    /// A prefix may itself end in digits, so every split of the trailing digits is tried (a number has at most 7).
    fn in_range(&self, name: &str) -> Option<Entry> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count().min(7);
        (1..=digits).find_map(|length| {
            let (prefix, number) = name.split_at(name.len() - length);
            let range = self.ranges.get(prefix)?;
            let plain = length == 1 || !number.starts_with('0');
            let index = number
                .parse::<u32>()
                .ok()
                .filter(|index| plain && *index < range.count)?;
            Some(range.first.nth(index))
        })
    }
}

impl Entry {
    /// The name of a function's parameter.
    pub(super) fn of_place(place: Place, ty: Type) -> Entry {
        match place {
            Place::Register { reg, .. } => Entry::Register { reg, ty },
            Place::Memory { offset, bytes } => Entry::Variable(Variable {
                space: Space::Local,
                address: u64::from(offset),
                bytes: u64::from(bytes),
            }),
        }
    }

    /// The entry of a range's element.
    fn nth(self, index: u32) -> Entry {
        match self {
            Entry::Register { reg, ty } => Entry::Register {
                reg: reg.word(index * words(ty)),
                ty,
            },
            Entry::Predicate(pred) => Entry::Predicate(Pred(pred.0 + index)),
            other => other,
        }
    }
}

/// Slots that a register of this type takes.
pub(super) fn words(ty: Type) -> u32 {
    ty.bytes().div_ceil(4)
}

/// The innermost meaning of a name.
pub(super) fn find(scopes: &[Scope], name: &str) -> Option<Entry> {
    scopes.iter().rev().find_map(|scope| scope.find(name))
}

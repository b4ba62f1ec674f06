//! Which names are registers, scope by scope.

use std::collections::{HashMap, HashSet};

/// Registers declared in one `{ }`.
#[derive(Debug, Default)]
struct Scope {
    names: HashSet<String>,
    ranges: HashMap<String, u32>,
}

/// The open scopes of a function, innermost last, and how many registers it has declared.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    open: Vec<Scope>,
    declared: u32,
}

impl Scopes {
    /// Starts a function.
    pub(super) fn reset(&mut self) {
        *self = Scopes::default();
        self.enter();
    }

    pub(super) fn enter(&mut self) {
        self.open.push(Scope::default());
    }

    pub(super) fn leave(&mut self) {
        self.open.pop();
    }

    /// Counts declared registers and returns the function's total.
    pub(super) fn count(&mut self, registers: u32) -> u32 {
        self.declared = self.declared.saturating_add(registers);
        self.declared
    }

    /// Declares a single register. Names with `%` need no table: they are registers anyway.
    pub(super) fn declare(&mut self, name: &str) {
        if let (false, Some(scope)) = (name.starts_with('%'), self.open.last_mut()) {
            scope.names.insert(name.to_owned());
        }
    }

    /// Declares prefix0 to prefix(count-1).
    pub(super) fn declare_range(&mut self, prefix: &str, count: u32) {
        if let (false, Some(scope)) = (prefix.starts_with('%'), self.open.last_mut()) {
            scope.ranges.insert(prefix.to_owned(), count);
        }
    }

    /// Whether `name` is a register here.
    pub(super) fn is_register(&self, name: &str) -> bool {
        name.starts_with('%') || self.open.iter().any(|scope| scope.holds(name))
    }
}

impl Scope {
    fn holds(&self, name: &str) -> bool {
        self.names.contains(name) || self.in_range(name)
    }

    /// A prefix may itself end in digits, so every split of the trailing digits is tried (a number has at most 7).
    fn in_range(&self, name: &str) -> bool {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count().min(7);
        !self.ranges.is_empty()
            && (1..=digits).any(|length| {
                let (prefix, number) = name.split_at(name.len() - length);
                let plain = length == 1 || !number.starts_with('0');
                let index = number.parse::<u32>().ok();
                plain
                    && self
                        .ranges
                        .get(prefix)
                        .is_some_and(|count| index.is_some_and(|index| index < *count))
            })
    }
}

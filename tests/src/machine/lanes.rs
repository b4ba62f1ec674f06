//! Values of all threads of a block, and which threads are active.

use std::rc::Rc;

/// One value a thread.
#[derive(Clone, Debug)]
pub(super) enum Lanes<T> {
    /// The same in every thread.
    Same(T),
    /// By thread.
    Each(Rc<Vec<T>>),
}

impl<T: Copy> Lanes<T> {
    pub fn each(values: Vec<T>) -> Lanes<T> {
        Lanes::Each(Rc::new(values))
    }

    pub fn at(&self, thread: usize) -> T {
        match self {
            Lanes::Same(value) => *value,
            Lanes::Each(values) => values[thread],
        }
    }

    pub fn map<U: Copy>(&self, f: impl Fn(T) -> U) -> Lanes<U> {
        match self {
            Lanes::Same(value) => Lanes::Same(f(*value)),
            Lanes::Each(values) => Lanes::each(values.iter().map(|&value| f(value)).collect()),
        }
    }

    pub fn zip<U: Copy, V: Copy>(&self, other: &Lanes<U>, f: impl Fn(T, U) -> V) -> Lanes<V> {
        match (self, other) {
            (Lanes::Same(a), Lanes::Same(b)) => Lanes::Same(f(*a, *b)),
            (Lanes::Same(a), Lanes::Each(b)) => Lanes::each(b.iter().map(|&b| f(*a, b)).collect()),
            (Lanes::Each(a), Lanes::Same(b)) => Lanes::each(a.iter().map(|&a| f(a, *b)).collect()),
            (Lanes::Each(a), Lanes::Each(b)) => Lanes::each(a.iter().zip(b.iter()).map(|(&a, &b)| f(a, b)).collect()),
        }
    }

    /// These where `mask` holds, `other` elsewhere.
    pub fn blend(&self, other: &Lanes<T>, mask: &Mask) -> Lanes<T> {
        Lanes::each(
            (0..mask.threads())
                .map(|t| if mask.has(t) { self.at(t) } else { other.at(t) })
                .collect(),
        )
    }
}

/// The value of an expression. Integers of every type, and truth values, are 64-bit.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Int(Lanes<i64>),
    Float(Lanes<f32>),
}

impl Value {
    pub fn ints(self) -> Result<Lanes<i64>, String> {
        match self {
            Value::Int(lanes) => Ok(lanes),
            Value::Float(_) => Err("a float where an integer is due".into()),
        }
    }

    pub fn floats(self) -> Result<Lanes<f32>, String> {
        match self {
            Value::Float(lanes) => Ok(lanes),
            Value::Int(_) => Err("an integer where a float is due".into()),
        }
    }
}

/// The active threads of a block.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    lanes: Rc<Vec<bool>>,
    count: usize,
}

impl Mask {
    pub fn new(lanes: Vec<bool>) -> Mask {
        let count = lanes.iter().filter(|&&on| on).count();
        Mask {
            lanes: Rc::new(lanes),
            count,
        }
    }

    pub fn all(threads: usize) -> Mask {
        Mask::new(vec![true; threads])
    }

    pub fn threads(&self) -> usize {
        self.lanes.len()
    }

    pub fn has(&self, thread: usize) -> bool {
        self.lanes[thread]
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_full(&self) -> bool {
        self.count == self.lanes.len()
    }

    /// The active threads, in order.
    pub fn active(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes
            .iter()
            .enumerate()
            .filter(|(_, on)| **on)
            .map(|(thread, _)| thread)
    }

    /// The active threads among these where `wanted` holds.
    pub fn and(&self, wanted: &Lanes<i64>, holds: bool) -> Mask {
        match wanted {
            Lanes::Same(value) if (*value != 0) == holds => self.clone(),
            Lanes::Same(_) => Mask::new(vec![false; self.threads()]),
            Lanes::Each(values) => Mask::new(
                self.lanes
                    .iter()
                    .zip(values.iter())
                    .map(|(&on, &v)| on && (v != 0) == holds)
                    .collect(),
            ),
        }
    }

    /// These threads without those that `gone` marks.
    pub fn without(&self, gone: &[bool]) -> Mask {
        Mask::new(self.lanes.iter().zip(gone).map(|(&on, &gone)| on && !gone).collect())
    }

    /// Each warp with all of its threads active; a warp with some of them active is an error.
    pub fn warps(&self) -> Result<Vec<usize>, String> {
        let mut whole = Vec::new();
        for (warp, lanes) in self.lanes.chunks(32).enumerate() {
            match lanes.iter().filter(|&&on| on).count() {
                0 => {}
                32 => whole.push(warp),
                some => return Err(format!("{some} threads of warp {warp} at an operation of whole warps")),
            }
        }
        Ok(whole)
    }

    /// The value that all active threads share.
    pub fn shared_value(&self, lanes: &Lanes<i64>, what: &str) -> Result<i64, String> {
        let mut values = self.active().map(|thread| lanes.at(thread));
        let first = values.next().unwrap_or(0);
        match values.find(|&value| value != first) {
            Some(other) => Err(format!("{what} is {first} in one thread and {other} in another")),
            None => Ok(first),
        }
    }
}

/// One register in every thread.
#[derive(Clone, Debug)]
pub(super) enum Register {
    Int { values: Vec<u32>, set: Vec<bool> },
    Float { values: Vec<f32>, set: Vec<bool> },
}

impl Register {
    pub fn new(float: bool, threads: usize) -> Register {
        let set = vec![false; threads];
        match float {
            true => Register::Float {
                values: vec![0.0; threads],
                set,
            },
            false => Register::Int {
                values: vec![0; threads],
                set,
            },
        }
    }

    fn flags(&self) -> &[bool] {
        match self {
            Register::Int { set, .. } | Register::Float { set, .. } => set,
        }
    }

    /// Fails where an active thread has no value in it.
    pub fn check(&self, mask: &Mask) -> Result<(), String> {
        let flags = self.flags();
        match mask.active().find(|&thread| !flags[thread]) {
            Some(thread) => Err(format!("thread {thread} reads a register that it has not set")),
            None => Ok(()),
        }
    }

    pub fn read(&self) -> Value {
        match self {
            Register::Int { values, .. } => Value::Int(Lanes::each(values.iter().map(|&v| v.into()).collect())),
            Register::Float { values, .. } => Value::Float(Lanes::each(values.clone())),
        }
    }

    pub fn write(&mut self, value: Value, mask: &Mask) -> Result<(), String> {
        match self {
            Register::Int { values, set } => {
                let from = value.ints()?;
                mask.active()
                    .for_each(|t| (values[t], set[t]) = (from.at(t) as u32, true));
            }
            Register::Float { values, set } => {
                let from = value.floats()?;
                mask.active().for_each(|t| (values[t], set[t]) = (from.at(t), true));
            }
        }
        Ok(())
    }

    pub fn floats(&self) -> Vec<Option<f32>> {
        match self {
            Register::Float { values, set } => values
                .iter()
                .zip(set)
                .map(|(&value, &set)| set.then_some(value))
                .collect(),
            Register::Int { values, .. } => vec![None; values.len()],
        }
    }
}

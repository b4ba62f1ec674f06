//! The register file of a warp: one word of every lane side by side.

use crate::program::{Pred, Reg};

/// Threads of a warp.
pub const LANES: usize = 32;

/// One 32-bit word of every lane.
pub type Lanes = [u32; LANES];

/// Registers and predicates of one warp.
///
/// A 64-bit value takes two slots, the low word first, a 128-bit one four. A narrower value lies in the low bits of a slot
/// whose other bits are zero.
#[derive(Clone, Debug)]
pub struct Registers {
    words: Vec<Lanes>,
    predicates: Vec<u32>,
}

/// A value of a register as the host computes with it.
pub trait Word: Copy + Default {
    /// The value of every lane.
    fn load(file: &[Lanes], reg: Reg) -> [Self; LANES];
    /// Sets the lanes in `mask`.
    fn store(file: &mut [Lanes], reg: Reg, mask: u32, values: &[Self; LANES]);
}

impl Word for u32 {
    #[inline(always)]
    fn load(file: &[Lanes], reg: Reg) -> [u32; LANES] {
        file[reg.index()]
    }

    #[inline(always)]
    fn store(file: &mut [Lanes], reg: Reg, mask: u32, values: &[u32; LANES]) {
        let slot = &mut file[reg.index()];
        if mask == u32::MAX {
            *slot = *values;
            return;
        }
        for (lane, (old, new)) in slot.iter_mut().zip(values).enumerate() {
            *old = if mask >> lane & 1 == 1 { *new } else { *old };
        }
    }
}

impl Word for u16 {
    #[inline(always)]
    fn load(file: &[Lanes], reg: Reg) -> [u16; LANES] {
        file[reg.index()].map(|word| word as u16)
    }

    #[inline(always)]
    fn store(file: &mut [Lanes], reg: Reg, mask: u32, values: &[u16; LANES]) {
        u32::store(file, reg, mask, &values.map(u32::from));
    }
}

impl Word for u64 {
    #[inline(always)]
    fn load(file: &[Lanes], reg: Reg) -> [u64; LANES] {
        let (low, high) = (&file[reg.index()], &file[reg.index() + 1]);
        std::array::from_fn(|lane| u64::from(high[lane]) << 32 | u64::from(low[lane]))
    }

    #[inline(always)]
    fn store(file: &mut [Lanes], reg: Reg, mask: u32, values: &[u64; LANES]) {
        u32::store(file, reg, mask, &values.map(|value| value as u32));
        u32::store(file, reg.word(1), mask, &values.map(|value| (value >> 32) as u32));
    }
}

// `map1` to `test2` are functions of their own for each closure, never inlined: inside one large function the compiler
// turns few of the loops into vector instructions.
impl Registers {
    /// A file whose words start as `image`, with `predicates` false predicates.
    pub fn new(image: &[Lanes], predicates: usize) -> Registers {
        Registers {
            words: image.to_vec(),
            predicates: vec![0; predicates],
        }
    }

    /// The word of every lane.
    #[inline(always)]
    pub fn lanes(&self, reg: Reg) -> &Lanes {
        &self.words[reg.index()]
    }

    /// The value of every lane.
    #[inline(always)]
    pub fn get<T: Word>(&self, reg: Reg) -> [T; LANES] {
        T::load(&self.words, reg)
    }

    /// Sets the lanes in `mask`.
    #[inline(always)]
    pub fn set<T: Word>(&mut self, mask: u32, reg: Reg, values: &[T; LANES]) {
        T::store(&mut self.words, reg, mask, values);
    }

    /// A predicate, one bit a lane.
    #[inline(always)]
    pub fn predicate(&self, pred: Pred) -> u32 {
        self.predicates[pred.index()]
    }

    /// Sets the lanes in `mask` of a predicate.
    #[inline(always)]
    pub fn set_predicate(&mut self, mask: u32, pred: Pred, bits: u32) {
        let old = &mut self.predicates[pred.index()];
        *old = (*old & !mask) | (bits & mask);
    }

    /// dst = f(a) in the lanes of `mask`. Every lane is computed.
    #[inline(never)]
    pub fn map1<A: Word, D: Word>(&mut self, mask: u32, dst: Reg, a: Reg, f: impl Fn(A) -> D) {
        let a = A::load(&self.words, a);
        let values: [D; LANES] = std::array::from_fn(|lane| f(a[lane]));
        D::store(&mut self.words, dst, mask, &values);
    }

    /// dst = f(a, b) in the lanes of `mask`. Every lane is computed.
    #[inline(never)]
    pub fn map2<A: Word, B: Word, D: Word>(&mut self, mask: u32, dst: Reg, [a, b]: [Reg; 2], f: impl Fn(A, B) -> D) {
        let (a, b) = (A::load(&self.words, a), B::load(&self.words, b));
        let values: [D; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane]));
        D::store(&mut self.words, dst, mask, &values);
    }

    /// dst = f(a, b, c) in the lanes of `mask`. Every lane is computed.
    #[inline(never)]
    pub fn map3<A: Word, B: Word, C: Word, D: Word>(
        &mut self,
        mask: u32,
        dst: Reg,
        [a, b, c]: [Reg; 3],
        f: impl Fn(A, B, C) -> D,
    ) {
        let (a, b, c) = (
            A::load(&self.words, a),
            B::load(&self.words, b),
            C::load(&self.words, c),
        );
        let values: [D; LANES] = std::array::from_fn(|lane| f(a[lane], b[lane], c[lane]));
        D::store(&mut self.words, dst, mask, &values);
    }

    /// One bit a lane: f(a). Every lane is computed.
    #[inline(never)]
    pub fn test1<A: Word>(&self, a: Reg, f: impl Fn(A) -> bool) -> u32 {
        let a = A::load(&self.words, a);
        bits(|lane| f(a[lane]))
    }

    /// One bit a lane: f(a, b). Every lane is computed.
    #[inline(never)]
    pub fn test2<A: Word, B: Word>(&self, [a, b]: [Reg; 2], f: impl Fn(A, B) -> bool) -> u32 {
        let (a, b) = (A::load(&self.words, a), B::load(&self.words, b));
        bits(|lane| f(a[lane], b[lane]))
    }
}

/// A mask of the lanes for which `test` holds.
#[inline(always)]
pub fn bits(test: impl Fn(usize) -> bool) -> u32 {
    (0..LANES).fold(0, |mask, lane| mask | u32::from(test(lane)) << lane)
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes_of(mask: u32) -> impl Iterator<Item = usize> + Clone {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        (lane < 32).then(|| {
            rest &= rest - 1;
            lane as usize
        })
    })
}

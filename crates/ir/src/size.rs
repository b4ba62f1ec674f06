//! Dimensions, and products of dimensions.

use std::fmt;

/// A dimension known only at launch, written as one upper-case letter.
///
/// The layer uses `B` sequences, `T` new tokens a sequence, `S` cached tokens a sequence (the longest), `N` pages in
/// the cache, `P` block-table entries a sequence and `L` rows of the rope tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u8);

impl Symbol {
    /// Number of sequences.
    pub const B: Symbol = Symbol(b'B');
    /// New tokens a sequence.
    pub const T: Symbol = Symbol(b'T');
    /// Cached tokens a sequence, the new ones included: those of the longest, or what there is room for.
    pub const S: Symbol = Symbol(b'S');
    /// Pages in the cache.
    pub const N: Symbol = Symbol(b'N');
    /// Block-table entries a sequence.
    pub const P: Symbol = Symbol(b'P');
    /// Rows (positions) of the rope tables.
    pub const L: Symbol = Symbol(b'L');
    /// Most splits of a sequence's cached tokens in split-KV attention.
    pub const Z: Symbol = Symbol(b'Z');
    /// Blocks that split-KV attention aims at for the whole batch, from 1.
    pub const W: Symbol = Symbol(b'W');
    /// Fewest cached tokens that are worth a split, from 1.
    pub const F: Symbol = Symbol(b'F');
    /// Elements from one cache row to the next (a multiple of 16 bytes in our own caches).
    pub const R: Symbol = Symbol(b'R');
    /// Elements from one cache page to the next.
    pub const G: Symbol = Symbol(b'G');

    /// The symbol written as `letter`, if that is an upper-case ASCII letter.
    pub fn new(letter: char) -> Option<Symbol> {
        letter.is_ascii_uppercase().then_some(Symbol(letter as u8))
    }

    /// There are so many.
    const COUNT: usize = 26;

    /// Its place in the alphabet, below [`Symbol::COUNT`].
    fn index(self) -> usize {
        usize::from(self.0 - b'A')
    }

    /// The letter it is written as.
    pub fn letter(self) -> char {
        self.0 as char
    }

    /// Whether it is a distance in memory rather than a count: kernels take it in 64 bits, counts in 32.
    pub fn is_stride(self) -> bool {
        matches!(self, Symbol::R | Symbol::G)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// One dimension of a value: a constant, or a symbol bound at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// Known when the graph is built.
    Const(usize),
    /// Known at launch.
    Sym(Symbol),
}

impl Dim {
    /// Its value under `dims`; `None` where a symbol is unbound.
    pub fn value(self, dims: &Dims) -> Option<usize> {
        match self {
            Dim::Const(n) => Some(n),
            Dim::Sym(s) => dims.get(s),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Const(n)
    }
}

impl From<Symbol> for Dim {
    fn from(s: Symbol) -> Dim {
        Dim::Sym(s)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Sym(s) => write!(f, "{s}"),
        }
    }
}

/// The values of the symbols for one launch, or the typical values a cost model is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dims([Option<usize>; Symbol::COUNT]);

impl Dims {
    /// No symbol bound.
    pub fn new() -> Dims {
        Dims::default()
    }

    /// These and `symbol = value`.
    pub fn with(mut self, symbol: Symbol, value: usize) -> Dims {
        self.0[symbol.index()] = Some(value);
        self
    }

    /// These and the strides `R` and `G` of a cache: rows `row_stride` elements apart, `page_size` of them a page, and no gaps
    /// between pages.
    pub fn with_cache_strides(self, row_stride: usize, page_size: usize) -> Dims {
        self.with(Symbol::R, row_stride).with(Symbol::G, row_stride * page_size)
    }

    /// The value of `symbol`, if bound.
    pub fn get(&self, symbol: Symbol) -> Option<usize> {
        self.0[symbol.index()]
    }

    /// All bindings, in the symbols' order.
    pub fn iter(&self) -> impl Iterator<Item = (Symbol, usize)> + '_ {
        let symbols = (b'A'..=b'Z').map(Symbol).zip(&self.0);
        symbols.filter_map(|(symbol, value)| Some((symbol, (*value)?)))
    }
}

/// Of a symbol that comes twice the last value counts.
impl FromIterator<(Symbol, usize)> for Dims {
    fn from_iter<I: IntoIterator<Item = (Symbol, usize)>>(bindings: I) -> Dims {
        let bindings = bindings.into_iter();
        bindings.fold(Dims::new(), |dims, (symbol, value)| dims.with(symbol, value))
    }
}

/// A product of dimensions, such as a stride: `coefficient × symbols`, symbols sorted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// The product of the constant dimensions.
    pub coefficient: usize,
    /// The symbolic dimensions, sorted, repeated where they stand twice.
    pub symbols: Vec<Symbol>,
}

impl Size {
    /// The size one.
    pub fn one() -> Size {
        Size {
            coefficient: 1,
            symbols: Vec::new(),
        }
    }

    /// A constant.
    pub fn constant(n: usize) -> Size {
        Size {
            coefficient: n,
            symbols: Vec::new(),
        }
    }

    /// The product of `dims`.
    pub fn product(dims: &[Dim]) -> Size {
        dims.iter().fold(Size::one(), |size, &dim| size.times(dim))
    }

    /// This size times one more dimension.
    pub fn times(mut self, dim: Dim) -> Size {
        match dim {
            Dim::Const(n) => self.coefficient *= n,
            Dim::Sym(s) => {
                self.symbols.push(s);
                self.symbols.sort();
            }
        }
        self
    }

    /// The constant it is, if it has no symbol.
    pub fn as_constant(&self) -> Option<usize> {
        self.symbols.is_empty().then_some(self.coefficient)
    }

    /// Whether every value of the symbols makes this a multiple of `n`.
    pub fn divisible_by(&self, n: usize) -> bool {
        self.coefficient.is_multiple_of(n)
    }

    /// Its value under `dims`; `None` where a symbol is unbound or the product overflows.
    pub fn value(&self, dims: &Dims) -> Option<usize> {
        self.symbols
            .iter()
            .try_fold(self.coefficient, |product, &s| product.checked_mul(dims.get(s)?))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.coefficient, self.symbols.as_slice()) {
            (n, []) => write!(f, "{n}"),
            (1, [first, rest @ ..]) => {
                write!(f, "{first}")?;
                rest.iter().try_for_each(|s| write!(f, "*{s}"))
            }
            (n, symbols) => {
                write!(f, "{n}")?;
                symbols.iter().try_for_each(|s| write!(f, "*{s}"))
            }
        }
    }
}

//! The syntax tree of a PTX module.
//!
//! The tree keeps what the text says and resolves nothing but one question: a bare name is a register when it starts
//! with `%` or when a `.reg` of an enclosing scope declares it, else it is a symbol (a label, variable or function).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A whole PTX file.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// The architecture of `.target`, for example `sm_80`.
    pub target: String,
    /// The further options of `.target`, for example `texmode_independent` or `debug`.
    pub target_options: Vec<String>,
    /// `.address_size` in bits; 32 where the file has none.
    pub address_size: u32,
    /// `.file` entries: index to path.
    pub files: BTreeMap<u32, String>,
    /// `.alias` entries: alias to the function it stands for.
    pub aliases: BTreeMap<String, String>,
    /// Functions and module-level variables, in file order.
    pub items: Vec<Item>,
}

/// What stands at module level.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A kernel or a device function, or its declaration.
    Function(Function),
    /// A variable in `.global`, `.const` or `.shared` space.
    Variable(Variable),
}

/// Whether the host may launch a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// `.entry`: a kernel.
    Entry,
    /// `.func`: a device function.
    Func,
}

/// A kernel or a device function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// `.entry` or `.func`.
    pub kind: FunctionKind,
    /// `.visible`, `.extern` and so on.
    pub linkage: Linkage,
    /// The function's name.
    pub name: String,
    /// Return parameters; empty for a kernel.
    pub returns: Vec<Variable>,
    /// Parameters in order.
    pub params: Vec<Variable>,
    /// Launch bounds and the like.
    pub performance: Performance,
    /// The statements; `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    /// The line of the name.
    pub line: u32,
}

/// The directives between a function's parameters and its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Performance {
    /// `.maxntid`; dimensions left out are 1.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`; dimensions left out are 1.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub minnctapersm: Option<u32>,
    /// `.maxnctapersm`.
    pub maxnctapersm: Option<u32>,
    /// `.maxnreg`.
    pub maxnreg: Option<u32>,
    /// `.reqnctapercluster`; dimensions left out are 1.
    pub reqnctapercluster: Option<[u32; 3]>,
    /// `.maxclusterrank`.
    pub maxclusterrank: Option<u32>,
    /// `.explicitcluster`.
    pub explicitcluster: bool,
    /// `.blocksareclusters`.
    pub blocksareclusters: bool,
    /// `.noreturn`.
    pub noreturn: bool,
    /// `.pragma` strings that stand before the body.
    pub pragmas: Vec<String>,
}

/// State space of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// `.reg`, only for parameters of device functions.
    Reg,
    /// `.param`.
    Param,
    /// `.local`.
    Local,
    /// `.shared`.
    Shared,
    /// `.global`.
    Global,
    /// `.const`.
    Const,
}

/// Linking directive of a function or variable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Linkage {
    /// No directive: private to the module.
    #[default]
    None,
    /// `.visible`.
    Visible,
    /// `.extern`.
    Extern,
    /// `.weak`.
    Weak,
    /// `.common`.
    Common,
}

/// A variable, or a parameter of a function or call prototype.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Where it lives.
    pub space: Space,
    /// Its linking directive.
    pub linkage: Linkage,
    /// `.align` in bytes, where given.
    pub align: Option<u32>,
    /// Elements of a vector type: 1, 2, 4 or 8.
    pub vector: u32,
    /// The (element) type.
    pub ty: Type,
    /// The name; `_` for a nameless parameter of a call prototype.
    pub name: String,
    /// Array dimensions, outermost first; `None` for `[]`.
    pub dims: Vec<Option<u64>>,
    /// The initialiser.
    pub init: Option<Init>,
    /// The line of the name.
    pub line: u32,
}

impl Variable {
    /// Bytes of the whole variable. `[]` takes its length from the initialiser when that is the only open dimension of
    /// a one-dimensional array, else it counts as zero. `None` on overflow of 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        let element = u64::from(self.ty.bytes()) * u64::from(self.vector);
        self.elements()?.checked_mul(element)
    }

    /// The alignment in bytes: `.align`, or the size of the (vector) element.
    pub fn alignment(&self) -> u32 {
        self.align.unwrap_or(self.ty.bytes() * self.vector).max(1)
    }

    fn elements(&self) -> Option<u64> {
        let open = match (&self.init, self.dims.as_slice()) {
            (Some(Init::Scalars(scalars)), [None]) => (scalars.len() as u64).div_ceil(u64::from(self.vector.max(1))),
            _ => 0,
        };
        self.dims
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul(dim.unwrap_or(open)))
    }
}

/// Initial value of a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Elements in memory order; nested braces are flattened, with zeros where an inner brace is short. Elements
    /// missing at the end are zero.
    Scalars(Vec<InitScalar>),
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub enum InitScalar {
    /// An integer.
    Int(i128),
    /// Bits of an f32.
    F32(u32),
    /// Bits of an f64.
    F64(u64),
    /// The address of a variable or function.
    Symbol {
        /// Whose address.
        name: String,
        /// Added to the address, in bytes.
        offset: i64,
        /// Inside `generic( )`: an address in the generic space.
        generic: bool,
        /// `0xFF00(name)`: the bits of the address to keep, shifted down to bit 0.
        mask: Option<u64>,
    },
}

/// A scalar type. Types that only qualify instructions (`tf32`, `e4m3x2`) are here too; a variable never has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F32x2,
    F64,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    E2M1x2,
    E2M3x2,
    E3M2x2,
    UE8M0x2,
    Pred,
    TexRef,
    SamplerRef,
    SurfRef,
}

/// The spelling of each type, without the dot.
const TYPES: [(&str, Type); 33] = [
    ("b8", Type::B8),
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("b64", Type::B64),
    ("b128", Type::B128),
    ("u8", Type::U8),
    ("u16", Type::U16),
    ("u32", Type::U32),
    ("u64", Type::U64),
    ("s8", Type::S8),
    ("s16", Type::S16),
    ("s32", Type::S32),
    ("s64", Type::S64),
    ("f16", Type::F16),
    ("f16x2", Type::F16x2),
    ("bf16", Type::BF16),
    ("bf16x2", Type::BF16x2),
    ("tf32", Type::TF32),
    ("f32", Type::F32),
    ("f32x2", Type::F32x2),
    ("f64", Type::F64),
    ("e4m3", Type::E4M3),
    ("e5m2", Type::E5M2),
    ("e4m3x2", Type::E4M3x2),
    ("e5m2x2", Type::E5M2x2),
    ("e2m1x2", Type::E2M1x2),
    ("e2m3x2", Type::E2M3x2),
    ("e3m2x2", Type::E3M2x2),
    ("ue8m0x2", Type::UE8M0x2),
    ("pred", Type::Pred),
    ("texref", Type::TexRef),
    ("samplerref", Type::SamplerRef),
    ("surfref", Type::SurfRef),
];

impl Type {
    /// Bytes in memory. A predicate counts as 1; an opaque reference as the 8 of its handle.
    pub fn bytes(self) -> u32 {
        match self {
            Type::B8 | Type::U8 | Type::S8 | Type::E4M3 | Type::E5M2 | Type::E2M1x2 | Type::Pred => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::BF16 => 2,
            Type::E4M3x2 | Type::E5M2x2 | Type::E2M3x2 | Type::E3M2x2 | Type::UE8M0x2 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::TF32 | Type::F16x2 | Type::BF16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 | Type::F32x2 => 8,
            Type::TexRef | Type::SamplerRef | Type::SurfRef => 8,
            Type::B128 => 16,
        }
    }

    /// Whether a variable or register can have this type.
    pub fn declarable(self) -> bool {
        !matches!(
            self,
            Type::TF32
                | Type::E4M3
                | Type::E5M2
                | Type::E4M3x2
                | Type::E5M2x2
                | Type::E2M1x2
                | Type::E2M3x2
                | Type::E3M2x2
                | Type::UE8M0x2
        )
    }
}

/// A name that is no PTX type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a PTX type")]
pub struct UnknownType {
    /// The name, without the dot.
    pub name: String,
}

impl FromStr for Type {
    type Err = UnknownType;

    /// Parses the spelling without the dot, for example `f16x2`.
    fn from_str(name: &str) -> Result<Type, UnknownType> {
        let found = TYPES.iter().find(|(spelling, _)| *spelling == name);
        found
            .map(|(_, ty)| *ty)
            .ok_or_else(|| UnknownType { name: name.to_owned() })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spelling = TYPES
            .iter()
            .find(|(_, ty)| ty == self)
            .map_or("?", |(spelling, _)| spelling);
        out.write_str(spelling)
    }
}

/// A statement of a function's body.
#[derive(Debug, Clone, PartialEq)]
pub enum Stmt {
    /// `.reg` declarations.
    Registers {
        /// Type of each register.
        ty: Type,
        /// Elements of a vector register: 1, 2 or 4.
        vector: u32,
        /// The names declared.
        names: Vec<RegisterNames>,
        /// The line of the directive.
        line: u32,
    },
    /// A variable in `.local`, `.shared`, `.param`, `.global` or `.const` space.
    Variable(Variable),
    /// `name:`
    Label {
        /// The label.
        name: String,
        /// Its line.
        line: u32,
    },
    /// `{ }`: a scope with its own registers, variables and labels.
    Block(Vec<Stmt>),
    /// An instruction.
    Inst(Inst),
    /// `.loc`: the source line of what follows. For inlined code this is the line inside the inlined function.
    Loc {
        /// Index into [`Module::files`].
        file: u32,
        /// Source line.
        line: u32,
        /// Source column.
        column: u32,
    },
    /// `.pragma`; a directive with several strings makes several statements.
    Pragma(String),
    /// `name: .callprototype`
    CallPrototype {
        /// The label that an indirect call names.
        name: String,
        /// Return parameters.
        returns: Vec<Variable>,
        /// Parameters.
        params: Vec<Variable>,
        /// The line of the directive.
        line: u32,
    },
    /// `name: .branchtargets`
    BranchTargets {
        /// The label that `brx.idx` names.
        name: String,
        /// The labels by index.
        labels: Vec<String>,
    },
    /// `name: .calltargets`
    CallTargets {
        /// The label that an indirect call names.
        name: String,
        /// The functions that may be called.
        functions: Vec<String>,
    },
}

/// One declarator of `.reg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterNames {
    /// `name`
    One(String),
    /// `prefix<count>`: prefix0 to prefix(count-1).
    Range {
        /// What stands before the number.
        prefix: String,
        /// How many registers.
        count: u32,
    },
}

/// An instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Inst {
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// The opcode split at dots; a qualifier such as `shared::cta` is one part.
    pub opcode: Vec<String>,
    /// The operands in order; a call has the single operand [`Operand::Call`].
    pub operands: Vec<Operand>,
    /// The line where it starts.
    pub line: u32,
}

/// The predicate that guards an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub register: String,
    /// `@!p`
    pub negated: bool,
}

/// An operand of an instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register, special registers and components of vectors included: `%r1`, `%tid.x`, a declared name.
    Register(String),
    /// An integer literal, from -2^64+1 to 2^64-1 with its sign applied.
    Int(i128),
    /// Bits of an f32 literal (`0f`), sign applied.
    F32(u32),
    /// Bits of an f64 literal (`0d` or decimal), sign applied.
    F64(u64),
    /// A label, variable, function or constant such as `WARP_SZ`.
    Symbol(String),
    /// `symbol+4` outside brackets: an address as a value.
    SymbolOffset {
        /// The variable.
        name: String,
        /// Added to its address, in bytes.
        offset: i64,
    },
    /// `[base+offset]`
    Address {
        /// What the offset is added to.
        base: AddressBase,
        /// In bytes.
        offset: i64,
    },
    /// `[base+offset, coordinates]`: an element or box of a tensor or texture.
    TensorAddress {
        /// The tensor map.
        base: AddressBase,
        /// In bytes.
        offset: i64,
        /// Usually one [`Operand::Vector`].
        coordinates: Vec<Operand>,
    },
    /// `{a, b, ...}`
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`, or `-x` of a register.
    Negated(Box<Operand>),
    /// `_`: the result is dropped.
    Sink,
    /// All parts of a call.
    Call {
        /// Where results go.
        returns: Vec<Operand>,
        /// [`Operand::Symbol`] of a function, or the register of an indirect call.
        target: Box<Operand>,
        /// Arguments: names of `.param` variables, registers or constants.
        params: Vec<Operand>,
        /// The prototype or call-target list of an indirect call.
        prototype: Option<String>,
    },
}

/// What an address starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressBase {
    /// A register (its name starts with `%` or is declared by a `.reg`) or a variable.
    Name(String),
    /// An absolute address.
    Int(u64),
}

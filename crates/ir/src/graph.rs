//! The graph: what is computed, as SSA nodes over named dimensions.
//!
//! Every node makes one value. A value has a storage type (the type it would have in memory between two kernels) and a
//! shape whose dimensions are constants or symbols. The meaning of each op is the reference interpreter's
//! ([`crate::interp`]), which computes in f64 or f32 whatever the storage types say.

use crate::size::Dim;
use mlafuse_tensor::DType;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A value of a graph: the index of the node that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// Storage type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ty {
    /// The type of each element in memory.
    pub dtype: DType,
    /// The dimensions, outermost first.
    pub shape: Vec<Dim>,
}

/// How the two members of a rotated pair lie in a row of d_rope elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Pair i is (2i, 2i + 1): DeepSeek's checkpoints.
    Interleaved,
    /// Pair i is (i, i + d_rope / 2): MiniCPM3.
    Halves,
}

impl fmt::Display for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pairing::Interleaved => "interleaved",
            Pairing::Halves => "halves",
        })
    }
}

impl FromStr for Pairing {
    type Err = UnknownPairing;

    fn from_str(text: &str) -> Result<Pairing, UnknownPairing> {
        match text {
            "interleaved" => Ok(Pairing::Interleaved),
            "halves" => Ok(Pairing::Halves),
            _ => Err(UnknownPairing {
                found: text.to_string(),
            }),
        }
    }
}

/// A text that names no [`Pairing`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pairing \"{found}\": expected interleaved or halves")]
pub struct UnknownPairing {
    /// The text as given.
    pub found: String,
}

/// An einsum of two operands: labels of each operand and of the result, one a dimension.
///
/// Labels that stand in both operands but not in the result are summed over. A label stands at most once in each list,
/// and every result label stands in an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EinsumSpec {
    /// Labels of the first operand.
    pub a: Vec<String>,
    /// Labels of the second operand.
    pub b: Vec<String>,
    /// Labels of the result.
    pub out: Vec<String>,
}

/// What a node does with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A value given from outside, by name. No arguments.
    Input {
        /// The name the caller binds it by.
        name: String,
        /// A weight: the same for every launch.
        constant: bool,
    },
    /// A contraction (a, b).
    Einsum(EinsumSpec),
    /// x / sqrt(mean(x²) + eps) · gain over the last dimension; arguments (x \[.., d\], gain \[d\]).
    RmsNorm {
        /// Added to the mean square.
        eps: f64,
    },
    /// Rotation of pairs by position; arguments (x \[B, T, .., d_rope\], cos \[L, d_rope/2\], sin \[L, d_rope/2\],
    /// q_len \[B\], kv_len \[B\]). New token t of sequence b stands at position kv_len\[b\] - q_len\[b\] + t, clamped to
    /// \[0, L-1\].
    Rope {
        /// Which two elements make a pair.
        pairing: Pairing,
    },
    /// x times a constant; argument (x).
    Scale {
        /// The constant.
        factor: f64,
    },
    /// a + b, where b's shape is a's or a suffix of it (a bias); arguments (a, b).
    Add,
    /// a · b element by element, where b's shape is a's or a suffix of it (a gain); arguments (a, b).
    Mul,
    /// Each element of x times the factor of its row; arguments (x, r), where r's shape is a prefix of x's: x \[B, T, H, n\]
    /// with r \[B, T\].
    ScaleRows,
    /// 1 / sqrt(mean(x²) + eps) of each row, the rows being the last dimension; argument (x \[.., d\]), result \[..\].
    InvRms {
        /// Added to the mean square.
        eps: f64,
    },
    /// Scores with -inf where a token may not look; arguments (scores \[B, T, .., S\], q_len \[B\], kv_len \[B\]). Key j is
    /// visible to new token i iff j < kv_len and j <= kv_len - q_len + i.
    Mask,
    /// Softmax over the last dimension; a row of -inf alone gives zeros. Argument (x).
    Softmax,
    /// Elements start..start+len of one dimension; argument (x).
    Slice {
        /// The dimension that is cut.
        axis: usize,
        /// First element kept.
        start: usize,
        /// Number of elements kept.
        len: usize,
    },
    /// a and b side by side along one dimension; arguments (a, b).
    Concat {
        /// The dimension that grows.
        axis: usize,
    },
    /// The same elements in row-major order under another shape; argument (x). The shape is the node's type.
    Reshape,
    /// The same values in the node's storage type; argument (x).
    Cast,
    /// The cache with the new tokens' rows written; arguments (cache \[N, page_size, d_latent + d_rope\],
    /// latent \[B, T, d_latent\], k_pe \[B, T, d_rope\], block_table \[B, P\], q_len \[B\], kv_len \[B\]). New token t < q_len of
    /// sequence b goes to token position kv_len\[b\] - q_len\[b\] + t: page block_table\[b, position / page_size\], row
    /// position mod page_size. Where d_rope is 0 the k_pe argument is absent.
    CacheWrite,
    /// The cached rows of each sequence; arguments (cache, block_table \[B, P\], kv_len \[B\]), result
    /// \[B, S, d_latent + d_rope\] with zeros from kv_len\[b\] on.
    CacheRead,
}

/// One node: an op, its arguments, and the value it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique within the graph; `%name` in the text form.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Values it reads, all made by earlier nodes.
    pub args: Vec<ValueId>,
    /// Type of the value it makes.
    pub ty: Ty,
}

/// A directed acyclic graph of nodes in an order of computation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Names the graph in messages and in kernel names.
    pub name: String,
    /// The nodes; arguments stand before their users.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<(String, ValueId)>,
}

impl Graph {
    /// The node that makes `value`.
    pub fn node(&self, value: ValueId) -> &Node {
        &self.nodes[value.0]
    }

    /// The type of `value`.
    pub fn ty(&self, value: ValueId) -> &Ty {
        &self.nodes[value.0].ty
    }

    /// Every value, in order of computation.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.nodes.len()).map(ValueId)
    }

    /// The values that read `value`.
    pub fn users(&self, value: ValueId) -> Vec<ValueId> {
        self.values()
            .filter(|&user| self.node(user).args.contains(&value))
            .collect()
    }

    /// Whether `value` is a named result.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|&(_, output)| output == value)
    }

    /// The one node that needs `value`; `None` where several do, or none, or it is a named result.
    pub fn sole_user(&self, value: ValueId) -> Option<ValueId> {
        match self.users(value).as_slice() {
            &[user] if !self.is_output(value) => Some(user),
            _ => None,
        }
    }

    /// The value whose elements `value` has: what slices and reshapes were made of.
    pub fn root(&self, value: ValueId) -> ValueId {
        let node = self.node(value);
        match (&node.op, node.args.first()) {
            (Op::Slice { .. } | Op::Reshape, Some(&from)) => self.root(from),
            _ => value,
        }
    }

    /// Whether `value` is made of `of`, or is it.
    pub fn depends_on(&self, value: ValueId, of: ValueId) -> bool {
        let mut made_of = BTreeSet::from([value]);
        for earlier in (of.0..=value.0).rev().map(ValueId) {
            if made_of.contains(&earlier) {
                made_of.extend(&self.node(earlier).args);
            }
        }
        made_of.contains(&of)
    }

    /// What the outputs and the caches need.
    pub fn live(&self) -> BTreeSet<ValueId> {
        let mut live: BTreeSet<ValueId> = self.outputs.iter().map(|&(_, value)| value).collect();
        for value in self.values().collect::<Vec<_>>().into_iter().rev() {
            let node = self.node(value);
            if node.op == Op::CacheWrite || live.contains(&value) {
                live.insert(value);
                live.extend(&node.args);
            }
        }
        live
    }

    /// For each value, whether it is computed from weights alone.
    pub fn constants(&self) -> Vec<bool> {
        let mut constants = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let known = |arg: &ValueId| constants.get(arg.0).copied().unwrap_or(false);
            let constant = match node.op {
                Op::Input { constant, .. } => constant,
                _ => node.args.iter().all(known),
            };
            constants.push(constant);
        }
        constants
    }

    /// The input named `name`.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.values()
            .find(|&value| matches!(&self.node(value).op, Op::Input { name: n, .. } if n == name))
    }

    /// The output named `name`.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|&(_, value)| value)
    }
}

//! What a record is about: a machine, a kernel, and the size of its launches.

use std::fmt;

use mlafuse_ir::plan::{Buffer, BufferId, Plan, Region};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_runtime::{Identity, few_tokens};
use serde::{Deserialize, Serialize};

/// What a record holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The kind of device: `cpu`, or `model` where nothing was timed.
    pub device: String,
    /// The processor's or GPU's model.
    pub part: String,
    /// The instructions that kernels use: a level of the processor, an architecture.
    pub instructions: String,
    /// Threads of the processor that blocks run on; 0 of a GPU.
    pub threads: usize,
    /// The version of this program: others have other kernels and other schedules of their own to compare with. Empty where a
    /// line does not tell.
    #[serde(default)]
    pub program: String,
    /// The kernel's name in the plan.
    pub kernel: String,
    /// Types and dimensions of the buffers it reads and writes, as `bf16[B,T,64] bf16[32,64] -> bf16[B,T,32]`.
    pub shapes: String,
    /// The narrowest type among them: the one that is computed in.
    pub dtype: String,
    /// `decode` of a few new tokens a sequence, else `prefill`.
    pub phase: String,
    /// Sequences.
    pub batch: usize,
    /// New tokens a sequence.
    pub q_len: usize,
    /// Cached tokens a sequence; absent where the kernel has nothing to do with them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kv_len: Option<usize>,
}

/// A record of half or twice the sequences or new tokens still tells something of a launch, in powers of two.
const FARTHEST: f64 = 1.0;
/// How a kernel goes over the cached tokens hardly depends on how many they are.
const FARTHEST_KV: f64 = 3.0;

impl Key {
    /// Of launches of one kernel of `plan`, of about the sizes in `dims`; sizes that are absent count as 1.
    pub fn new(identity: Identity, plan: &Plan, region: &Region, dims: &Dims) -> Key {
        let Identity {
            device,
            part,
            instructions,
            threads,
        } = identity;
        let size = |symbol| dims.get(symbol).unwrap_or(1);
        let used = || region.reads.iter().chain(&region.writes).map(|&id| plan.buffer(id));
        let floats = used().map(|buffer| buffer.dtype).filter(|dtype| dtype.is_float());
        let dtype = floats.min_by_key(|dtype| dtype.size_bytes());
        Key {
            device,
            part,
            instructions,
            threads,
            program: env!("CARGO_PKG_VERSION").to_string(),
            kernel: region.name.clone(),
            shapes: format!("{} -> {}", shapes(plan, &region.reads), shapes(plan, &region.writes)),
            dtype: dtype.map(|dtype| dtype.to_string()).unwrap_or_default(),
            phase: if few_tokens(dims) { "decode" } else { "prefill" }.to_string(),
            batch: size(Symbol::B),
            q_len: size(Symbol::T),
            kv_len: used().any(depends_on_cached).then(|| size(Symbol::S)),
        }
    }

    /// How far apart the sizes of launches are, where what is known of one tells anything of the other: the same kernel of the
    /// same program on the same machine, and sizes not too far apart.
    pub fn distance(&self, other: &Key) -> Option<f64> {
        let same = self.subject() == other.subject();
        let apart = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).log2().abs();
        let rows = [apart(self.batch, other.batch), apart(self.q_len, other.q_len)];
        let cached = apart(self.kv_len.unwrap_or(1), other.kv_len.unwrap_or(1));
        let near = rows.iter().all(|&distance| distance <= FARTHEST) && cached <= FARTHEST_KV;
        (same && near).then(|| rows[0] + rows[1] + cached / FARTHEST_KV)
    }

    /// All but the sizes of a launch.
    fn subject(&self) -> ([&str; 8], usize) {
        let Key {
            device,
            part,
            instructions,
            program,
            kernel,
            shapes,
            dtype,
            phase,
            ..
        } = self;
        let texts = [device, part, instructions, program, kernel, shapes, dtype, phase];
        (texts.map(String::as_str), self.threads)
    }

    /// The launch's sizes, for people.
    pub fn bucket(&self) -> String {
        let q_len = match self.q_len {
            1 => String::new(),
            q_len => format!(", q-len {q_len}"),
        };
        let kv_len = self.kv_len.map(|kv_len| format!(", kv-len {kv_len}"));
        format!(
            "{} batch {}{q_len}{}",
            self.phase,
            self.batch,
            kv_len.unwrap_or_default()
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            device,
            part,
            instructions,
            threads,
            kernel,
            ..
        } = self;
        write!(f, "{kernel}, {}, on {device} {part}, {instructions}", self.bucket())?;
        match threads {
            0 => Ok(()),
            threads => write!(f, ", {threads} threads"),
        }
    }
}

/// Whether its size follows from anything but sequences and new tokens. Of rope tables only the new tokens' rows are read.
fn depends_on_cached(buffer: &Buffer) -> bool {
    let of_new = |symbol: &Symbol| matches!(*symbol, Symbol::B | Symbol::T | Symbol::L);
    !buffer.size.symbols.iter().all(of_new)
}

fn shapes(plan: &Plan, ids: &[BufferId]) -> String {
    let shape = |&id: &BufferId| {
        let Buffer { dtype, shape, .. } = plan.buffer(id);
        let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
        format!("{dtype}[{}]", dims.join(","))
    };
    ids.iter().map(shape).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attention_plan, dims, key};

    #[test]
    fn a_key_tells_a_kernel_from_others() {
        let plan = attention_plan();
        let of = |kernel: &str| key(&plan, kernel, &dims(4, 100));
        let attention = of("attention");
        assert_eq!(
            attention.to_string(),
            "attention, decode batch 4, kv-len 100, on cpu made up, portable, 2 threads"
        );
        assert!(
            attention.shapes.starts_with("bf16[B,T,3,10] bf16[N,4,10] i32[B,P]"),
            "{}",
            attention.shapes
        );
        let product = of("einsum_y");
        assert_eq!(
            (product.shapes.as_str(), product.kv_len),
            ("bf16[B,T,3,8] bf16[5,3,8] -> bf16[B,T,5]", None)
        );
        assert_eq!((attention.dtype.as_str(), attention.distance(&product)), ("bf16", None));
    }

    #[test]
    fn only_what_is_near_tells_anything() {
        let plan = attention_plan();
        let of = |batch, kv_len| key(&plan, "attention", &dims(batch, kv_len));
        let distance = |a: (usize, usize), b: (usize, usize)| of(a.0, a.1).distance(&of(b.0, b.1));
        assert_eq!(distance((4, 1024), (4, 1024)), Some(0.0));
        assert!(distance((4, 1024), (4, 2048)) < distance((4, 1024), (8, 1024)));
        assert_eq!(distance((4, 1024), (16, 1024)), None);
        assert_eq!(distance((4, 1024), (4, 16_384)), None);
        let threads = Key {
            threads: 1,
            ..of(4, 1024)
        };
        let program = Key {
            program: "0.0.0".to_string(),
            ..of(4, 1024)
        };
        assert_eq!([threads, program].map(|other| of(4, 1024).distance(&other)), [None; 2]);
    }
}

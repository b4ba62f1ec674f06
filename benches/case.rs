//! What is compared with peers.

use anyhow::Result;
use mlafuse::DType;

use crate::{Core, Layer, Subject, shape};

/// Something that we and others do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// What it is called in tables.
    pub name: &'static str,
    /// Whether it is among the few that show most.
    pub quick: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Core {
        heads: usize,
        cached: usize,
        sequences: usize,
        dtype: DType,
    },
    Decode {
        model: &'static str,
        cached: usize,
    },
    Prefill {
        model: &'static str,
        tokens: usize,
    },
}

const fn core(name: &'static str, [heads, cached, sequences]: [usize; 3], dtype: DType, quick: bool) -> Case {
    let kind = Kind::Core {
        heads,
        cached,
        sequences,
        dtype,
    };
    Case { name, quick, kind }
}

/// All of them.
pub const CASES: &[Case] = &[
    core("core bf16 128x16384", [128, 16_384, 1], DType::BF16, true),
    core("core bf16 128x4096 batch 4", [128, 4096, 4], DType::BF16, false),
    core("core bf16 16x16384", [16, 16_384, 1], DType::BF16, true),
    core("core bf16 16x65536 batch 8", [16, 65_536, 8], DType::BF16, false),
    core("core f32 128x4096", [128, 4096, 1], DType::F32, false),
    Case {
        name: "decode deepseek-v3 4096",
        quick: false,
        kind: Kind::Decode {
            model: "deepseek-v3",
            cached: 4096,
        },
    },
    Case {
        name: "prefill deepseek-v2-lite 2048",
        quick: true,
        kind: Kind::Prefill {
            model: "deepseek-v2-lite",
            tokens: 2048,
        },
    },
];

impl Case {
    /// Our side of it, with made-up inputs.
    ///
    /// # Errors
    /// Where there is not memory enough.
    pub fn subject(&self) -> Result<Box<dyn Subject>> {
        Ok(match self.kind {
            Kind::Core {
                heads,
                cached,
                sequences,
                dtype,
            } => Box::new(Core::new(shape(heads, dtype), sequences, cached)?),
            Kind::Decode { model, cached } => Box::new(Layer::decode(model, cached)?),
            Kind::Prefill { model, tokens } => Box::new(Layer::prefill(model, tokens)?),
        })
    }

    /// Who else does it, by the names in `benches/peers/server.py`.
    pub fn peers(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Core { .. } => &["pytorch", "pytorch_values_apart", "pytorch_sdpa", "vllm"],
            Kind::Decode { .. } | Kind::Prefill { .. } => &["transformers"],
        }
    }
}

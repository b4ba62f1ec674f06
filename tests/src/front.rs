//! A layer up to its attention, in the merged form that rewrites give it: one down-projection for both latents and the rope
//! key, one up-projection for both parts of the queries, the norm of the query latent as factors of its rows.

use crate::case::Case;
use mlafuse_ir::build::{BuildError, GraphBuilder};
use mlafuse_ir::config::{MlaConfig, RopePairing};
use mlafuse_ir::graph::{Graph, Op, Pairing, ValueId};
use mlafuse_ir::plan::{self, Plan};
use mlafuse_ir::size::{Dim, Symbol};
use mlafuse_tensor::DType;

/// What the layer has besides.
#[derive(Clone, Copy, Debug)]
pub struct Extras {
    /// A bias of the down-projection.
    pub bias: bool,
    /// A factor of the queries.
    pub factor: Option<f64>,
    /// The content part of the queries is an output, so that it goes to memory.
    pub keep_content: bool,
}

/// The fused plan of this part of `case`'s layer, which has a query latent.
///
/// # Panics
/// Where the case's model is none.
pub fn front(case: &Case, extras: Extras) -> Plan {
    let graph = graph(&case.config(), case.dtype, case.page_size, extras).expect("a graph");
    let plan = plan::fused(&graph).expect("a plan");
    plan.with_stride_align(case.row_align)
}

/// Outputs: `q_pe` \[B, T, H, d_rope\] where there is rope, `q_abs` \[B, T, H, d_latent\] and `cache`.
///
/// # Errors
/// Where a dimension is 0.
pub fn graph(config: &MlaConfig, dtype: DType, page_size: usize, extras: Extras) -> Result<Graph, BuildError> {
    let MlaConfig {
        d_model,
        d_latent,
        d_rope,
        ..
    } = *config;
    let d_q = config.d_q_latent.unwrap_or(d_model);
    let mut g = GraphBuilder::new("front");
    let (b, t) = (Dim::Sym(Symbol::B), Dim::Sym(Symbol::T));
    let hidden = g.input("hidden", dtype, &[b, t, d_model.into()])?;
    let row = d_latent + d_rope;
    let cache = g.input("cache", dtype, &[Symbol::N.into(), page_size.into(), row.into()])?;
    let table = g.input("block_table", DType::I32, &[b, Symbol::P.into()])?;
    let lengths = [
        g.input("q_len", DType::I32, &[b])?,
        g.input("kv_len", DType::I32, &[b])?,
    ];
    let merged = g.weight("W_D", dtype, &[(d_q + row).into(), d_model.into()])?;
    let mut down = g.einsum("down", "b t d, r d -> b t r", hidden, merged, dtype)?;
    if extras.bias {
        let bias = g.weight("b_D", dtype, &[(d_q + row).into()])?;
        down = g.add("down_biased", down, bias, dtype)?;
    }
    let latent = g.slice("dq", 2, 0, d_q, down)?;
    let dkv = g.slice("dkv", 2, d_q, d_latent, down)?;
    let gain = g.weight("g_kv", dtype, &[d_latent.into()])?;
    let mut rows = vec![cache, g.rms_norm("c_kv", config.latent_norm_eps, dkv, gain, dtype)?];
    let mut tables = None;
    if d_rope > 0 {
        let shape = [Symbol::L.into(), (d_rope / 2).into()];
        let (cos, sin) = (
            g.input("rope_cos", DType::F32, &shape)?,
            g.input("rope_sin", DType::F32, &shape)?,
        );
        let key = g.slice("k_r", 2, d_q + d_latent, d_rope, down)?;
        rows.push(g.rope("k_pe", pairing(config), [key, cos, sin, lengths[0], lengths[1]], dtype)?);
        tables = Some([cos, sin]);
    }
    rows.extend([table, lengths[0], lengths[1]]);
    let new_cache = g.push("new_cache", Op::CacheWrite, &rows, dtype, &[])?;
    let queries = queries(&mut g, config, latent, extras, dtype)?;
    let content = match tables {
        Some([cos, sin]) => {
            let rotated = g.slice("q_r", 3, config.d_nope, d_rope, queries)?;
            let of = [rotated, cos, sin, lengths[0], lengths[1]];
            let q_pe = g.rope("q_pe", pairing(config), of, dtype)?;
            g.output("q_pe", q_pe);
            g.slice("q_nope", 3, 0, config.d_nope, queries)?
        }
        None => queries,
    };
    let shape = [config.n_heads, config.d_nope, d_latent].map(Dim::Const);
    let w_uk = g.weight("W_UK", dtype, &shape)?;
    let absorbed = g.einsum("q_abs", "b t h n, h n c -> b t h c", content, w_uk, dtype)?;
    g.output("q_abs", absorbed);
    if extras.keep_content {
        g.output("q_nope", content);
    }
    g.output("cache", new_cache);
    Ok(g.finish())
}

/// \[B, T, H, d_nope + d_rope\].
fn queries(
    g: &mut GraphBuilder,
    config: &MlaConfig,
    latent: ValueId,
    extras: Extras,
    dtype: DType,
) -> Result<ValueId, BuildError> {
    let factors = g.inv_rms("r", config.latent_norm_eps, latent, DType::F32)?;
    let d_q = config.d_q_latent.unwrap_or(config.d_model);
    let shape = [config.n_heads, config.d_nope + config.d_rope, d_q].map(Dim::Const);
    let weight = g.weight("W_Q", dtype, &shape)?;
    let up = g.einsum("up", "b t q, h m q -> b t h m", latent, weight, dtype)?;
    let normed = g.scale_rows("up_normed", up, factors, dtype)?;
    match extras.factor {
        Some(factor) => g.scale("up_scaled", factor, normed, dtype),
        None => Ok(normed),
    }
}

fn pairing(config: &MlaConfig) -> Pairing {
    match config.rope.pairing {
        RopePairing::HalfSplit => Pairing::Halves,
        RopePairing::Interleaved | RopePairing::Unrotated => Pairing::Interleaved,
    }
}

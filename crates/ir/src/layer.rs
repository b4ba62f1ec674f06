//! The MLA layer as the DeepSeek-V2 paper (arXiv 2405.04434, section 2.1) writes it, unabsorbed: keys and values are
//! decompressed from the cached latents before attention. One graph serves prefill and decode.

use crate::build::{BuildError, GraphBuilder};
use crate::config::{MlaConfig, RopePairing};
use crate::graph::{Graph, Op, Pairing, ValueId};
use crate::size::{Dim, Symbol};
use mlafuse_tensor::DType;

/// How the layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// Storage type of activations, weights and cache. Scores before softmax and the rope tables are f32.
    pub dtype: DType,
    /// Tokens in a page of the cache.
    pub page_size: usize,
    /// Rotates the content part itself and has no decoupled rope part: what MLA avoids, to show why. The rope tables
    /// are then \[L, d_nope/2\] and the cache rows d_latent wide.
    pub coupled_rope: bool,
}

impl Default for LayerOptions {
    fn default() -> LayerOptions {
        LayerOptions {
            dtype: DType::BF16,
            page_size: 64,
            coupled_rope: false,
        }
    }
}

const B: Dim = Dim::Sym(Symbol::B);
const T: Dim = Dim::Sym(Symbol::T);
const S: Dim = Dim::Sym(Symbol::S);
const N: Dim = Dim::Sym(Symbol::N);
const P: Dim = Dim::Sym(Symbol::P);
const L: Dim = Dim::Sym(Symbol::L);

/// The attention layer of `cfg`.
///
/// Inputs, by name (those that the config has no use for are absent): `hidden` \[B, T, d_model\];
/// `W_DQ` \[d_q, d_model\], `b_DQ` and `g_q` \[d_q\]; `W_UQ` \[H, d_nope, d_q\] and `W_QR` \[H, d_rope, d_q\], over d_model where
/// there is no query latent; `W_DKV` \[d_latent, d_model\], `b_DKV` and `g_kv` \[d_latent\]; `W_KR` \[d_rope, d_model\], `b_KR`
/// \[d_rope\]; `W_UK` \[H, d_nope, d_latent\]; `W_UV` \[H, d_v, d_latent\]; `W_O` \[d_model, H, d_v\], `b_O` \[d_model\];
/// `rope_cos` and `rope_sin` \[L, d_rope/2\] in f32; `cache` \[N, page_size, d_latent + d_rope\]; `block_table` \[B, P\],
/// `q_len` and `kv_len` \[B\] in i32. Outputs: `out` \[B, T, d_model\] and `cache`.
///
/// kv_len counts the cached tokens with the q_len new ones; rows of `out` from q_len on mean nothing.
///
/// # Errors
/// Where a dimension of `cfg` is 0 or the rotated part has an odd width.
pub fn build_layer(cfg: &MlaConfig, opts: &LayerOptions) -> Result<Graph, BuildError> {
    let mut layer = Layer::new(cfg, opts)?;
    let x = layer.query_input()?;
    let (q_nope, q_pe) = layer.queries(x)?;
    let (c, k_pe) = layer.cached_rows()?;
    let (k_nope, v) = layer.decompressed(c)?;
    let out = layer.attention(q_nope, k_nope, q_pe.zip(k_pe), v)?;
    layer.g.output("out", out);
    let cache = layer.new_cache;
    layer.g.output("cache", cache);
    Ok(layer.g.finish())
}

/// The graph so far and the values that several parts of it read.
struct Layer<'a> {
    g: GraphBuilder,
    cfg: &'a MlaConfig,
    dtype: DType,
    /// Width of the decoupled rope part; 0 where there is none.
    d_rope: usize,
    coupled_rope: bool,
    hidden: ValueId,
    /// cos and sin, where anything is rotated.
    tables: Option<(ValueId, ValueId)>,
    cache: ValueId,
    /// The cache after the new tokens are written; `cache` before that.
    new_cache: ValueId,
    block_table: ValueId,
    q_len: ValueId,
    kv_len: ValueId,
}

impl<'a> Layer<'a> {
    fn new(cfg: &'a MlaConfig, opts: &LayerOptions) -> Result<Layer<'a>, BuildError> {
        let LayerOptions {
            dtype,
            page_size,
            coupled_rope,
        } = *opts;
        let mut g = GraphBuilder::new(if coupled_rope {
            "mla_layer_coupled_rope"
        } else {
            "mla_layer"
        });
        let d_rope = if coupled_rope { 0 } else { cfg.d_rope };
        let rotated = if coupled_rope { cfg.d_nope } else { d_rope };
        let hidden = g.input("hidden", dtype, &[B, T, cfg.d_model.into()])?;
        let tables = if rotated > 0 && (coupled_rope || cfg.rope.pairing != RopePairing::Unrotated) {
            let shape = [L, (rotated / 2).into()];
            Some((
                g.input("rope_cos", DType::F32, &shape)?,
                g.input("rope_sin", DType::F32, &shape)?,
            ))
        } else {
            None
        };
        let row = cfg.d_latent + d_rope;
        let cache = g.input("cache", dtype, &[N, page_size.into(), row.into()])?;
        let block_table = g.input("block_table", DType::I32, &[B, P])?;
        let q_len = g.input("q_len", DType::I32, &[B])?;
        let kv_len = g.input("kv_len", DType::I32, &[B])?;
        let new_cache = cache;
        Ok(Layer {
            g,
            cfg,
            dtype,
            d_rope,
            coupled_rope,
            hidden,
            tables,
            cache,
            new_cache,
            block_table,
            q_len,
            kv_len,
        })
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, BuildError> {
        let shape: Vec<Dim> = shape.iter().map(|&n| n.into()).collect();
        self.g.weight(name, self.dtype, &shape)
    }

    /// x W^T (+ b) for a weight \[width, d_model\] of the residual stream.
    fn project(&mut self, name: &str, suffix: &str, width: usize) -> Result<ValueId, BuildError> {
        let w = self.weight(&format!("W_{suffix}"), &[width, self.cfg.d_model])?;
        let y = self.g.einsum(name, "b t d, r d -> b t r", self.hidden, w, self.dtype)?;
        self.biased(name, suffix, width, y)
    }

    fn biased(&mut self, name: &str, suffix: &str, width: usize, x: ValueId) -> Result<ValueId, BuildError> {
        if !self.cfg.attention_bias {
            return Ok(x);
        }
        let b = self.weight(&format!("b_{suffix}"), &[width])?;
        self.g.add(&format!("{name}_biased"), x, b, self.dtype)
    }

    fn scaled(&mut self, name: &str, factor: f64, x: ValueId) -> Result<ValueId, BuildError> {
        if factor == 1.0 {
            Ok(x)
        } else {
            self.g.scale(name, factor, x, self.dtype)
        }
    }

    /// `x` \[B, tokens, .., d\] rotated, where this layer rotates at all. `queries` are the lengths that place token 0.
    fn rotated(&mut self, name: &str, x: ValueId, q_len: ValueId) -> Result<ValueId, BuildError> {
        let Some((cos, sin)) = self.tables else { return Ok(x) };
        let pairing = match self.cfg.rope.pairing {
            RopePairing::HalfSplit => Pairing::Halves,
            RopePairing::Interleaved | RopePairing::Unrotated => Pairing::Interleaved,
        };
        self.g
            .rope(name, pairing, [x, cos, sin, q_len, self.kv_len], self.dtype)
    }

    /// The query latent, normed and scaled; without one, the residual stream.
    fn query_input(&mut self) -> Result<(ValueId, usize), BuildError> {
        let scale = self.cfg.q_latent_scale;
        let Some(d_q) = self.cfg.d_q_latent else {
            return Ok((self.scaled("hidden_scaled", scale, self.hidden)?, self.cfg.d_model));
        };
        let down = self.project("dq", "DQ", d_q)?;
        let gain = self.weight("g_q", &[d_q])?;
        let c_q = self
            .g
            .rms_norm("c_q", self.cfg.latent_norm_eps, down, gain, self.dtype)?;
        Ok((self.scaled("c_q_scaled", scale, c_q)?, d_q))
    }

    /// Content and rope parts of the queries, \[B, T, H, d_nope\] and \[B, T, H, d_rope\].
    fn queries(&mut self, (x, width): (ValueId, usize)) -> Result<(ValueId, Option<ValueId>), BuildError> {
        let heads = self.cfg.n_heads;
        let w_uq = self.weight("W_UQ", &[heads, self.cfg.d_nope, width])?;
        let mut q_nope = self
            .g
            .einsum("q_nope", "b t q, h n q -> b t h n", x, w_uq, self.dtype)?;
        if self.coupled_rope {
            q_nope = self.rotated("q_rot", q_nope, self.q_len)?;
        }
        if self.d_rope == 0 {
            return Ok((q_nope, None));
        }
        let w_qr = self.weight("W_QR", &[heads, self.d_rope, width])?;
        let q_r = self.g.einsum("q_r", "b t q, h r q -> b t h r", x, w_qr, self.dtype)?;
        Ok((q_nope, Some(self.rotated("q_pe", q_r, self.q_len)?)))
    }

    /// Writes the new tokens' rows and reads all: latents \[B, S, d_latent\] and rope keys \[B, S, d_rope\].
    fn cached_rows(&mut self) -> Result<(ValueId, Option<ValueId>), BuildError> {
        let d_latent = self.cfg.d_latent;
        let down = self.project("dkv", "DKV", d_latent)?;
        let gain = self.weight("g_kv", &[d_latent])?;
        let c_kv = self
            .g
            .rms_norm("c_kv", self.cfg.latent_norm_eps, down, gain, self.dtype)?;
        let latent = self.scaled("c_kv_scaled", self.cfg.latent_scale, c_kv)?;
        let mut args = vec![self.cache, latent];
        if self.d_rope > 0 {
            let k_r = self.project("k_r", "KR", self.d_rope)?;
            args.push(self.rotated("k_pe", k_r, self.q_len)?);
        }
        args.extend([self.block_table, self.q_len, self.kv_len]);
        let (table, kv_len) = (self.block_table, self.kv_len);
        let write = Op::CacheWrite;
        self.new_cache = self.g.push("new_cache", write, &args, self.dtype, &[])?;
        let width = (d_latent + self.d_rope).into();
        let read = Op::CacheRead;
        let rows = self.g.push(
            "rows",
            read,
            &[self.new_cache, table, kv_len],
            self.dtype,
            &[B, S, width],
        )?;
        if self.d_rope == 0 {
            return Ok((rows, None));
        }
        let c = self.g.slice("c", 2, 0, d_latent, rows)?;
        Ok((c, Some(self.g.slice("kr", 2, d_latent, self.d_rope, rows)?)))
    }

    /// Keys \[B, S, H, d_nope\] and values \[B, S, H, d_v\] of every cached token.
    fn decompressed(&mut self, c: ValueId) -> Result<(ValueId, ValueId), BuildError> {
        let MlaConfig {
            n_heads,
            d_nope,
            d_v,
            d_latent,
            ..
        } = *self.cfg;
        let w_uk = self.weight("W_UK", &[n_heads, d_nope, d_latent])?;
        let mut k = self
            .g
            .einsum("k_nope", "b s c, h n c -> b s h n", c, w_uk, self.dtype)?;
        if self.coupled_rope {
            // With kv_len for q_len, token s of the keys stands at position s.
            k = self.rotated("k_rot", k, self.kv_len)?;
        }
        let w_uv = self.weight("W_UV", &[n_heads, d_v, d_latent])?;
        let v = self.g.einsum("v", "b s c, h v c -> b s h v", c, w_uv, self.dtype)?;
        Ok((k, v))
    }

    /// Softmax of the scores, the weighted sum of the values, and the output projection.
    fn attention(
        &mut self,
        q: ValueId,
        k: ValueId,
        rope: Option<(ValueId, ValueId)>,
        v: ValueId,
    ) -> Result<ValueId, BuildError> {
        let MlaConfig {
            d_model,
            n_heads,
            d_v,
            softmax_scale,
            ..
        } = *self.cfg;
        let content_name = if rope.is_some() { "scores_nope" } else { "scores" };
        let mut scores = self
            .g
            .einsum(content_name, "b t h n, b s h n -> b t h s", q, k, DType::F32)?;
        if let Some((q_pe, kr)) = rope {
            let of_rope = self
                .g
                .einsum("scores_pe", "b t h r, b s r -> b t h s", q_pe, kr, DType::F32)?;
            scores = self.g.add("scores", scores, of_rope, DType::F32)?;
        }
        let scaled = self.g.scale("scores_scaled", softmax_scale, scores, DType::F32)?;
        let lengths = [scaled, self.q_len, self.kv_len];
        let masked = self.g.push("scores_masked", Op::Mask, &lengths, DType::F32, &[])?;
        let p = self.g.push("p", Op::Softmax, &[masked], self.dtype, &[])?;
        let o = self.g.einsum("o", "b t h s, b s h v -> b t h v", p, v, self.dtype)?;
        let w_o = self.weight("W_O", &[d_model, n_heads, d_v])?;
        let out = self.g.einsum("out", "b t h v, d h v -> b t d", o, w_o, self.dtype)?;
        self.biased("out", "O", d_model, out)
    }
}

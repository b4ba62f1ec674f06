//! Attention of the DeepSeek-V2 paper for one sequence, without a cache: all tokens at once, in plain loops.

use mlafuse_ir::config::{MlaConfig, RopePairing};
use mlafuse_ir::interp::Value;
use std::collections::BTreeMap;

type Weights = BTreeMap<String, Value<f64>>;

fn get<'a>(w: &'a Weights, name: &str) -> &'a [f64] {
    w[name].as_floats().unwrap()
}

/// Rows `rows` of a matrix [.., x.len()] times x.
fn matvec(m: &[f64], first_row: usize, rows: usize, x: &[f64]) -> Vec<f64> {
    let n = x.len();
    (first_row..first_row + rows)
        .map(|r| (0..n).map(|i| m[r * n + i] * x[i]).sum())
        .collect()
}

fn biased(mut x: Vec<f64>, w: &Weights, name: &str) -> Vec<f64> {
    if let Some(b) = w.get(name) {
        x.iter_mut().zip(b.as_floats().unwrap()).for_each(|(x, b)| *x += b);
    }
    x
}

fn norm(x: &[f64], gain: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(gain).map(|(v, g)| v * g / (mean + eps).sqrt()).collect()
}

fn rotate(x: &[f64], pairing: RopePairing, position: usize, w: &Weights) -> Vec<f64> {
    let half = x.len() / 2;
    if half == 0 || !w.contains_key("rope_cos") {
        return x.to_vec();
    }
    let mut y = x.to_vec();
    for i in 0..half {
        let (c, s) = (
            get(w, "rope_cos")[position * half + i],
            get(w, "rope_sin")[position * half + i],
        );
        let (p, q) = if pairing == RopePairing::HalfSplit {
            (i, i + half)
        } else {
            (2 * i, 2 * i + 1)
        };
        y[p] = x[p] * c - x[q] * s;
        y[q] = x[p] * s + x[q] * c;
    }
    y
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// What one token leaves for later ones, and asks of earlier ones.
struct Token {
    q_nope: Vec<Vec<f64>>,
    q_pe: Vec<Vec<f64>>,
    k_nope: Vec<Vec<f64>>,
    k_pe: Vec<f64>,
    v: Vec<Vec<f64>>,
}

fn token(cfg: &MlaConfig, w: &Weights, x: &[f64], position: usize, coupled: bool) -> Token {
    let eps = cfg.latent_norm_eps;
    let times = |x: Vec<f64>, f: f64| x.into_iter().map(|v| v * f).collect::<Vec<_>>();
    let d_rope = if coupled { 0 } else { cfg.d_rope };
    let c_q = match cfg.d_q_latent {
        Some(d_q) => norm(
            &biased(matvec(get(w, "W_DQ"), 0, d_q, x), w, "b_DQ"),
            get(w, "g_q"),
            eps,
        ),
        None => x.to_vec(),
    };
    let c_q = times(c_q, cfg.q_latent_scale);
    let c_kv = biased(matvec(get(w, "W_DKV"), 0, cfg.d_latent, x), w, "b_DKV");
    let c_kv = times(norm(&c_kv, get(w, "g_kv"), eps), cfg.latent_scale);
    let turn = |v: Vec<f64>| rotate(&v, cfg.rope.pairing, position, w);
    let heads = |name: &str, rows: usize, x: &[f64]| -> Vec<Vec<f64>> {
        (0..cfg.n_heads)
            .map(|h| matvec(get(w, name), h * rows, rows, x))
            .collect()
    };
    let (mut q_nope, mut k_nope) = (heads("W_UQ", cfg.d_nope, &c_q), heads("W_UK", cfg.d_nope, &c_kv));
    if coupled {
        q_nope = q_nope.into_iter().map(turn).collect();
        k_nope = k_nope.into_iter().map(turn).collect();
    }
    let (mut q_pe, mut k_pe) = (vec![Vec::new(); cfg.n_heads], Vec::new());
    if d_rope > 0 {
        q_pe = heads("W_QR", d_rope, &c_q).into_iter().map(turn).collect();
        k_pe = turn(biased(matvec(get(w, "W_KR"), 0, d_rope, x), w, "b_KR"));
    }
    Token {
        q_nope,
        q_pe,
        k_nope,
        k_pe,
        v: heads("W_UV", cfg.d_v, &c_kv),
    }
}

/// The layer's output for each token of one sequence, `hidden` being their rows of d_model.
pub fn sequence(cfg: &MlaConfig, w: &Weights, hidden: &[Vec<f64>], coupled: bool) -> Vec<Vec<f64>> {
    let tokens: Vec<Token> = hidden
        .iter()
        .enumerate()
        .map(|(i, x)| token(cfg, w, x, i, coupled))
        .collect();
    let mut out = Vec::new();
    for (i, query) in tokens.iter().enumerate() {
        let mut joined = Vec::new();
        for h in 0..cfg.n_heads {
            let score =
                |k: &Token| (dot(&query.q_nope[h], &k.k_nope[h]) + dot(&query.q_pe[h], &k.k_pe)) * cfg.softmax_scale;
            let weights: Vec<f64> = tokens[..=i].iter().map(|k| score(k).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..cfg.d_v {
                let sum: f64 = weights.iter().zip(&tokens).map(|(p, k)| p * k.v[h][d]).sum();
                joined.push(sum / total);
            }
        }
        out.push(biased(matvec(get(w, "W_O"), 0, cfg.d_model, &joined), w, "b_O"));
    }
    out
}

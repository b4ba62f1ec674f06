//! What the integration tests share: a seeded number source, and an MLA layer written as plain loops.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod naive;
pub mod random;

use mlafuse_ir::config::{MlaConfig, RopePairing};
use mlafuse_ir::graph::{Graph, Op};
use mlafuse_ir::interp::Value;
use mlafuse_ir::size::{Dims, Symbol};
use std::collections::BTreeMap;

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn units(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// What varies between the small layers under test.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub query_latent: bool,
    pub bias: bool,
    pub d_rope: usize,
    pub pairing: RopePairing,
    pub scales: bool,
}

pub fn config(v: Variant) -> MlaConfig {
    let mut cfg = MlaConfig::from_inline("heads=3,d_model=10,d_latent=7,d_rope=4,d_nope=6,d_v=5,d_q_latent=8").unwrap();
    cfg.d_rope = v.d_rope;
    cfg.rope.pairing = v.pairing;
    cfg.attention_bias = v.bias;
    if !v.query_latent {
        cfg.d_q_latent = None;
    }
    if v.scales {
        cfg.q_latent_scale = if v.query_latent { 1.25 } else { 1.0 };
        cfg.latent_scale = 1.5;
    }
    cfg
}

pub const PAGE: usize = 4;
pub const POSITIONS: usize = 64;

/// One batch: how long each sequence's cache is and how many of those tokens are new.
pub struct Batch {
    pub q_len: Vec<usize>,
    pub kv_len: Vec<usize>,
}

impl Batch {
    pub fn dims(&self, pages: usize, table_width: usize) -> Dims {
        Dims::new()
            .with(Symbol::B, self.q_len.len())
            .with(Symbol::T, *self.q_len.iter().max().unwrap())
            .with(Symbol::S, *self.kv_len.iter().max().unwrap())
            .with(Symbol::N, pages)
            .with(Symbol::P, table_width)
            .with(Symbol::L, POSITIONS)
    }
}

pub fn lengths(of: &[usize]) -> Value<f64> {
    Value::ints(&[of.len()], of.iter().map(|&n| n as i32).collect())
}

/// Random values for every weight, gain, bias and rope table of a layer; not for lengths, tokens or cache.
pub fn weights(graph: &Graph, rng: &mut Rng) -> BTreeMap<String, Value<f64>> {
    let mut inputs = BTreeMap::new();
    for node in &graph.nodes {
        let Op::Input { name, .. } = &node.op else { continue };
        if [
            "hidden",
            "cache",
            "block_table",
            "q_len",
            "kv_len",
            "rope_cos",
            "rope_sin",
        ]
        .contains(&name.as_str())
        {
            continue;
        }
        let shape: Vec<usize> = node.ty.shape.iter().map(|d| d.value(&Dims::new()).unwrap()).collect();
        inputs.insert(name.clone(), Value::floats(&shape, rng.units(shape.iter().product())));
    }
    if let Some(cos) = graph.input("rope_cos") {
        let half = graph.ty(cos).shape[1].value(&Dims::new()).unwrap();
        let angle = |i: usize| (i / half) as f32 * 10f32.powf(-((i % half) as f32) / half as f32);
        let table = |f: fn(f32) -> f32| (0..POSITIONS * half).map(|i| f64::from(f(angle(i)))).collect();
        inputs.insert("rope_cos".into(), Value::floats(&[POSITIONS, half], table(f32::cos)));
        inputs.insert("rope_sin".into(), Value::floats(&[POSITIONS, half], table(f32::sin)));
    }
    inputs
}

/// A block table of shuffled pages for `longest` tokens a sequence, garbage in the entries past that.
pub fn block_table(longest: &[usize], width: usize, pages: usize, rng: &mut Rng) -> Value<f64> {
    let mut free: Vec<i32> = (0..pages as i32).collect();
    for i in (1..free.len()).rev() {
        free.swap(i, rng.below(i + 1));
    }
    let garbage = [i32::MIN, -1, pages as i32, i32::MAX];
    let mut table = Vec::new();
    for &n in longest {
        for entry in 0..width {
            let used = entry < n.div_ceil(PAGE);
            table.push(if used {
                free.pop().unwrap()
            } else {
                garbage[rng.below(4)]
            });
        }
    }
    Value::ints(&[longest.len(), width], table)
}

/// Largest difference relative to the largest magnitude of `b`; NaN counts as infinite.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs());
    worst.fold(0.0, |m, d| {
        if d <= m {
            m
        } else if d.is_nan() {
            f64::INFINITY
        } else {
            d
        }
    }) / scale
}

//! A small plan and a made-up judge, for tests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{Plan, fused};
use mlafuse_ir::size::{Dims, Symbol};
use mlafuse_ir::text::parse;
use mlafuse_runtime::{Identity, RuntimeError};

use crate::{Contest, Judge, Key, Task, TuneError};

/// Attention over a paged cache, its combine, and a product that has nothing to do with the cached tokens.
pub(crate) fn attention_plan() -> Plan {
    let text = "graph g {
        %cache = input \"cache\" : bf16[N, 4, 10] %table = input \"block_table\" : i32[B, P]
        %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
        %q = input \"q\" : bf16[B, T, 3, 10] %w = input \"w\" : bf16[5, 3, 8]
        %rows = cache_read %cache, %table, %kv_len : bf16[B, S, 10]
        %c = slice axis=2 start=0 len=8 %rows : bf16[B, S, 8]
        %scores = einsum \"b t h c, b s c -> b t h s\" %q, %rows : f32[B, T, 3, S]
        %masked = mask %scores, %q_len, %kv_len : f32[B, T, 3, S]
        %p = softmax %masked : bf16[B, T, 3, S]
        %o = einsum \"b t h s, b s c -> b t h c\" %p, %c : bf16[B, T, 3, 8]
        %y = einsum \"b t h c, d h c -> b t d\" %o, %w : bf16[B, T, 5]
        output \"y\" %y }";
    fused(&parse(text).unwrap()).unwrap()
}

/// One new token for each of `batch` sequences of `kv_len` tokens.
pub(crate) fn dims(batch: usize, kv_len: usize) -> Dims {
    let pages = kv_len.div_ceil(4);
    let sizes = [
        (Symbol::B, batch),
        (Symbol::T, 1),
        (Symbol::S, kv_len),
        (Symbol::P, pages),
        (Symbol::N, pages * batch),
        (Symbol::R, 16),
        (Symbol::G, 64),
    ];
    Dims::from_iter(sizes)
}

pub(crate) fn identity() -> Identity {
    Identity {
        device: "cpu".to_string(),
        part: "made up".to_string(),
        instructions: "portable".to_string(),
        threads: 2,
    }
}

pub(crate) fn key(plan: &Plan, kernel: &str, dims: &Dims) -> Key {
    Key::new(identity(), plan, plan.kernel(kernel).unwrap(), dims)
}

/// A schedule of so many columns.
pub(crate) fn schedule(width: usize) -> Schedule {
    format!("block 1x{width}, warps 1x1, stages 1").parse().unwrap()
}

/// A judge with a clock of its own: a launch takes as long as it says. `None` stands for a schedule that fails.
#[derive(Default)]
pub(crate) struct MadeUp {
    /// Microseconds by width; the first is the device's own.
    pub times: Vec<(usize, Option<f64>)>,
    /// Figures of single launches, which come before the others.
    pub first_times: RefCell<BTreeMap<usize, Vec<f64>>>,
    pub exact: bool,
    pub now: Cell<Duration>,
    pub launches: RefCell<BTreeMap<usize, usize>>,
}

impl MadeUp {
    pub fn new(times: &[(usize, Option<f64>)]) -> MadeUp {
        MadeUp {
            times: times.to_vec(),
            ..MadeUp::default()
        }
    }
}

impl Judge for MadeUp {
    fn identity(&self) -> Identity {
        identity()
    }

    fn is_exact(&self) -> bool {
        self.exact
    }

    fn check(&self, _: &Task<'_>) -> Result<(), TuneError> {
        Ok(())
    }

    fn candidates(&self, _: &Task<'_>) -> Result<Vec<Schedule>, TuneError> {
        Ok(self.times.iter().map(|&(width, _)| schedule(width)).collect())
    }

    fn contest<'a>(&'a self, _: &'a Task<'a>) -> Result<Box<dyn Contest + 'a>, TuneError> {
        Ok(Box::new(MadeUpContest(self)))
    }
}

struct MadeUpContest<'a>(&'a MadeUp);

impl Contest for MadeUpContest<'_> {
    fn us(&mut self, schedule: &Schedule) -> Result<f64, TuneError> {
        let width = schedule.block_n;
        *self.0.launches.borrow_mut().entry(width).or_default() += 1;
        let (_, us) = self.0.times.iter().find(|(other, _)| *other == width).unwrap();
        let mut first = self.0.first_times.borrow_mut();
        let first = first.get_mut(&width).and_then(Vec::pop);
        let us = first.or(*us).ok_or(RuntimeError::ForeignBuffer {
            device: "made up".into(),
        })?;
        self.0.now.set(self.0.now.get() + Duration::from_secs_f64(us / 1e6));
        Ok(us)
    }
}

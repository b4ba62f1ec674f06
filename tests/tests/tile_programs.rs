//! Every region of fused and unfused plans of random MLA layers, built under random schedules, executed on the CPU and
//! held against the f64 reference interpreter.
//!
//! Memory that no program may read, unused cache rows and everything a kernel has not written, is NaN; block-table
//! entries past a sequence's end are garbage; pages are shuffled and padded.

use mlafuse_codegen::build::{Processor, build, candidates, cpu_candidates, cpu_schedule};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::tile::{ParamKind, TileProgram};
use mlafuse_cpu::{CpuBuffer, CpuKernel, Level};
use mlafuse_ir::build::GraphBuilder;
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::{Graph, Op, ValueId};
use mlafuse_ir::interp::{Value, interpret};
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{Plan, Region, RegionKind, View, fused, unfused};
use mlafuse_ir::rewrite::{Machine, rewrite};
use mlafuse_ir::size::{Dim, Dims, Symbol};
use mlafuse_ir::target::{Arch, Target};
use mlafuse_tensor::{DType, HostTensor};
use mlafuse_tests::front::{self, Extras};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// splitmix64: the same cases on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// About normal, of deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64)
            .sum::<f64>()
            - 6.0
    }

    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// One launch: sizes, lengths and pages.
struct Batch {
    dims: Dims,
    page_size: usize,
    /// \[B, P\], garbage past each sequence's end.
    table: Vec<i32>,
    q_len: Vec<i32>,
    kv_len: Vec<i32>,
}

fn batch(random: &mut Random, page_size: usize, width: usize, dtype: DType) -> Batch {
    let (b, t) = (1 + random.below(3), 1 + random.below(3));
    let q_len: Vec<i32> = (0..b).map(|_| random.below(t + 1) as i32).collect();
    let longest = random.pick(&[3, 20, 70]);
    let kv_len: Vec<i32> = q_len
        .iter()
        .map(|&q| {
            let boundary = (page_size * (1 + random.below(3)) + random.below(3)) as i32 - 1;
            let any = random.below(longest) as i32 + q;
            random.pick(&[q, any, any, boundary.max(q)])
        })
        .collect();
    let s = kv_len.iter().map(|&len| len as usize).max().unwrap_or(0).max(1);
    let entries = s.div_ceil(page_size) + random.below(3);
    let mut free = random.shuffled(b * entries + 1);
    let needed = |sequence: usize| (kv_len[sequence] as usize).div_ceil(page_size);
    let table = (0..b * entries)
        .map(|i| {
            if i % entries < needed(i / entries) {
                free.pop().unwrap() as i32
            } else {
                random.pick(&[i32::MAX, -1, i32::MIN, 12345])
            }
        })
        .collect();
    let unit = 16 / dtype.size_bytes();
    let row = width.next_multiple_of(unit) + unit * random.below(2);
    let page = page_size * row + unit * random.below(3);
    let dims = Dims::new()
        .with(Symbol::B, b)
        .with(Symbol::T, t)
        .with(Symbol::S, s)
        .with(Symbol::P, entries)
        .with(Symbol::N, b * entries + 1)
        .with(Symbol::L, s + random.below(4))
        .with(Symbol::R, row)
        .with(Symbol::G, page)
        .with(Symbol::Z, 1 + random.below(5))
        .with(Symbol::W, 1 + random.below(20))
        .with(Symbol::F, 1 + random.below(50));
    Batch {
        dims,
        page_size,
        table,
        q_len,
        kv_len,
    }
}

impl Batch {
    fn size(&self, symbol: Symbol) -> usize {
        self.dims.get(symbol).unwrap()
    }

    fn shape(&self, dims: &[Dim]) -> Vec<usize> {
        dims.iter().map(|dim| dim.value(&self.dims).unwrap()).collect()
    }

    /// Page and row of every cached token that is there.
    fn tokens(&self) -> Vec<(usize, usize)> {
        let entries = self.size(Symbol::P);
        let sequence = |(b, &len): (usize, &i32)| (0..len as usize).map(move |token| (b, token)).collect::<Vec<_>>();
        self.kv_len
            .iter()
            .enumerate()
            .flat_map(sequence)
            .map(|(b, token)| {
                (
                    self.table[b * entries + token / self.page_size] as usize,
                    token % self.page_size,
                )
            })
            .collect()
    }
}

impl Batch {
    /// The elements of [B, T, ..] and [B, S, ..] for tokens that are there: unabsorbed attention makes no others.
    fn in_use(&self, plan: &Plan, value: ValueId, elements: &[f64]) -> Vec<f64> {
        let shape = &plan.graph.ty(value).shape;
        let lengths = match shape.get(1) {
            Some(Dim::Sym(Symbol::T)) => &self.q_len,
            Some(Dim::Sym(Symbol::S)) => &self.kv_len,
            _ => return elements.to_vec(),
        };
        let sizes = self.shape(shape);
        let row = sizes[2..].iter().product::<usize>();
        let of_sequence = |(elements, &length): (&[f64], &i32)| elements[..length as usize * row].to_vec();
        elements
            .chunks(sizes[1] * row)
            .zip(lengths)
            .flat_map(of_sequence)
            .collect()
    }
}

/// Values for the graph's inputs, already rounded to their types.
fn inputs(graph: &Graph, batch: &Batch, random: &mut Random) -> BTreeMap<String, Value<f64>> {
    let mut inputs = BTreeMap::new();
    for value in graph.values() {
        let node = graph.node(value);
        let Op::Input { name, .. } = &node.op else { continue };
        let shape = batch.shape(&node.ty.shape);
        let count: usize = shape.iter().product();
        let round = |data: Vec<f64>| {
            HostTensor::from_f64(&shape, &data)
                .unwrap()
                .to_dtype(node.ty.dtype)
                .to_f64_vec()
        };
        let input = match name.as_str() {
            "q_len" => Value::ints(&shape, batch.q_len.clone()),
            "kv_len" => Value::ints(&shape, batch.kv_len.clone()),
            "block_table" => Value::ints(&shape, batch.table.clone()),
            "cache" => {
                let width = shape[2];
                let mut data = vec![f64::NAN; count];
                for (page, row) in batch.tokens() {
                    let start = (page * batch.page_size + row) * width;
                    data[start..start + width].fill_with(|| random.normal());
                }
                Value::floats(&shape, round(data))
            }
            "rope_cos" => Value::floats(&shape, round((0..count).map(|i| (0.7 * i as f64).cos()).collect())),
            "rope_sin" => Value::floats(&shape, round((0..count).map(|i| (0.7 * i as f64).sin()).collect())),
            "hidden" => Value::floats(&shape, round((0..count).map(|_| random.normal()).collect())),
            gain if gain.starts_with("g_") => {
                Value::floats(&shape, round((0..count).map(|_| 1.0 + 0.1 * random.normal()).collect()))
            }
            _ => {
                let width = *shape.last().unwrap_or(&1) as f64;
                Value::floats(
                    &shape,
                    round((0..count).map(|_| 1.5 * random.normal() / width.sqrt()).collect()),
                )
            }
        };
        inputs.insert(name.clone(), input);
    }
    inputs
}

/// The element index of every element of a view, in row-major order.
fn addresses(view: &View, dims: &Dims) -> Vec<usize> {
    let shape: Vec<usize> = view.shape.iter().map(|dim| dim.value(dims).unwrap()).collect();
    let strides: Vec<usize> = view.strides.iter().map(|stride| stride.value(dims).unwrap()).collect();
    let offset: usize = view.offset.iter().map(|size| size.value(dims).unwrap()).sum();
    let mut found = vec![offset];
    for (&n, &stride) in shape.iter().zip(&strides) {
        found = found
            .iter()
            .flat_map(|&at| (0..n).map(move |i| at + i * stride))
            .collect();
    }
    found
}

/// The buffers of a plan: inputs as given, everything else NaN.
struct Memory(Vec<CpuBuffer>);

impl Memory {
    fn new(plan: &Plan, dims: &Dims, inputs: &BTreeMap<String, Value<f64>>) -> Memory {
        let mut memory: Vec<Vec<u8>> = plan
            .buffers
            .iter()
            // All ones is NaN in every float type.
            .map(|buffer| vec![0xff; buffer.size.value(dims).unwrap() * buffer.dtype.size_bytes()])
            .collect();
        for value in plan.graph.values() {
            let node = plan.graph.node(value);
            let Op::Input { name, .. } = &node.op else { continue };
            let view = plan.view(value).unwrap();
            let shape = inputs[name].shape().to_vec();
            let tensor = match &inputs[name] {
                Value::F { data, .. } => HostTensor::from_f64(&shape, data).unwrap().to_dtype(node.ty.dtype),
                Value::I { data, .. } => HostTensor::from_i32(&shape, data).unwrap(),
            };
            let size = node.ty.dtype.size_bytes();
            let bytes = &mut memory[view.buffer.0];
            for (i, address) in addresses(view, dims).into_iter().enumerate() {
                bytes[address * size..][..size].copy_from_slice(&tensor.bytes()[i * size..][..size]);
            }
        }
        Memory(memory.iter().map(|bytes| CpuBuffer::from_bytes(bytes)).collect())
    }

    fn read(&self, plan: &Plan, dims: &Dims, view: &View) -> Vec<f64> {
        let dtype = plan.buffer(view.buffer).dtype;
        let bytes = self.0[view.buffer.0].bytes();
        let whole = HostTensor::from_bytes(dtype, &[bytes.len() / dtype.size_bytes()], bytes)
            .unwrap()
            .to_f64_vec();
        addresses(view, dims)
            .into_iter()
            .map(|address| whole[address])
            .collect()
    }

    fn launch(&self, program: &TileProgram, dims: &Dims, level: Level) {
        let kernel = CpuKernel::prepare(program, level).unwrap_or_else(|e| panic!("{e}\n{program}"));
        let tensors: Vec<&CpuBuffer> = program
            .params
            .iter()
            .filter_map(|param| match param.kind {
                ParamKind::Tensor { buffer, .. } => Some(&self.0[buffer.0]),
                ParamKind::Scalar(_) => None,
            })
            .collect();
        kernel
            .launch(dims, &tensors)
            .unwrap_or_else(|e| panic!("{e}\n{program}"));
    }
}

/// Where a schedule comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// Those that are measured on a processor.
    Cpu,
    /// Those that fit a part.
    Gpu,
    /// Any positive sizes: every backend but the GPU must take them.
    Any,
}

fn processor(random: &mut Random) -> Processor {
    Processor {
        threads: random.pick(&[1, 2, 64]),
        second_level: random.pick(&[256 << 10, 1 << 20, 2 << 20]),
        streams_bf16: random.pick(&[true, false]),
    }
}

fn schedule(plan: &Plan, region: &Region, batch: &Batch, source: Source, random: &mut Random) -> Schedule {
    match source {
        Source::Cpu => {
            let found = cpu_candidates(plan, region, &processor(random), &batch.dims).unwrap();
            random.pick(&found)
        }
        Source::Gpu => {
            let target = Target::for_arch(random.pick(&[Arch::Sm80, Arch::Sm120, Arch::Sm90a]));
            let found = candidates(plan, region, &target, &batch.dims).unwrap();
            random.pick(&found)
        }
        Source::Any => {
            let rotated = match region.kind {
                RegionKind::Node(value) if matches!(plan.graph.node(value).op, Op::Rope { .. }) => {
                    plan.graph.ty(value).shape.last().unwrap().value(&batch.dims).unwrap()
                }
                _ => 0,
            };
            let block_n = match rotated {
                0 => 1 + random.below(40),
                d => d + 2 * random.below(4),
            };
            Schedule {
                block_m: 1 + random.below(20),
                block_n,
                block_k: 1 + random.below(40),
                warps_m: 1,
                warps_n: 1 + random.below(2),
                warps_k: 1 + random.below(3),
                transposed: random.below(2) == 1,
                stages: 1 + random.below(3),
            }
        }
    }
}

/// The reference for every value that some node computes.
fn reference(graph: &Graph, batch: &Batch, inputs: &BTreeMap<String, Value<f64>>) -> BTreeMap<ValueId, Vec<f64>> {
    let mut all = graph.clone();
    all.outputs = graph.values().map(|value| (format!("v{}", value.0), value)).collect();
    let found = interpret::<f64>(&all, &batch.dims, inputs).unwrap();
    let floats = |value: ValueId| found[&format!("v{}", value.0)].as_floats().map(<[f64]>::to_vec);
    graph
        .values()
        .filter_map(|value| Some((value, floats(value)?)))
        .collect()
}

/// ‖got - want‖ / ‖want‖ over elements where `want` is finite; elsewhere both must be alike. Values are of order 1;
/// a few that cancel to less are measured against that.
fn relative_error(got: &[f64], want: &[f64], what: &str) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}");
    let (mut difference, mut norm, mut count) = (0.0, 0.0, 0.0);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        if want.is_finite() {
            assert!(got.is_finite(), "{what}: element {i} is {got}, expected {want}");
            difference += (got - want).powi(2);
            norm += want.powi(2);
            count += 1.0;
        } else {
            assert!(
                got == want || got.is_nan() && want.is_nan(),
                "{what}: element {i} is {got}, expected {want}"
            );
        }
    }
    if difference == 0.0 {
        0.0
    } else {
        (difference / f64::max(norm, count)).sqrt()
    }
}

/// The layer, unabsorbed or as the rewrites make it for decode.
fn layer(config: &str, options: &LayerOptions, absorbed: bool) -> Graph {
    let config = MlaConfig::from_inline(config).unwrap();
    let graph = build_layer(&config, options).unwrap();
    if !absorbed {
        return graph;
    }
    let typical = Dims::new()
        .with(Symbol::B, 8)
        .with(Symbol::T, 1)
        .with(Symbol::S, 4096)
        .with(Symbol::P, 64)
        .with(Symbol::N, 1024)
        .with(Symbol::L, 4096);
    rewrite(&graph, &typical, &Machine::default()).unwrap().graph
}

struct Case<'a> {
    config: &'a str,
    dtype: DType,
    page_size: usize,
    absorbed: bool,
    fuse: bool,
    source: Source,
    seed: u64,
}

fn check(case: &Case) {
    let Case {
        config,
        dtype,
        page_size,
        absorbed,
        fuse,
        source,
        seed,
    } = *case;
    let graph = layer(
        config,
        &LayerOptions {
            dtype,
            page_size,
            coupled_rope: false,
        },
        absorbed,
    );
    let plan = if fuse { fused(&graph) } else { unfused(&graph) }.unwrap();
    let has = |wanted: fn(&RegionKind) -> bool| plan.kernels.iter().any(|kernel| wanted(&kernel.kind));
    let attention = has(|kind| matches!(kind, RegionKind::Attention(_)));
    let prefill = has(|kind| matches!(kind, RegionKind::Prefill(_)));
    assert_eq!((attention, prefill), (fuse && absorbed, fuse && !absorbed), "{plan}");
    let width = graph.ty(graph.input("cache").unwrap()).shape[2]
        .value(&Dims::new())
        .unwrap();
    let random = &mut Random(seed);
    let batch = batch(random, page_size, width, dtype);
    // Rounding to bf16 at every boundary adds up over the layer; f32 is held to what one kernel may lose.
    let tolerance = if dtype == DType::F32 { 2e-5 } else { 4e-2 };
    check_plan(
        &plan,
        &batch,
        source,
        random,
        tolerance,
        &format!("{config}, seed {seed}"),
    );
}

/// Runs the kernels one after the other, at every level that this processor has, and compares what each has made.
fn check_plan(plan: &Plan, batch: &Batch, source: Source, random: &mut Random, tolerance: f64, words: &str) {
    let inputs = inputs(&plan.graph, batch, random);
    let want = reference(&plan.graph, batch, &inputs);
    let runs = Level::available().map(|level| (level, Memory::new(plan, &batch.dims, &inputs)));
    let runs: Vec<(Level, Memory)> = runs.collect();
    let is_prefill = |region: &Region| matches!(region.kind, RegionKind::Prefill(_));
    let unabsorbed = plan.kernels.iter().any(is_prefill);
    for region in &plan.kernels {
        let schedule = schedule(plan, region, batch, source, random);
        let program = build(plan, region, &schedule).unwrap();
        let results = plan.results(region);
        for (level, memory) in &runs {
            memory.launch(&program, &batch.dims, *level);
        }
        for ((level, memory), &result) in runs
            .iter()
            .flat_map(|run| results.iter().map(move |result| (run, result)))
        {
            let got = memory.read(plan, &batch.dims, plan.view(result).unwrap());
            let name = &plan.graph.node(result).name;
            let what = format!("`{name}` of {} of {words}, {source:?} {schedule}, {level}", region.name);
            let (got, want) = match unabsorbed {
                true => (
                    batch.in_use(plan, result, &got),
                    batch.in_use(plan, result, &want[&result]),
                ),
                false => (got, want[&result].clone()),
            };
            let error = relative_error(&got, &want, &what);
            assert!(
                error <= tolerance,
                "{what}: relative error {error:e}\n{:?}\n{program}",
                batch.dims
            );
        }
    }
}

/// What the layer does not use: parts of merged weights, sums over two dimensions that do not merge, biases, concats
/// along every dimension, casts.
fn odd_graph() -> Graph {
    let (b, t) = (Dim::Sym(Symbol::B), Dim::Sym(Symbol::T));
    let (f32, bf16) = (DType::F32, DType::BF16);
    let dims = |dims: &[usize]| dims.iter().map(|&n| Dim::Const(n)).collect::<Vec<_>>();
    let mut g = GraphBuilder::new("odd");
    let x = g.input("x", f32, &[b, t, 6.into()]).unwrap();
    let merged = g.input("merged", f32, &dims(&[3, 10, 6])).unwrap();
    let part = g.slice("part", 1, 4, 5, merged).unwrap();
    let q = g.einsum("q", "b t d, h n d -> b t h n", x, part, f32).unwrap();
    let tail = g.slice("tail", 3, 1, 4, q).unwrap();
    let wide = g.input("wide", f32, &dims(&[7, 3, 5])).unwrap();
    let cut = g.slice("cut", 2, 0, 4, wide).unwrap();
    let y = g.einsum("y", "b t h n, m h n -> b t m", tail, cut, f32).unwrap();
    let outer = g.einsum("outer", "b t m, h n d -> b t m h n d", y, part, f32).unwrap();
    let swapped = g.einsum("swapped", "h n d, b t d -> n b h t", part, x, f32).unwrap();
    let bias = g.input("bias", f32, &dims(&[3, 4])).unwrap();
    let biased = g.add("biased", tail, bias, f32).unwrap();
    let scaled = g.scale("scaled", -0.3, biased, f32).unwrap();
    let last = g.push("last", Op::Concat { axis: 3 }, &[q, scaled], f32, &[]).unwrap();
    let heads = g
        .push("heads", Op::Concat { axis: 2 }, &[tail, scaled], f32, &[])
        .unwrap();
    let half = g.push("half", Op::Cast, &[heads], bf16, &[]).unwrap();
    let soft = g.push("soft", Op::Softmax, &[tail], f32, &[]).unwrap();
    let gain = g.input("g_n", f32, &dims(&[4])).unwrap();
    let norm = g.rms_norm("norm", 1e-3, tail, gain, f32).unwrap();
    let gained = g.mul("gained", biased, bias, f32).unwrap();
    let inverse = g.inv_rms("inverse", 1e-3, gained, f32).unwrap();
    let rows = g.scale_rows("rows", gained, inverse, f32).unwrap();
    let of_tokens = g.inv_rms("of_tokens", 1e-3, y, f32).unwrap();
    let tokens = g.scale_rows("tokens", scaled, of_tokens, f32).unwrap();
    for value in [outer, swapped, last, half, soft, norm, rows, tokens] {
        let name = format!("out{}", value.0);
        g.output(&name, value);
    }
    g.finish()
}

#[test]
fn odd_nodes_agree_with_the_interpreter() {
    let plan = unfused(&odd_graph()).unwrap();
    for seed in 0..40 {
        let random = &mut Random(seed);
        let batch = batch(random, 4, 8, DType::F32);
        let source = random.pick(&[Source::Cpu, Source::Gpu, Source::Any]);
        // bf16 is rounded to once, at the end.
        check_plan(&plan, &batch, source, random, 2e-3, &format!("odd nodes, seed {seed}"));
    }
}

fn config() -> impl Strategy<Value = String> {
    let (heads, latent) = (
        prop_oneof![Just(1), Just(2), Just(5), Just(20)],
        prop_oneof![Just(7), Just(16), Just(40)],
    );
    let (rope, nope) = (
        prop_oneof![Just(0), Just(2), Just(24)],
        prop_oneof![Just(3), Just(8), Just(16)],
    );
    let query = prop_oneof![
        Just(String::new()),
        Just(",d_q_latent=13".to_string()),
        Just(",d_q_latent=32".to_string())
    ];
    (heads, latent, rope, nope, query).prop_map(|(heads, latent, rope, nope, query)| {
        format!("heads={heads},d_model=24,d_latent={latent},d_rope={rope},d_nope={nope},d_v=9{query}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn regions_agree_with_the_interpreter(
        config in config(),
        dtype in prop_oneof![3 => Just(DType::F32), 1 => Just(DType::BF16), 1 => Just(DType::F16)],
        page_size in prop_oneof![Just(1usize), Just(3), Just(16)],
        absorbed: bool,
        fuse: bool,
        source in prop_oneof![Just(Source::Cpu), Just(Source::Gpu), Just(Source::Any), Just(Source::Any)],
        seed: u64,
    ) {
        check(&Case { config: &config, dtype, page_size, absorbed, fuse, source, seed });
    }
}

/// Attention over cached rows, and each head's result times a weight whose dimensions lie in `order`.
fn projected([heads, d_latent, d_v]: [usize; 3], order: [usize; 3], page_size: usize, dtype: DType) -> Graph {
    let [b, t, s, n, p] = [Symbol::B, Symbol::T, Symbol::S, Symbol::N, Symbol::P].map(Dim::Sym);
    let [h, c, v] = [heads, d_latent, d_v].map(Dim::Const);
    let mut g = GraphBuilder::new("projected");
    let q = g.input("q", dtype, &[b, t, h, c]).unwrap();
    let cache = g.input("cache", dtype, &[n, page_size.into(), c]).unwrap();
    let table = g.input("block_table", DType::I32, &[b, p]).unwrap();
    let [q_len, kv_len] = ["q_len", "kv_len"].map(|name| g.input(name, DType::I32, &[b]).unwrap());
    let weight = g.input("w", dtype, &order.map(|i| [h, v, c][i])).unwrap();
    let rows = g
        .push("rows", Op::CacheRead, &[cache, table, kv_len], dtype, &[b, s, c])
        .unwrap();
    let scores = g
        .einsum("scores", "b t h c, b s c -> b t h s", q, rows, DType::F32)
        .unwrap();
    let scaled = g.scale("scaled", 0.3, scores, DType::F32).unwrap();
    let masked = g
        .push("masked", Op::Mask, &[scaled, q_len, kv_len], DType::F32, &[])
        .unwrap();
    let weights = g.push("weights", Op::Softmax, &[masked], dtype, &[]).unwrap();
    let x = g
        .einsum("x", "b t h s, b s c -> b t h c", weights, rows, dtype)
        .unwrap();
    let spec = format!("b t h c, {} -> b t h v", order.map(|i| ["h", "v", "c"][i]).join(" "));
    let out = g.einsum("out", &spec, x, weight, dtype).unwrap();
    g.output("out", out);
    g.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_projections_agree_with_the_interpreter(
        config in config(),
        dtype in prop_oneof![3 => Just(DType::F32), 1 => Just(DType::BF16), 1 => Just(DType::F16)],
        page_size in prop_oneof![Just(1usize), Just(3), Just(16)],
        (bias, factor, keep_content) in (any::<bool>(), prop::option::of(Just(0.7)), any::<bool>()),
        source in prop_oneof![Just(Source::Cpu), Just(Source::Gpu), Just(Source::Any)],
        seed: u64,
    ) {
        let model = MlaConfig::from_inline(&config).unwrap();
        let extras = Extras { bias, factor, keep_content };
        let plan = fused(&front::graph(&model, dtype, page_size, extras).unwrap()).unwrap();
        let random = &mut Random(seed);
        let batch = batch(random, page_size, model.d_latent + model.d_rope, dtype);
        let tolerance = if dtype == DType::F32 { 2e-5 } else { 4e-2 };
        check_plan(&plan, &batch, source, random, tolerance, &format!("{config}, {extras:?}, seed {seed}"));
    }

    #[test]
    fn projected_combines_agree_with_the_interpreter(
        heads in 1..6usize,
        d_latent in prop_oneof![Just(7usize), Just(16), 1..80usize],
        d_v in prop_oneof![Just(16usize), 1..40usize],
        order in Just([0, 1, 2]).prop_shuffle(),
        dtype in prop_oneof![3 => Just(DType::F32), 1 => Just(DType::BF16), 1 => Just(DType::F16)],
        source in prop_oneof![Just(Source::Cpu), Just(Source::Gpu), Just(Source::Any), Just(Source::Any)],
        seed: u64,
    ) {
        let plan = fused(&projected([heads, d_latent, d_v], order, 4, dtype)).unwrap();
        assert_eq!(plan.kernels.len(), 2, "{plan}");
        let random = &mut Random(seed);
        let batch = batch(random, 4, d_latent, dtype);
        let tolerance = if dtype == DType::F32 { 2e-5 } else { 4e-2 };
        check_plan(&plan, &batch, source, random, tolerance, &format!("order {order:?}, seed {seed}"));
    }

    /// The combine and the contraction in a kernel each round where both in one do.
    #[test]
    fn a_projected_combine_is_bitwise_its_two_parts(
        dims in [1..6usize, 1..200usize, 1..70usize],
        order in Just([0, 1, 2]).prop_shuffle(),
        dtype in prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)],
        seed: u64,
    ) {
        let graph = projected(dims, order, 4, dtype);
        let mut apart = graph.clone();
        let result = graph.values().find(|&value| graph.node(value).name == "x").unwrap();
        apart.outputs.push(("x".to_string(), result));
        let plans = [graph, apart].map(|graph| fused(&graph).unwrap());
        prop_assert_eq!(plans.each_ref().map(|plan| plan.kernels.len()), [2, 3]);
        let random = &mut Random(seed);
        let batch = batch(random, 4, dims[1], dtype);
        let inputs = inputs(&plans[0].graph, &batch, random);
        for level in Level::available() {
            let [together, apart] = plans.each_ref().map(|plan| output_bits(plan, &batch, &inputs, level));
            prop_assert_eq!(together, apart, "{}", level);
        }
    }
}

/// The output of a plan's kernels under their CPU schedules.
fn output_bits(plan: &Plan, batch: &Batch, inputs: &BTreeMap<String, Value<f64>>, level: Level) -> Vec<u64> {
    let memory = Memory::new(plan, &batch.dims, inputs);
    for region in &plan.kernels {
        let schedule = cpu_schedule(plan, region, &Processor::PLAIN, &batch.dims).unwrap();
        memory.launch(&build(plan, region, &schedule).unwrap(), &batch.dims, level);
    }
    let out = memory.read(plan, &batch.dims, plan.output("out").unwrap());
    out.into_iter().map(f64::to_bits).collect()
}

#[test]
fn wide_rows_agree_with_the_interpreter() {
    let config = "heads=16,d_model=64,d_latent=192,d_rope=64,d_nope=32,d_v=32,d_q_latent=96";
    for (source, absorbed, fuse, dtype) in [
        (Source::Cpu, true, true, DType::BF16),
        (Source::Gpu, true, true, DType::F32),
        (Source::Gpu, true, false, DType::BF16),
        (Source::Cpu, false, true, DType::F16),
        (Source::Gpu, false, true, DType::BF16),
    ] {
        for seed in 0..2 {
            check(&Case {
                config,
                dtype,
                page_size: 64,
                absorbed,
                fuse,
                source,
                seed,
            });
        }
    }
}

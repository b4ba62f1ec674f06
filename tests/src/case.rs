//! Cases: an MLA layer with its inputs in device memory, whose kernels run on an [`Executor`] one by one, each held to the f64
//! interpreter on exactly the values it reads.

use crate::executor::Executor;
use crate::machine::{DeviceBuffer, Memory};
use crate::reference::{self, Expected};
use half::{bf16, f16};
use mlafuse_codegen::build::{UNBALANCED, build};
use mlafuse_codegen::lower::lower;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::TileProgram;
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::plan::{self, BufferRole, Plan, Region, RegionKind, View};
use mlafuse_ir::presets::preset;
use mlafuse_ir::rewrite::{Machine, rewrite};
use mlafuse_ir::size::{Dims, Size, Symbol};
use mlafuse_ir::target::Target;
use mlafuse_tensor::DType;

/// What is computed, and from what.
#[derive(Clone, Debug)]
pub struct Case {
    /// The layer: a preset's name, or what `MlaConfig::from_inline` reads.
    pub model: String,
    /// Storage type.
    pub dtype: DType,
    /// Tokens a page.
    pub page_size: usize,
    /// New tokens and cached tokens (the new ones included) of each sequence.
    pub lengths: Vec<(usize, usize)>,
    /// Most parts that attention splits the cached tokens of a sequence into.
    pub splits: usize,
    /// Rewritten for decode (absorbed), or as the paper writes it.
    pub absorbed: bool,
    /// Attention in one kernel, or one kernel a node.
    pub fused: bool,
    /// Elements that the cache's rows are padded to a multiple of: 1 is the worst that a foreign cache may bring.
    pub row_align: usize,
    /// Seeds every number.
    pub seed: u64,
}

impl Case {
    /// Sizes of the launch.
    pub fn dims(&self) -> Dims {
        let config = self.config();
        let width = config.d_latent + config.d_rope;
        let longest = self.lengths.iter().map(|&(_, kv)| kv).max().unwrap_or(0).max(1);
        let tokens = self.lengths.iter().map(|&(q, _)| q).max().unwrap_or(0).max(1);
        let entries = longest.div_ceil(self.page_size) + 1;
        let row = width.next_multiple_of(self.row_align);
        Dims::new()
            .with(Symbol::B, self.lengths.len())
            .with(Symbol::T, tokens)
            .with(Symbol::S, longest)
            .with(Symbol::P, entries)
            .with(Symbol::N, self.lengths.len() * entries + 1)
            .with(Symbol::L, longest + 3)
            .with(Symbol::Z, self.splits)
            .with(Symbol::W, self.blocks())
            .with(Symbol::F, [1, 16, 40][self.seed as usize % 3])
            .with(Symbol::R, row)
            .with(Symbol::G, row * self.page_size + self.row_align)
    }

    /// Blocks that attention aims at: now so many that the batch asks nothing of a sequence, now as many as there may be.
    fn blocks(&self) -> usize {
        match self.seed % 4 {
            3 => UNBALANCED,
            _ => self.splits * self.lengths.len(),
        }
    }

    /// Dimensions of the model.
    ///
    /// # Panics
    /// Where there is no such model.
    pub fn config(&self) -> MlaConfig {
        preset(&self.model).ok().unwrap_or_else(|| {
            MlaConfig::from_inline(&self.model).unwrap_or_else(|error| panic!("{}: {error}", self.model))
        })
    }

    /// The plan of the layer.
    pub fn plan(&self) -> Plan {
        let options = LayerOptions {
            dtype: self.dtype,
            page_size: self.page_size,
            coupled_rope: false,
        };
        let mut graph = build_layer(&self.config(), &options).expect("a layer");
        if self.absorbed {
            // Of one token and many cached ones: what makes absorption pay.
            let typical = self.dims().with(Symbol::B, 1).with(Symbol::T, 1).with(Symbol::S, 4096);
            graph = rewrite(&graph, &typical, &Machine::default())
                .expect("a rewritten layer")
                .graph;
        }
        let plan = if self.fused {
            plan::fused(&graph)
        } else {
            plan::unfused(&graph)
        };
        plan.expect("a plan").with_stride_align(self.row_align)
    }
}

/// `plan` with attention's result in memory, where a projection of each head would have joined the combine.
pub fn unprojected(plan: &Plan) -> Plan {
    let projections = plan.kernels.iter().filter(|kernel| match &kernel.kind {
        RegionKind::Combine(combine) => combine.projection.is_some(),
        _ => false,
    });
    let left_out = projections.filter_map(|kernel| Some((kernel.fusion()?, "left out".to_string())));
    let align = plan.buffers.iter().map(|buffer| buffer.stride_align).max().unwrap_or(1);
    let plan = plan::fused_except(&plan.graph, &left_out.collect()).expect("a plan");
    plan.with_stride_align(align)
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// The next 64 bits.
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next_bits() % count.max(1) as u64) as usize
    }

    /// About normal, mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let unit = |n: &mut Numbers| (n.next_bits() >> 11) as f64 / (1u64 << 53) as f64;
        (0..12).map(|_| unit(self)).sum::<f64>() - 6.0
    }
}

/// A plan with its inputs in memory.
pub struct Run {
    /// The plan.
    pub plan: Plan,
    /// Sizes of the launch.
    pub dims: Dims,
    /// A buffer for each of the plan's.
    pub memory: Memory,
    dtype: DType,
}

impl Run {
    /// Inputs of `case` in memory. Cache rows beyond a length and unused block-table entries hold garbage and count as never
    /// written, so that reading them is a fault.
    pub fn new(case: &Case) -> Run {
        Run::of(case, case.plan())
    }

    /// As [`Run::new`], of another plan whose inputs are named like the layer's.
    pub fn of(case: &Case, plan: Plan) -> Run {
        let dims = case.dims();
        let mut numbers = Numbers::new(case.seed);
        let buffers = plan.buffers.iter().map(|buffer| {
            let elements = buffer.size.value(&dims).expect("every symbol is bound");
            match &buffer.role {
                BufferRole::Input(name) => input(case, &dims, name, buffer, elements, &mut numbers),
                _ => DeviceBuffer::empty(elements * buffer.dtype.size_bytes()),
            }
        });
        let memory = Memory {
            buffers: buffers.collect(),
        };
        Run {
            plan,
            dims,
            memory,
            dtype: case.dtype,
        }
    }

    /// Runs one kernel under `schedule` and compares what it wrote.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn kernel<E: Executor>(
        &mut self,
        executor: &mut E,
        region: &Region,
        schedule: &Schedule,
        target: &Target,
    ) -> Result<E::Stats, String> {
        let say = |what: String| format!("kernel `{}`, {schedule}: {what}", region.name);
        let program = build(&self.plan, region, schedule).map_err(|error| say(error.to_string()))?;
        let threads = lower(&program, schedule, target).map_err(|error| say(error.to_string()))?;
        self.execute(executor, region, schedule, &program, &threads)
            .map_err(say)
    }

    /// Runs `threads`, which was made from `program`, and compares as [`Run::kernel`] does.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn execute<E: Executor>(
        &mut self,
        executor: &mut E,
        region: &Region,
        schedule: &Schedule,
        program: &TileProgram,
        threads: &ThreadProgram,
    ) -> Result<E::Stats, String> {
        let expected = reference::expected(self, region, schedule)?;
        let launch = program.launch(&self.dims).map_err(|error| error.to_string())?;
        let stats = executor.execute(threads, &launch, &mut self.memory)?;
        expected.iter().try_for_each(|expected| self.compare(expected))?;
        Ok(stats)
    }

    /// Puts normal numbers of this deviation in what `region` reads and no kernel has written, so that it can run on its own.
    pub fn fill_temporaries(&mut self, region: &Region, numbers: &mut Numbers, deviation: f64) {
        for id in &region.reads {
            let (buffer, memory) = (&self.plan.buffers[id.0], &mut self.memory.buffers[id.0]);
            if buffer.role == BufferRole::Temp && !memory.written.iter().any(|&written| written) {
                let elements = memory.bytes.len() / buffer.dtype.size_bytes();
                let values = (0..elements).flat_map(|_| bytes(buffer.dtype, deviation * numbers.normal()));
                *memory = DeviceBuffer::holding(values.collect());
            }
        }
    }

    /// Every index of a view with the element's place in its buffer, in row-major order.
    pub fn places(&self, view: &View) -> Vec<usize> {
        let number = |size: &Size| size.value(&self.dims).expect("every symbol is bound");
        let offset: usize = view.offset.iter().map(number).sum();
        let mut places = vec![offset];
        for (dim, stride) in view.shape.iter().zip(&view.strides) {
            let (extent, stride) = (dim.value(&self.dims).expect("every symbol is bound"), number(stride));
            places = places
                .iter()
                .flat_map(|&place| (0..extent).map(move |i| place + i * stride))
                .collect();
        }
        places
    }

    /// The elements of a view; NaN for those that nobody has written.
    pub fn read(&self, view: &View) -> Vec<f64> {
        let dtype = self.plan.buffer(view.buffer).dtype;
        let buffer = &self.memory.buffers[view.buffer.0];
        self.places(view)
            .into_iter()
            .map(|place| element(buffer, dtype, place).unwrap_or(f64::NAN))
            .collect()
    }

    /// The integers of a view; 0x7fffffff for those that nobody has written.
    pub fn read_ints(&self, view: &View) -> Vec<i32> {
        self.read(view)
            .into_iter()
            .map(|value| if value.is_nan() { i32::MAX } else { value as i32 })
            .collect()
    }

    fn compare(&self, expected: &Expected) -> Result<(), String> {
        let name = &self.plan.buffer(expected.view.buffer).name;
        let dtype = self.plan.buffer(expected.view.buffer).dtype;
        let got = self.read(&expected.view);
        if got.len() != expected.values.len() {
            return Err(format!(
                "`{name}` has {} elements, expected {}",
                got.len(),
                expected.values.len()
            ));
        }
        let unit = half_place(dtype);
        for (index, (&got, &want)) in got.iter().zip(&expected.values).enumerate() {
            let allowed = expected.slack + unit * want.abs() + 1e-7;
            // NaN stands for what nobody writes, on both sides.
            let same = got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= allowed;
            if !same {
                return Err(format!(
                    "`{name}` element {index}: got {got}, expected {want} within {allowed:e}"
                ));
            }
        }
        Ok(())
    }

    /// Storage type of the layer.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// Half of the last place, relative to a power of two.
pub fn half_place(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

/// One element; `None` where nobody has written it.
pub(crate) fn element(buffer: &DeviceBuffer, dtype: DType, place: usize) -> Option<f64> {
    let range = place * dtype.size_bytes()..(place + 1) * dtype.size_bytes();
    let bytes = buffer.bytes.get(range.clone())?;
    if !buffer.written[range].iter().all(|&written| written) {
        return None;
    }
    Some(match (dtype, bytes) {
        (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
        (_, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]).into(),
        _ => return None,
    })
}

/// The bytes of `x` in `dtype`.
pub(crate) fn bytes(dtype: DType, x: f64) -> Vec<u8> {
    match dtype {
        DType::BF16 => bf16::from_f64(x).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        _ => (x as i32).to_le_bytes().to_vec(),
    }
}

/// An input of the layer, by its name.
fn input(
    case: &Case,
    dims: &Dims,
    name: &str,
    buffer: &plan::Buffer,
    elements: usize,
    numbers: &mut Numbers,
) -> DeviceBuffer {
    let dtype = buffer.dtype;
    let fill = |values: &mut dyn FnMut(usize) -> f64| {
        DeviceBuffer::holding((0..elements).flat_map(|i| bytes(dtype, values(i))).collect())
    };
    let fan_in = |skip: usize| {
        let inner = buffer.shape.iter().skip(skip).map(|dim| dim.value(dims).unwrap_or(1));
        (inner.product::<usize>().max(1) as f64).powf(-0.5)
    };
    match name {
        "q_len" => fill(&mut |i| case.lengths[i].0 as f64),
        "kv_len" => fill(&mut |i| case.lengths[i].1 as f64),
        "block_table" => block_table(case, dims),
        "cache" => cache(case, dims, elements, numbers),
        "rope_cos" | "rope_sin" => {
            let half = buffer.shape.last().and_then(|dim| dim.value(dims)).unwrap_or(1);
            fill(&mut |i| {
                let angle = (i / half) as f64 / 1e4f64.powf((i % half) as f64 / half as f64);
                if name == "rope_cos" { angle.cos() } else { angle.sin() }
            })
        }
        "W_O" => fill(&mut |_| numbers.normal() * fan_in(1)),
        // Rows over the last dimension; W_UK and W_UV are summed over it or over the one before.
        _ if name.starts_with("W_") => fill(&mut |_| numbers.normal() * fan_in(buffer.shape.len() - 1)),
        _ if name.starts_with("g_") => fill(&mut |_| 1.0 + 0.2 * numbers.normal()),
        _ => fill(&mut |_| numbers.normal()),
    }
}

/// Pages in an order of no meaning; entries beyond a length are not there.
fn block_table(case: &Case, dims: &Dims) -> DeviceBuffer {
    let entries = dims.get(Symbol::P).unwrap_or(0);
    let mut table = DeviceBuffer::empty(case.lengths.len() * entries * 4);
    for (sequence, &(_, kv_len)) in case.lengths.iter().enumerate() {
        for entry in 0..kv_len.div_ceil(case.page_size) {
            let page = page(case, dims, sequence, entry) as i32;
            table.put((sequence * entries + entry) * 4, &page.to_le_bytes());
        }
    }
    table
}

fn page(case: &Case, dims: &Dims, sequence: usize, entry: usize) -> usize {
    let pages = dims.get(Symbol::N).unwrap_or(1);
    // Backwards, so that neighbours of a sequence are not neighbours in memory.
    pages - 1 - (entry * case.lengths.len() + sequence)
}

/// The rows of every token. Those of this step's tokens are old: a write must replace them.
fn cache(case: &Case, dims: &Dims, elements: usize, numbers: &mut Numbers) -> DeviceBuffer {
    let config = case.config();
    let [row, page_stride] = [Symbol::R, Symbol::G].map(|symbol| dims.get(symbol).unwrap_or(0));
    let size = case.dtype.size_bytes();
    let mut cache = DeviceBuffer::empty(elements * size);
    for (sequence, &(_, kv_len)) in case.lengths.iter().enumerate() {
        for token in 0..kv_len {
            let page = page(case, dims, sequence, token / case.page_size);
            let start = page * page_stride + token % case.page_size * row;
            for col in 0..config.d_latent + config.d_rope {
                cache.put((start + col) * size, &bytes(case.dtype, numbers.normal()));
            }
        }
    }
    cache
}

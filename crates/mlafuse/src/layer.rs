//! One attention layer: weights, and steps over a paged cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::graph::Graph;
use mlafuse_ir::interp::interpret_stored;
use mlafuse_ir::rope::{RopeFrequencies, RopeTable};
use mlafuse_ir::size::Dims;
use mlafuse_runtime::{Buffer, Device, DeviceSpec, Executable, Splits, open};
use mlafuse_tensor::{Checkpoint, DType, HostTensor};
use mlafuse_tune::Records;

use crate::Error;
use crate::cache::{Layout, PagedKvCache, Rows};
use crate::load::{LoadProgress, Report, load};
use crate::memory::{download, upload, upload_ints};
use crate::pages::Pages;
use crate::plan::{PlanKind, PreparedLayer, check_storage, launch_dims, layer_graph, machine_of};
use crate::reference::Reference;
use crate::step::{Batch, Step, check, to_i32, zero_padding};
use crate::weights::LayerWeights;

/// How a layer is stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// What computes.
    pub device: DeviceSpec,
    /// Fused kernels, or one a node. The reference has neither.
    pub plan: PlanKind,
    /// Type of weights, activations and cache: bf16, f16 or f32. The reference has its own.
    pub dtype: DType,
    /// Tokens in a page of the cache, from 1.
    pub page_size: usize,
    /// How fused attention splits the cached tokens. With [`Splits::Fixed`] a sequence's output does not depend on the other
    /// sequences of its batch, bit for bit, as long as steps have as many rows T; kernels are then chosen for a batch of
    /// medium size. (Longrope models apart, whose rope tables are other ones once any sequence of the batch is longer than
    /// the model was first trained for.)
    pub splits: Splits,
}

impl Default for LayerOptions {
    /// The processor, fused, bf16, 64 tokens a page, balanced splits.
    fn default() -> LayerOptions {
        LayerOptions {
            device: DeviceSpec::Cpu,
            plan: PlanKind::Fused,
            dtype: DType::BF16,
            page_size: 64,
            splits: Splits::Balanced,
        }
    }
}

/// An attention layer, ready to run. May be used from several threads, each with its own cache.
pub struct MlaLayer {
    config: MlaConfig,
    options: LayerOptions,
    backend: Backend,
    rope: Mutex<Option<Arc<Rope>>>,
}

enum Backend {
    Device(Box<OnDevice>),
    F32(Reference<f32>),
    F64(Reference<f64>),
}

/// Weights on a device, and the plans made so far.
struct OnDevice {
    device: Arc<dyn Device>,
    layer: PreparedLayer,
    weights: BTreeMap<String, Buffer>,
    /// Where its kernels' schedules are looked up.
    records: Arc<Records>,
    /// By the B, T and S that they were made for.
    executables: Mutex<BTreeMap<[usize; 3], Arc<Executable>>>,
}

/// Rope tables, and their copies on the device.
struct Rope {
    frequencies: RopeFrequencies,
    table: RopeTable,
    buffers: Option<[Buffer; 2]>,
}

impl MlaLayer {
    /// Loads the attention layer at `prefix` (as `model.layers.0.self_attn`) of a checkpoint, one weight at a time.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape than `config` says, where the device cannot be opened or the options
    /// are not possible.
    pub fn load(
        checkpoint: &Checkpoint,
        prefix: &str,
        config: &MlaConfig,
        options: LayerOptions,
    ) -> Result<MlaLayer, Error> {
        check_storage(options.dtype, options.page_size)?;
        let weights = LayerWeights::load(checkpoint, prefix, config)?;
        MlaLayer::new(&weights, config, options)
    }

    /// A layer of given weights.
    ///
    /// # Errors
    /// Where the device cannot be opened or the options are not possible; where a weight cannot be read.
    pub fn new(weights: &LayerWeights, config: &MlaConfig, options: LayerOptions) -> Result<MlaLayer, Error> {
        MlaLayer::with_progress(weights, config, options, &mut |_| ())
    }

    /// As [`MlaLayer::new`], and tells how far it has come.
    ///
    /// The device gets the weights as its kernels read them ([`PreparedLayer`]), made one part at a time: beside those in place
    /// there are never more in memory than one part's original weights and what is computed from them. Pages of a checkpoint's
    /// mapped files are the system's, to drop when it likes.
    ///
    /// # Errors
    /// As [`MlaLayer::new`].
    pub fn with_progress(
        weights: &LayerWeights,
        config: &MlaConfig,
        options: LayerOptions,
        report: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<MlaLayer, Error> {
        let graph = layer_graph(config, options.dtype, options.page_size)?;
        let backend = match options.device {
            DeviceSpec::Reference { f64: false } => Backend::F32(Reference::new(graph, weights, report)?),
            DeviceSpec::Reference { f64: true } => Backend::F64(Reference::new(graph, weights, report)?),
            spec => {
                let on_device = OnDevice::new(open(spec)?, &graph, weights, options.dtype, report)?;
                Backend::Device(Box::new(on_device))
            }
        };
        Ok(MlaLayer::of(config, options, backend))
    }

    /// A plain implementation in `dtype`, to measure others by: the interpreter in f32, the layer unrewritten, and each
    /// node's result rounded to `dtype` where a framework would store it. Its options say `reference`.
    ///
    /// # Errors
    /// Where the type or the page size is not possible.
    pub fn plain(
        weights: &LayerWeights,
        config: &MlaConfig,
        dtype: DType,
        page_size: usize,
    ) -> Result<MlaLayer, Error> {
        let graph = layer_graph(config, dtype, page_size)?;
        let options = LayerOptions {
            device: DeviceSpec::Reference { f64: false },
            plan: PlanKind::Unfused,
            dtype,
            page_size,
            splits: Splits::Balanced,
        };
        let backend = Backend::F32(Reference::new(graph, weights, &mut |_| ())?.interpreted(interpret_stored));
        Ok(MlaLayer::of(config, options, backend))
    }

    /// The same, with its kernels under the schedules that these tuning records tell; [`TuningRecords::of_user`] where nothing
    /// is said. A record changes how fast a launch is, and how its sums are rounded. The reference has no schedules.
    ///
    /// [`TuningRecords::of_user`]: crate::TuningRecords::of_user
    pub fn with_records(mut self, records: Arc<Records>) -> MlaLayer {
        if let Backend::Device(on_device) = &mut self.backend {
            on_device.records = records;
            on_device.executables = Mutex::default();
        }
        self
    }

    fn of(config: &MlaConfig, options: LayerOptions, backend: Backend) -> MlaLayer {
        MlaLayer {
            config: config.clone(),
            options,
            backend,
            rope: Mutex::default(),
        }
    }

    /// Its shape.
    pub fn config(&self) -> &MlaConfig {
        &self.config
    }

    /// How it is computed.
    pub fn options(&self) -> &LayerOptions {
        &self.options
    }

    /// An empty cache for `sequences` sequences with room for `max_tokens` tokens each; one may take room that another
    /// leaves.
    ///
    /// # Errors
    /// [`Error::CacheSize`], or where memory does not suffice.
    pub fn new_cache(&self, sequences: usize, max_tokens: usize) -> Result<PagedKvCache, Error> {
        let pages = Pages::new(sequences, max_tokens, self.options.page_size)?;
        let layout = Layout::new(&self.config, self.options.dtype);
        match &self.backend {
            Backend::Device(backend) => PagedKvCache::on_device(Arc::clone(&backend.device), pages, layout),
            Backend::F32(_) => PagedKvCache::of_reference(false, pages, layout),
            Backend::F64(_) => PagedKvCache::of_reference(true, pages, layout),
        }
    }

    /// Appends new tokens to the sequences of `cache` and computes the layer's output for them: prefill and decode alike.
    ///
    /// `hidden` is \[B, T, d_model\]: T is 1 in decode; of sequence b the first `new_tokens[b]` rows are its new tokens, the
    /// others are ignored and their output is zero. New token i of a sequence sees all earlier ones and itself.
    ///
    /// # Errors
    /// Where an argument does not suit the layer or the cache, a sequence grows past the model's longest context, or the
    /// cache is full. The cache's lengths are then what they were.
    pub fn step(&self, cache: &mut PagedKvCache, hidden: &HostTensor, new_tokens: &[usize]) -> Result<Step, Error> {
        let lens = check(self, cache, hidden, new_tokens)?;
        let _span = tracing::debug_span!("step", hidden = ?hidden.shape(), ?new_tokens).entered();
        if new_tokens.iter().all(|&new| new == 0) {
            let out = HostTensor::zeros(self.out_type(), hidden.shape())?;
            return Ok(Step {
                out,
                kernels: Vec::new(),
                notes: Vec::new(),
            });
        }
        cache.pages.reserve(&lens)?;
        let (block_table, table_width) = cache.pages.table();
        let longest = lens.iter().copied().max().unwrap_or(0);
        let (q_len, kv_len) = (to_i32(new_tokens), to_i32(&lens));
        let batch = Batch {
            hidden,
            q_len,
            kv_len,
            block_table,
            table_width,
            longest,
        };
        let mut step = self.run(cache, &batch)?;
        zero_padding(&mut step.out, new_tokens);
        cache.pages.commit(&lens);
        Ok(step)
    }

    fn run(&self, cache: &mut PagedKvCache, batch: &Batch<'_>) -> Result<Step, Error> {
        let rope = self.rope(batch.longest, batch.room(cache.page_size()))?;
        let dims = batch.dims(cache, rope.table.positions);
        let of_reference = |out| Step {
            out,
            kernels: Vec::new(),
            notes: Vec::new(),
        };
        match (&self.backend, &mut cache.rows) {
            (Backend::Device(backend), Rows::Device { buffer, .. }) => {
                backend.step(batch, &dims, &rope, buffer, &self.options)
            }
            (Backend::F32(backend), Rows::F32(rows)) => {
                Ok(of_reference(backend.step(batch, &dims, &rope.table, rows)?))
            }
            (Backend::F64(backend), Rows::F64(rows)) => {
                Ok(of_reference(backend.step(batch, &dims, &rope.table, rows)?))
            }
            (_, rows) => Err(mismatch("memory", self.options.device, rows_name(rows))),
        }
    }

    fn out_type(&self) -> DType {
        match self.backend {
            Backend::F64(_) => DType::F64,
            _ => DType::F32,
        }
    }

    /// Checks that `cache` was made for a layer such as this.
    pub(crate) fn check_cache(&self, cache: &PagedKvCache) -> Result<(), Error> {
        let mine = Layout::new(&self.config, self.options.dtype);
        let expected = match self.backend {
            Backend::Device(_) => mine,
            Backend::F32(_) => Layout {
                row_stride: mine.width,
                dtype: DType::F32,
                ..mine
            },
            Backend::F64(_) => Layout {
                row_stride: mine.width,
                dtype: DType::F64,
                ..mine
            },
        };
        if cache.page_size() != self.options.page_size {
            return Err(mismatch("page size", self.options.page_size, cache.page_size()));
        }
        if cache.layout.width != expected.width {
            return Err(mismatch("row width", expected.width, cache.layout.width));
        }
        if cache.layout != expected {
            return Err(mismatch("element type", expected.dtype, cache.layout.dtype));
        }
        Ok(())
    }

    /// Tables for sequences with room for `room` tokens, of which the longest has `longest`. Longrope has other frequencies for
    /// long sequences than for short ones; else nothing depends on the lengths.
    fn rope(&self, longest: usize, room: usize) -> Result<Arc<Rope>, Error> {
        let frequencies = RopeFrequencies::new(&self.config, longest);
        let positions = room.min(self.config.max_position).max(longest);
        let mut kept = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rope) = kept.as_ref()
            && rope.table.positions >= positions
            && rope.frequencies == frequencies
        {
            return Ok(Arc::clone(rope));
        }
        let table = RopeTable::new(&self.config, positions, longest)?;
        let buffers = match &self.backend {
            Backend::Device(backend) => Some(backend.rope_buffers(&table)?),
            _ => None,
        };
        let rope = Arc::new(Rope {
            frequencies,
            table,
            buffers,
        });
        *kept = Some(Arc::clone(&rope));
        Ok(rope)
    }
}

fn mismatch(what: &'static str, expected: impl ToString, found: impl ToString) -> Error {
    Error::CacheMismatch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

fn rows_name(rows: &Rows) -> String {
    match rows {
        Rows::Device { device, .. } => device.name(),
        Rows::F32(_) => DeviceSpec::Reference { f64: false }.to_string(),
        Rows::F64(_) => DeviceSpec::Reference { f64: true }.to_string(),
    }
}

impl OnDevice {
    fn new(
        device: Arc<dyn Device>,
        graph: &Graph,
        weights: &LayerWeights,
        dtype: DType,
        report: Report<'_>,
    ) -> Result<OnDevice, Error> {
        let _span = tracing::info_span!("load", device = %device.name(), %dtype).entered();
        let layer = PreparedLayer::new(graph, &machine_of(device.as_ref(), dtype), device.target())?;
        let weights = load(device.as_ref(), &layer.prepared.weights, weights, report)?;
        Ok(OnDevice {
            device,
            layer,
            weights,
            records: Arc::new(Records::of_user()),
            executables: Mutex::default(),
        })
    }

    fn rope_buffers(&self, table: &RopeTable) -> Result<[Buffer; 2], Error> {
        let shape = [table.positions, table.d_half];
        let upload = |name, values: &[f32]| upload(self.device.as_ref(), name, &HostTensor::from_f32(&shape, values)?);
        Ok([upload("rope_cos", &table.cos)?, upload("rope_sin", &table.sin)?])
    }

    fn step(
        &self,
        batch: &Batch<'_>,
        dims: &Dims,
        rope: &Rope,
        cache: &Buffer,
        options: &LayerOptions,
    ) -> Result<Step, Error> {
        let room = batch.room(options.page_size);
        let executable = self.executable(dims, room, options)?;
        let dims = &options.splits.bind(dims, room, self.device.as_ref());
        let device = self.device.as_ref();
        let mut inputs = self.weights.clone();
        let mut bind = |name: &str, buffer: Buffer| inputs.insert(name.to_string(), buffer);
        let hidden = batch.hidden.to_dtype(options.dtype);
        bind("hidden", upload(device, "hidden", &hidden)?);
        for (name, values) in [
            ("block_table", &batch.block_table),
            ("q_len", &batch.q_len),
            ("kv_len", &batch.kv_len),
        ] {
            bind(name, upload_ints(device, name, values)?);
        }
        bind("cache", cache.clone());
        if let Some([cos, sin]) = &rope.buffers {
            bind("rope_cos", cos.clone());
            bind("rope_sin", sin.clone());
        }
        let run = executable.run(dims, &inputs)?;
        let out = download(device, &run, "out", options.dtype, batch.hidden.shape())?.to_dtype(DType::F32);
        Ok(Step {
            out,
            kernels: run.kernels,
            notes: executable.plan().notes.clone(),
        })
    }

    /// The executable for launches of about these sizes, for at most `room` cached tokens a sequence.
    fn executable(&self, dims: &Dims, room: usize, options: &LayerOptions) -> Result<Arc<Executable>, Error> {
        let class @ [sequences, new_tokens, cached] = options.splits.class(dims, room);
        let mut executables = self.executables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(executable) = executables.get(&class) {
            return Ok(Arc::clone(executable));
        }
        let hint = launch_dims(sequences, new_tokens, cached, options.page_size);
        let plan = self.layer.plan(options.plan, &hint)?.plan;
        let device = Arc::clone(&self.device);
        let executable = Arc::new(Executable::with_schedules(device, plan, &hint, self.records.as_ref())?);
        executables.insert(class, Arc::clone(&executable));
        Ok(executable)
    }
}

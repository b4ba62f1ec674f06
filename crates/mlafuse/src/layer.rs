//! One attention layer: weights, and steps over a paged cache.

use std::sync::{Arc, Mutex, PoisonError};

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::interp::interpret_stored;
use mlafuse_ir::rope::{RopeFrequencies, RopeTable};
use mlafuse_runtime::{Buffer, DeviceSpec, Splits, open};
use mlafuse_tensor::{Checkpoint, DType, HostTensor};
use mlafuse_tune::Records;

use crate::Error;
use crate::cache::{Layout, Lists, PagedKvCache, Rows};
use crate::load::LoadProgress;
use crate::on_device::{OnDevice, StepInputs, Told};
use crate::pages::Pages;
use crate::plan::{PlanKind, check_storage, layer_graph};
use crate::reference::Reference;
use crate::step::{Batch, Step, check, check_out, to_i32, zero_padding};
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

/// Rope tables, and their copies on the device.
struct Rope {
    /// Tokens of the longest sequence that they were made for.
    longest: usize,
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
    /// The device gets the weights as its kernels read them ([`PreparedLayer`](crate::PreparedLayer)), made one part at a time:
    /// beside those in place there are never more in memory than one part's original weights and what is computed from them.
    /// Pages of a checkpoint's mapped files are the system's, to drop when it likes.
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
            on_device.use_records(records);
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
            Backend::Device(backend) => PagedKvCache::on_device(backend.device(), pages, layout),
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
        let mut step = Step {
            out: HostTensor::zeros(self.out_type(), hidden.shape())?,
            kernels: Vec::new(),
            notes: Vec::new(),
        };
        let Step { out, kernels, notes } = &mut step;
        self.advance(cache, hidden, new_tokens, out, &mut |executable, frame| {
            kernels.extend(executable.kernel_times(frame));
            notes.extend_from_slice(&executable.plan().notes);
        })?;
        Ok(step)
    }

    /// As [`MlaLayer::step`], into `out`: a tensor of the shape of `hidden`, in f32 or, for the f64 reference, f64. On the processor
    /// a step allocates nothing once one with as many rows and as much room in the cache has been.
    ///
    /// # Errors
    /// As [`MlaLayer::step`], and where `out` has another shape or type.
    pub fn step_into(
        &self,
        cache: &mut PagedKvCache,
        hidden: &HostTensor,
        new_tokens: &[usize],
        out: &mut HostTensor,
    ) -> Result<(), Error> {
        check_out(out, hidden, self.out_type())?;
        self.advance(cache, hidden, new_tokens, out, &mut |_, _| ())
    }

    /// A step into `out`; `told` hears of what ran on a device.
    fn advance(
        &self,
        cache: &mut PagedKvCache,
        hidden: &HostTensor,
        new_tokens: &[usize],
        out: &mut HostTensor,
        told: Told<'_>,
    ) -> Result<(), Error> {
        let mut lists = std::mem::take(&mut cache.lists);
        let result = self.advance_with(&mut lists, cache, hidden, new_tokens, out, told);
        cache.lists = lists;
        result
    }

    fn advance_with(
        &self,
        lists: &mut Lists,
        cache: &mut PagedKvCache,
        hidden: &HostTensor,
        new_tokens: &[usize],
        out: &mut HostTensor,
        told: Told<'_>,
    ) -> Result<(), Error> {
        check(self, cache, hidden, new_tokens, &mut lists.lens)?;
        let _span = tracing::debug_span!("step", hidden = ?hidden.shape(), ?new_tokens).entered();
        if new_tokens.iter().all(|&new| new == 0) {
            out.bytes_mut().fill(0);
            return Ok(());
        }
        cache.pages.reserve(&lists.lens)?;
        let table_width = cache.pages.write_table(&mut lists.block_table);
        for (list, lens) in [(&mut lists.q_len, new_tokens), (&mut lists.kv_len, &lists.lens)] {
            list.clear();
            list.extend(to_i32(lens));
        }
        let batch = Batch {
            hidden,
            lists,
            table_width,
            longest: lists.lens.iter().copied().max().unwrap_or(0),
        };
        self.run(cache, &batch, out, told)?;
        zero_padding(out, new_tokens);
        cache.pages.commit(&lists.lens);
        Ok(())
    }

    fn run(
        &self,
        cache: &mut PagedKvCache,
        batch: &Batch<'_>,
        out: &mut HostTensor,
        told: Told<'_>,
    ) -> Result<(), Error> {
        let rope = self.rope(batch.longest, batch.room(cache.page_size()))?;
        let dims = batch.dims(cache, rope.table.positions);
        match (&self.backend, &mut cache.rows) {
            (Backend::Device(backend), Rows::Device { buffer, .. }) => {
                let inputs = StepInputs {
                    batch,
                    dims: &dims,
                    rope: rope.buffers.as_ref(),
                    cache: buffer,
                };
                return backend.step(&inputs, &self.options, out, told);
            }
            (Backend::F32(backend), Rows::F32(rows)) => *out = backend.step(batch, &dims, &rope.table, rows)?,
            (Backend::F64(backend), Rows::F64(rows)) => *out = backend.step(batch, &dims, &rope.table, rows)?,
            (_, rows) => return Err(mismatch("memory", self.options.device, rows_name(rows))),
        }
        Ok(())
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
        let positions = room.min(self.config.max_position).max(longest);
        let mut kept = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rope) = kept.as_ref()
            && rope.table.positions >= positions
            && RopeFrequencies::agree(&self.config, rope.longest, longest)
        {
            return Ok(Arc::clone(rope));
        }
        let table = RopeTable::new(&self.config, positions, longest)?;
        let buffers = match &self.backend {
            Backend::Device(backend) => Some(backend.rope_buffers(&table)?),
            _ => None,
        };
        let rope = Arc::new(Rope {
            longest,
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

//! The attention core alone, for engines with a layer and a cache of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mlafuse_ir::build::{BuildError, GraphBuilder};
use mlafuse_ir::graph::{Graph, Op, ValueId};
use mlafuse_ir::plan::{BufferId, BufferRole, Plan, RegionKind, fused};
use mlafuse_ir::size::{Dim, Dims, Symbol};
use mlafuse_ir::target::Target;
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::nvrtc::Nvrtc;
use mlafuse_runtime::{
    CompiledKernel, Device, DeviceSpec, Executable, KernelTime, SourceKernel, Splits, compile_region, open,
    region_source,
};
use mlafuse_tensor::{DType, HostTensor};
use mlafuse_tune::Records;

use crate::Error;
use crate::memory::{download, upload};
use crate::plan::{check_storage, launch_dims};
use crate::step::to_i32;

/// What an attention core computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// H, query heads on this rank; any number.
    pub n_heads: usize,
    /// Columns of a cached row that are the latent: key and value.
    pub d_latent: usize,
    /// Columns after them that are the rope key; 0 where there is none.
    pub d_rope: usize,
    /// Type of queries, cache and result: bf16, f16 or f32.
    pub dtype: DType,
    /// Tokens in a page of the cache.
    pub page_size: usize,
    /// Factor on the scores: (d_nope + d_rope)^-1/2, times mscale² under YaRN; not (d_latent + d_rope)^-1/2.
    pub softmax_scale: f64,
}

/// One launch's arguments. Float tensors of another type than the shape's are converted.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// The absorbed content query, \[B, T, H, d_latent\].
    pub q_latent: &'a HostTensor,
    /// The rotated rope query, \[B, T, H, d_rope\]; absent where d_rope is 0.
    pub q_pe: Option<&'a HostTensor>,
    /// \[pages, page_size, row_stride\] in the shape's type: rows of the latent, then the rope key, then any padding.
    pub cache: &'a HostTensor,
    /// Pages of each sequence in order, i32 \[B, P\]. Entries past a sequence's length are never looked at.
    pub block_table: &'a HostTensor,
    /// Tokens of each sequence that are query tokens, at most T: the last of those cached.
    pub q_len: &'a [usize],
    /// Cached tokens of each sequence, the query's own included.
    pub kv_len: &'a [usize],
}

/// What a launch gives.
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// \[B, T, H, d_latent\], f32; zeros where a token sees nothing. Rows from q_len on mean nothing.
    pub out: HostTensor,
    /// The natural logarithm of the sum of exponentials, \[B, T, H\], f32; -inf where a token sees nothing.
    pub lse: HostTensor,
    /// Each kernel launch, in order.
    pub kernels: Vec<KernelTime>,
}

/// Attention over a paged latent cache: split over the cached tokens, then combined.
///
/// Query token i of a sequence sees the cached tokens j <= kv_len - q_len + i.
///
/// The kernels, their arguments and their grids follow from the tensors' shapes. Lengths and block tables are read on the
/// device; the host looks at them to refuse what would lead a kernel astray.
pub struct DecodeAttention {
    shape: AttentionShape,
    plan: Plan,
    device: Arc<dyn Device>,
    splits: Splits,
    records: Arc<Records>,
    /// By the B, T and S that they were made for, and whether rows are 16-byte aligned.
    executables: Mutex<BTreeMap<Class, Arc<Executable>>>,
}

/// What launches that share kernels have in common.
type Class = ([usize; 3], bool);

const LSE: &str = "lse_of_splits";

impl DecodeAttention {
    /// An attention core on a device.
    ///
    /// # Errors
    /// Where the shape is not possible or the device cannot be opened.
    pub fn new(shape: AttentionShape, device: DeviceSpec) -> Result<DecodeAttention, Error> {
        let plan = attention_plan(&shape)?;
        Ok(DecodeAttention {
            shape,
            plan,
            device: open(device)?,
            splits: Splits::Balanced,
            records: Arc::new(Records::of_user()),
            executables: Mutex::default(),
        })
    }

    /// The same, with the cached tokens split in another way; balanced where nothing is said. With [`Splits::Fixed`] a
    /// sequence's result does not depend on the other sequences of its batch, bit for bit, in launches of the same T.
    pub fn with_splits(self, splits: Splits) -> DecodeAttention {
        DecodeAttention {
            splits,
            executables: Mutex::default(),
            ..self
        }
    }

    /// The same, with its kernels under the schedules that these tuning records tell; [`TuningRecords::of_user`] where nothing
    /// is said.
    ///
    /// [`TuningRecords::of_user`]: crate::TuningRecords::of_user
    pub fn with_records(self, records: Arc<Records>) -> DecodeAttention {
        DecodeAttention {
            records,
            executables: Mutex::default(),
            ..self
        }
    }

    /// What it computes.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Its kernels: attention and combine.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// One launch.
    ///
    /// # Errors
    /// Where an argument has another shape or type, a length is not possible, or a block table names a page that is not
    /// there.
    pub fn run(&self, inputs: &AttentionInputs<'_>) -> Result<AttentionOutput, Error> {
        let sizes = self.check(inputs)?;
        let (device, dtype) = (self.device.as_ref(), self.shape.dtype);
        let mut bound = BTreeMap::new();
        let mut bind = |name: &str, tensor: &HostTensor| -> Result<(), Error> {
            bound.insert(name.to_string(), upload(device, name, tensor)?);
            Ok(())
        };
        bind("q_latent", &inputs.q_latent.to_dtype(dtype))?;
        if let Some(q_pe) = inputs.q_pe {
            bind("q_pe", &q_pe.to_dtype(dtype))?;
        }
        bind("cache", inputs.cache)?;
        for (name, values) in [
            ("block_table", inputs.block_table.to_i32_vec()?),
            ("q_len", to_i32(inputs.q_len).collect()),
            ("kv_len", to_i32(inputs.kv_len).collect()),
        ] {
            bind(name, &HostTensor::from_i32(&[values.len()], &values)?)?;
        }
        let executable = self.executable(&sizes)?;
        let dims = sizes.dims(&self.shape);
        let dims = self.splits.bind(&dims, sizes.room(&self.shape), device);
        let run = executable.run(&dims, &bound)?;
        let rows = [sizes.sequences, sizes.tokens, self.shape.n_heads];
        let out_shape = [rows.as_slice(), &[self.shape.d_latent]].concat();
        let out = download(device, &run, "out", dtype, &out_shape)?.to_dtype(DType::F32);
        let split_shape = [run.splits, rows.iter().product()];
        let of_splits = download(device, &run, LSE, DType::F32, &split_shape)?;
        let lse = HostTensor::from_f32(&rows, &combined(&of_splits)?)?;
        Ok(AttentionOutput {
            out,
            lse,
            kernels: run.kernels,
        })
    }

    /// The kernels' CUDA C++ for a part, under the schedules that the model ranks first. `dims` are the typical sizes of a
    /// launch (see [`launch_dims`]).
    ///
    /// # Errors
    /// Where no schedule fits the part.
    pub fn cuda_source(&self, target: &Target, dims: &Dims) -> Result<Vec<SourceKernel>, Error> {
        let kernels = self.plan.kernels.iter();
        kernels
            .map(|region| Ok(region_source(&self.plan, region, target, dims)?))
            .collect()
    }

    /// The kernels as PTX and CUBIN for a part, under the first schedules that spill no register.
    ///
    /// # Errors
    /// Where no schedule fits the part, and those of NVRTC.
    pub fn compile(
        &self,
        target: &Target,
        dims: &Dims,
        nvrtc: &Nvrtc,
        cache: &KernelCache,
    ) -> Result<Vec<CompiledKernel>, Error> {
        let kernels = self.plan.kernels.iter();
        kernels
            .map(|region| Ok(compile_region(&self.plan, region, target, dims, nvrtc, cache)?))
            .collect()
    }

    fn executable(&self, sizes: &Sizes) -> Result<Arc<Executable>, Error> {
        let whole = (16 / self.shape.dtype.size_bytes()).max(1);
        let class = self.splits.class(&sizes.dims(&self.shape), sizes.room(&self.shape));
        let key = (class, sizes.row_stride.is_multiple_of(whole));
        let mut executables = self.executables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(executable) = executables.get(&key) {
            return Ok(Arc::clone(executable));
        }
        let plan = if key.1 {
            self.plan.clone()
        } else {
            self.plan.clone().with_stride_align(1)
        };
        let [sequences, tokens, cached] = class;
        let hint = launch_dims(sequences, tokens, cached, self.shape.page_size);
        let device = Arc::clone(&self.device);
        let executable = Arc::new(Executable::with_schedules(device, plan, &hint, self.records.as_ref())?);
        executables.insert(key, Arc::clone(&executable));
        Ok(executable)
    }

    fn check(&self, inputs: &AttentionInputs<'_>) -> Result<Sizes, Error> {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            page_size,
            ..
        } = self.shape;
        let &[sequences, tokens, heads, width] = inputs.q_latent.shape() else {
            return Err(wrong_shape(
                "q_latent",
                &format!("[B, T, {n_heads}, {d_latent}]"),
                inputs.q_latent,
            ));
        };
        if (heads, width) != (n_heads, d_latent) {
            return Err(wrong_shape(
                "q_latent",
                &format!("[B, T, {n_heads}, {d_latent}]"),
                inputs.q_latent,
            ));
        }
        check_query("q_latent", inputs.q_latent)?;
        let expected = [sequences, tokens, n_heads, d_rope];
        match inputs.q_pe {
            Some(q_pe) if q_pe.shape() == expected && d_rope > 0 => check_query("q_pe", q_pe)?,
            Some(q_pe) => {
                return Err(wrong_shape(
                    "q_pe",
                    &format!("{expected:?} (none where d_rope is 0)"),
                    q_pe,
                ));
            }
            None if d_rope == 0 => {}
            None => {
                return Err(Error::Absent {
                    argument: "q_pe",
                    expected: expected.to_vec(),
                });
            }
        }
        let row = d_latent + d_rope;
        let (pages, row_stride) = match inputs.cache.shape() {
            &[pages, page, row_stride] if page == page_size && row_stride >= row => (pages, row_stride),
            _ => {
                return Err(wrong_shape(
                    "cache",
                    &format!("[N, {page_size}, at least {row}]"),
                    inputs.cache,
                ));
            }
        };
        if inputs.cache.dtype() != dtype {
            let found = inputs.cache.dtype();
            return Err(Error::Type {
                argument: "cache",
                allowed: dtype.to_string(),
                found,
            });
        }
        let table_width = match inputs.block_table.shape() {
            &[found, width] if found == sequences => width,
            _ => {
                return Err(wrong_shape(
                    "block_table",
                    &format!("[{sequences}, P]"),
                    inputs.block_table,
                ));
            }
        };
        check_lengths(inputs, sequences, tokens, table_width.saturating_mul(page_size))?;
        check_pages(inputs, table_width, page_size, pages)?;
        Ok(Sizes {
            sequences,
            tokens,
            pages,
            table_width,
            row_stride,
        })
    }
}

/// A launch's sizes.
struct Sizes {
    sequences: usize,
    tokens: usize,
    pages: usize,
    table_width: usize,
    row_stride: usize,
}

impl Sizes {
    /// Cached tokens of a sequence for which the block table has room.
    fn room(&self, shape: &AttentionShape) -> usize {
        self.table_width.saturating_mul(shape.page_size)
    }

    fn dims(&self, shape: &AttentionShape) -> Dims {
        launch_dims(self.sequences, self.tokens, self.room(shape), shape.page_size)
            .with(Symbol::N, self.pages)
            .with(Symbol::P, self.table_width)
            .with_cache_strides(self.row_stride, shape.page_size)
    }
}

fn wrong_shape(argument: &'static str, expected: &str, found: &HostTensor) -> Error {
    Error::Shape {
        argument,
        expected: expected.to_string(),
        found: found.shape().to_vec(),
    }
}

fn check_query(argument: &'static str, query: &HostTensor) -> Result<(), Error> {
    match query.dtype().is_float() {
        true => Ok(()),
        false => Err(Error::Type {
            argument,
            allowed: "f64, f32, f16, bf16".to_string(),
            found: query.dtype(),
        }),
    }
}

fn check_lengths(inputs: &AttentionInputs<'_>, sequences: usize, tokens: usize, longest: usize) -> Result<(), Error> {
    let longest = longest.min(i32::MAX as usize);
    for (argument, lens) in [("q_len", inputs.q_len), ("kv_len", inputs.kv_len)] {
        if lens.len() != sequences {
            return Err(Error::Count {
                argument,
                expected: sequences,
                found: lens.len(),
            });
        }
    }
    for (sequence, (&q_len, &kv_len)) in inputs.q_len.iter().zip(inputs.kv_len).enumerate() {
        if kv_len > longest {
            let allowed = format!("at most {longest}, the room of the block table");
            return Err(Error::Length {
                argument: "kv_len",
                sequence,
                found: kv_len,
                allowed,
            });
        }
        if q_len > tokens.min(kv_len) {
            let allowed = format!("at most {}, of T and kv_len", tokens.min(kv_len));
            return Err(Error::Length {
                argument: "q_len",
                sequence,
                found: q_len,
                allowed,
            });
        }
    }
    Ok(())
}

/// A GPU would read whatever memory an entry leads to.
fn check_pages(inputs: &AttentionInputs<'_>, width: usize, page_size: usize, pages: usize) -> Result<(), Error> {
    let table = inputs.block_table.to_i32_vec()?;
    for (sequence, (row, &kv_len)) in table.chunks(width.max(1)).zip(inputs.kv_len).enumerate() {
        let used = row.iter().take(kv_len.div_ceil(page_size)).enumerate();
        for (entry, &found) in used {
            if usize::try_from(found).is_ok_and(|page| page < pages) {
                continue;
            }
            return Err(Error::Page {
                sequence,
                entry,
                found,
                pages,
            });
        }
    }
    Ok(())
}

/// log Σ exp over the splits of \[Z, rows\]. +inf is that of splits which are not there.
fn combined(of_splits: &HostTensor) -> Result<Vec<f32>, Error> {
    let rows = of_splits.shape().last().copied().unwrap_or(0);
    let values = of_splits.as_f32()?;
    let of_row = |row: usize| {
        let of_splits = values.iter().skip(row).step_by(rows.max(1)).copied();
        of_splits.filter(|&lse| lse < f32::INFINITY)
    };
    let combine = |row: usize| {
        let max = of_row(row).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = of_row(row).map(|lse| (lse - max).exp()).sum();
        if max == f32::NEG_INFINITY { max } else { max + sum.ln() }
    };
    Ok((0..rows).map(combine).collect())
}

/// The fused plan of the core, with the splits' log-sum-exps as an output.
fn attention_plan(shape: &AttentionShape) -> Result<Plan, Error> {
    check_storage(shape.dtype, shape.page_size)?;
    let mut plan = fused(&attention_graph(shape)?)?;
    let lse = plan.kernels.iter().find_map(|kernel| match &kernel.kind {
        RegionKind::Attention(attention) => Some(attention.lse),
        _ => None,
    });
    match lse.and_then(|BufferId(index)| plan.buffers.get_mut(index)) {
        Some(buffer) => buffer.role = BufferRole::Output(vec![LSE.to_string()]),
        None => {
            return Err(Error::NotFused {
                notes: plan.notes.join("; "),
            });
        }
    }
    Ok(plan)
}

fn attention_graph(shape: &AttentionShape) -> Result<Graph, BuildError> {
    let AttentionShape {
        n_heads,
        d_latent,
        d_rope,
        dtype,
        page_size,
        softmax_scale,
    } = *shape;
    let [b, t, s, n, p] = [Symbol::B, Symbol::T, Symbol::S, Symbol::N, Symbol::P].map(Dim::Sym);
    let row: Dim = (d_latent + d_rope).into();
    let mut g = GraphBuilder::new("mla_attention");
    let q_latent = g.input("q_latent", dtype, &[b, t, n_heads.into(), d_latent.into()])?;
    let q_pe = match d_rope {
        0 => None,
        _ => Some(g.input("q_pe", dtype, &[b, t, n_heads.into(), d_rope.into()])?),
    };
    let cache = g.input("cache", dtype, &[n, page_size.into(), row])?;
    let block_table = g.input("block_table", DType::I32, &[b, p])?;
    let q_len = g.input("q_len", DType::I32, &[b])?;
    let kv_len = g.input("kv_len", DType::I32, &[b])?;
    let rows = g.push(
        "rows",
        Op::CacheRead,
        &[cache, block_table, kv_len],
        dtype,
        &[b, s, row],
    )?;
    let (c, scores) = match q_pe {
        None => (rows, scores(&mut g, "scores", q_latent, rows)?),
        Some(q_pe) => {
            let c = g.slice("c", 2, 0, d_latent, rows)?;
            let kr = g.slice("kr", 2, d_latent, d_rope, rows)?;
            let content = scores(&mut g, "scores_nope", q_latent, c)?;
            let of_rope = scores(&mut g, "scores_pe", q_pe, kr)?;
            (c, g.add("scores", content, of_rope, DType::F32)?)
        }
    };
    let scaled = g.scale("scores_scaled", softmax_scale, scores, DType::F32)?;
    let masked = g.push("scores_masked", Op::Mask, &[scaled, q_len, kv_len], DType::F32, &[])?;
    let weights = g.push("p", Op::Softmax, &[masked], dtype, &[])?;
    let out = g.einsum("out", "b t h s, b s c -> b t h c", weights, c, dtype)?;
    g.output("out", out);
    Ok(g.finish())
}

fn scores(g: &mut GraphBuilder, name: &str, q: ValueId, k: ValueId) -> Result<ValueId, BuildError> {
    g.einsum(name, "b t h c, b s c -> b t h s", q, k, DType::F32)
}

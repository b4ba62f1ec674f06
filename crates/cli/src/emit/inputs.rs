//! Random memory for one kernel: every buffer it reads, and the cache it writes to in place.

use crate::random::Random;
use anyhow::{Context, Result, bail};
use mlafuse_ir::graph::Op;
use mlafuse_ir::plan::{Buffer, BufferId, BufferRole, Keys, Plan, Region, RegionKind, View};
use mlafuse_ir::size::{Dims, Size, Symbol};
use mlafuse_tensor::{DType, HostTensor};
use std::collections::BTreeMap;

/// Most elements of one buffer; 2 GiB in f32.
const LARGEST: usize = 1 << 29;

/// What the launch finds in memory.
pub struct Memory {
    /// Of each buffer that is read or written in place, in the buffer's own shape.
    pub buffers: BTreeMap<BufferId, HostTensor>,
    /// Cached tokens of each sequence: the whole length, and a shorter one where there are several.
    pub kv_lens: Vec<usize>,
}

/// The lengths of the sequences: full, but for the second, which is a quarter shorter where its new tokens allow it.
pub fn kv_lens(dims: &Dims) -> Result<Vec<usize>> {
    let [batch, new, cached] = [Symbol::B, Symbol::T, Symbol::S].map(|symbol| dims.get(symbol).unwrap_or(1));
    let mut lens = vec![cached; batch];
    if let Some(second) = lens.get_mut(1) {
        *second = new.max(cached - cached / 4);
    }
    Ok(lens)
}

/// The same memory for the same seed.
pub fn memory(plan: &Plan, region: &Region, dims: &Dims, seed: u64) -> Result<Memory> {
    let mut kv_lens = kv_lens(dims)?;
    if leaves_out_rows(plan, region) {
        kv_lens.fill(dims.get(Symbol::S).unwrap_or(1));
    }
    let mut buffers = BTreeMap::new();
    let written = region.writes.iter().filter(|id| is_cache(plan.buffer(**id)));
    for &id in region.reads.iter().chain(written) {
        let buffer = plan.buffer(id);
        let shape = shape(buffer, dims)?;
        let mut random = Random::new(seed, &format!("{} {}", region.name, buffer.name));
        let values = match &buffer.role {
            BufferRole::Input(name) if !buffer.dtype.is_float() => integers(name, &shape, &kv_lens, dims, seed)?,
            _ => floats(buffer, &shape, &mut random)?,
        };
        buffers.insert(id, values);
    }
    spoil(plan, region, dims, &kv_lens, &mut buffers)?;
    Ok(Memory { buffers, kv_lens })
}

/// Whether the kernel computes on cached rows in place, and so writes no row past a length: with all lengths whole, its result
/// is whole and can be compared.
fn leaves_out_rows(plan: &Plan, region: &Region) -> bool {
    let (RegionKind::Node(value), nodes) = (&region.kind, &region.nodes) else {
        return false;
    };
    let mut before = nodes.iter().filter(|&node| node != value);
    before.any(|&node| plan.graph.node(node).op == Op::CacheRead)
}

/// Whether pages and rows of the buffer are `G` and `R` elements apart.
pub fn is_cache(buffer: &Buffer) -> bool {
    buffer.size.symbols.contains(&Symbol::G)
}

/// The buffer's dimensions in memory: a cache's rows with their padding.
pub fn shape(buffer: &Buffer, dims: &Dims) -> Result<Vec<usize>> {
    let values: Option<Vec<usize>> = buffer.shape.iter().map(|dim| dim.value(dims)).collect();
    let mut shape = values.with_context(|| format!("buffer {}: a dimension has no value", buffer.name))?;
    if let (true, Some(last), Some(row)) = (is_cache(buffer), shape.last_mut(), dims.get(Symbol::R)) {
        *last = row;
    }
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    match elements {
        Some(n) if n <= LARGEST => Ok(shape),
        _ => bail!(
            "--stage launch: buffer {} would have shape {shape:?}; at most {LARGEST} elements are written: take a smaller \
             --kv-len, --q-len or --batch, or another --kernel",
            buffer.name
        ),
    }
}

fn floats(buffer: &Buffer, shape: &[usize], random: &mut Random) -> Result<HostTensor> {
    let values = random.normal(shape.iter().product());
    Ok(HostTensor::from_f32(shape, &values)?.to_dtype(buffer.dtype))
}

fn integers(name: &str, shape: &[usize], kv_lens: &[usize], dims: &Dims, seed: u64) -> Result<HostTensor> {
    let count = shape.iter().product();
    let small = |n: usize| i32::try_from(n).with_context(|| format!("{name}: {n} does not fit 32 bits"));
    let values = match name {
        "kv_len" => kv_lens.iter().map(|&len| small(len)).collect::<Result<_>>()?,
        "q_len" => vec![small(dims.get(Symbol::T).unwrap_or(1))?; count],
        "block_table" => block_table(shape, kv_lens, dims, seed)?,
        _ => bail!("--stage launch: the integer input {name} is not known"),
    };
    Ok(HostTensor::from_i32(shape, &values)?)
}

/// Pages in random order; entries past a sequence's length hold what must never be followed.
fn block_table(shape: &[usize], kv_lens: &[usize], dims: &Dims, seed: u64) -> Result<Vec<i32>> {
    let (Some(&entries), Some(pages), Some(page_size)) = (shape.get(1), dims.get(Symbol::N), page_size(dims)) else {
        bail!("--stage launch: the block table's sizes are unknown");
    };
    let order = Random::new(seed, "pages").permutation(pages);
    let mut order = order.into_iter();
    let mut table = Vec::with_capacity(shape.iter().product());
    for len in kv_lens {
        for entry in 0..entries {
            let used = entry * page_size < *len;
            let page = if used {
                order.next().map(i32::try_from).transpose()?
            } else {
                None
            };
            table.push(page.unwrap_or(i32::MAX));
        }
    }
    Ok(table)
}

/// Tokens a page, from the cache's strides.
pub fn page_size(dims: &Dims) -> Option<usize> {
    dims.get(Symbol::G)?.checked_div(dims.get(Symbol::R)?)
}

/// Puts NaN where the kernel must not look: unused rows and padding of a cache it reads, parts of empty splits.
fn spoil(
    plan: &Plan,
    region: &Region,
    dims: &Dims,
    kv_lens: &[usize],
    buffers: &mut BTreeMap<BufferId, HostTensor>,
) -> Result<()> {
    let cache = match &region.kind {
        RegionKind::Attention(attention) => Some((attention.cache, attention.block_table)),
        RegionKind::Node(_) => region.nodes.iter().find_map(|&node| {
            let node = plan.graph.node(node);
            match (&node.op, node.args.as_slice()) {
                (Op::CacheRead, &[cache, table, _]) => Some((cache, table)),
                _ => None,
            }
        }),
        RegionKind::UpProjection(_) => None,
        RegionKind::Combine(combine) => return spoil_last_split(combine.partial, combine.lse, dims, buffers),
        RegionKind::Prefill(prefill) => prefill.terms.iter().find_map(|term| match term.keys {
            Keys::Cached { cache, block_table, .. } => Some((cache, block_table)),
            Keys::PerHead(_) => None,
        }),
    };
    let buffer = |value| plan.view(value).map(|view: &View| view.buffer);
    let Some((cache, table)) = cache.and_then(|(cache, table)| buffer(cache).zip(buffer(table))) else {
        return Ok(());
    };
    let table = buffers
        .get(&table)
        .map(HostTensor::to_i32_vec)
        .transpose()?
        .unwrap_or_default();
    let Some(tensor) = buffers.get_mut(&cache) else {
        return Ok(());
    };
    let width = plan
        .buffer(cache)
        .shape
        .last()
        .and_then(|dim| dim.value(dims))
        .unwrap_or(0);
    let rows = used_rows(&table, kv_lens, dims);
    let row_stride = tensor.shape().last().copied().unwrap_or(1).max(1);
    let mut values = vec![f32::NAN; tensor.numel()];
    let random = tensor.to_f32_vec();
    for row in rows {
        let range = row * row_stride..row * row_stride + width;
        if let (Some(to), Some(from)) = (values.get_mut(range.clone()), random.get(range)) {
            to.copy_from_slice(from);
        }
    }
    *tensor = HostTensor::from_f32(tensor.shape(), &values)?.to_dtype(tensor.dtype());
    Ok(())
}

/// The cache rows that hold tokens, sequence by sequence: row = page · page_size + token in page.
fn used_rows(table: &[i32], kv_lens: &[usize], dims: &Dims) -> Vec<usize> {
    let page_size = page_size(dims).unwrap_or(1).max(1);
    let entries = table.len() / kv_lens.len().max(1);
    let sequences = kv_lens.iter().enumerate();
    let row = |b: usize, token: usize| {
        let page = usize::try_from(*table.get(b * entries + token / page_size)?).ok()?;
        Some(page * page_size + token % page_size)
    };
    sequences
        .flat_map(|(b, &len)| (0..len).filter_map(move |token| row(b, token)))
        .collect()
}

/// A combine must not read the part of a split without tokens, which nobody has written.
fn spoil_last_split(
    partial: BufferId,
    lse: BufferId,
    dims: &Dims,
    buffers: &mut BTreeMap<BufferId, HostTensor>,
) -> Result<()> {
    let splits = dims.get(Symbol::Z).unwrap_or(1);
    if splits < 2 {
        return Ok(());
    }
    for (id, value) in [(partial, f32::NAN), (lse, f32::NEG_INFINITY)] {
        let Some(tensor) = buffers.get_mut(&id) else { continue };
        let mut values = tensor.to_f32_vec();
        // Its first sequence.
        let of_split = values.len() / splits;
        let of_sequence = of_split / dims.get(Symbol::B).unwrap_or(1).max(1);
        let start = values.len() - of_split;
        if let Some(last) = values.get_mut(start..start + of_sequence) {
            last.fill(value);
        }
        *tensor = HostTensor::from_f32(tensor.shape(), &values)?.to_dtype(DType::F32);
    }
    Ok(())
}

/// The elements of a view, by its strides, in row-major order of its shape.
pub fn gather(view: &View, dims: &Dims, data: &[f64]) -> Result<(Vec<usize>, Vec<f64>)> {
    let (shape, places) = places(view, dims)?;
    let values: Option<Vec<f64>> = places.iter().map(|&place| data.get(place).copied()).collect();
    Ok((shape, values.context("a view reaches beyond its buffer")?))
}

/// Writes a view's elements to their places in its buffer.
pub fn scatter(view: &View, dims: &Dims, values: &[f64], data: &mut [f64]) -> Result<()> {
    let (_, places) = places(view, dims)?;
    for (&place, &value) in places.iter().zip(values) {
        *data.get_mut(place).context("a view reaches beyond its buffer")? = value;
    }
    Ok(())
}

fn places(view: &View, dims: &Dims) -> Result<(Vec<usize>, Vec<usize>)> {
    let known = |size: &Size| size.value(dims).with_context(|| format!("size {size} has no value"));
    let start = view.offset.iter().map(known).sum::<Result<usize>>()?;
    let strides = view.strides.iter().map(known).collect::<Result<Vec<_>>>()?;
    let shape: Option<Vec<usize>> = view.shape.iter().map(|dim| dim.value(dims)).collect();
    let shape = shape.context("a dimension has no value")?;
    let mut places = vec![start];
    for (&n, &stride) in shape.iter().zip(&strides) {
        places = places
            .iter()
            .flat_map(|place| (0..n).map(move |i| place + i * stride))
            .collect();
    }
    Ok((shape, places))
}

//! The paged cache of a layer.

use std::sync::Arc;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::interp::{Real, Value};
use mlafuse_runtime::{Buffer, Device};
use mlafuse_tensor::{DType, HostTensor};

use crate::Error;
use crate::pages::{CopiedRows, LARGEST, Pages};

/// The cached latents and rope keys of one layer, for a fixed number of sequences.
///
/// Memory is \[pages, page_size, row_stride\]: of each token the latent (d_latent), then the rope key (d_rope), then
/// padding to 16 bytes. Sequences take pages from a common free list as they grow, and may share those of a common
/// beginning ([`PagedKvCache::fork`]). Made by
/// [`MlaLayer::new_cache`](crate::MlaLayer::new_cache).
pub struct PagedKvCache {
    pub(crate) pages: Pages,
    /// Of the last step, kept so that the next need not allocate.
    pub(crate) lists: Lists,
    pub(crate) rows: Rows,
    pub(crate) layout: Layout,
}

/// A step's integers.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// Tokens of each sequence, the new ones included.
    pub lens: Vec<usize>,
    /// The same for the device.
    pub kv_len: Vec<i32>,
    /// New tokens of each sequence.
    pub q_len: Vec<i32>,
    /// \[B, P\].
    pub block_table: Vec<i32>,
}

/// Where a row's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// d_latent + d_rope.
    pub width: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    pub dtype: DType,
}

impl Layout {
    pub fn new(config: &MlaConfig, dtype: DType) -> Layout {
        let row_stride = config.cache_row_stride(dtype.size_bytes());
        Layout {
            width: config.cache_row_elems(),
            row_stride,
            dtype,
        }
    }
}

/// The memory.
pub(crate) enum Rows {
    /// On a device.
    Device { device: Arc<dyn Device>, buffer: Buffer },
    /// The interpreter's, in f32, without padding.
    F32(Value<f32>),
    /// The interpreter's, in f64, without padding.
    F64(Value<f64>),
}

impl PagedKvCache {
    pub(crate) fn on_device(device: Arc<dyn Device>, pages: Pages, layout: Layout) -> Result<PagedKvCache, Error> {
        let bytes = [
            pages.total(),
            pages.page_size(),
            layout.row_stride,
            layout.dtype.size_bytes(),
        ];
        let bytes = bytes
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .ok_or_else(|| too_large(&pages))?;
        let rows = Rows::Device {
            buffer: device.alloc("cache", bytes)?,
            device,
        };
        Ok(PagedKvCache::of(pages, rows, layout))
    }

    fn of(pages: Pages, rows: Rows, layout: Layout) -> PagedKvCache {
        PagedKvCache {
            pages,
            lists: Lists::default(),
            rows,
            layout,
        }
    }

    pub(crate) fn of_reference(f64: bool, pages: Pages, layout: Layout) -> Result<PagedKvCache, Error> {
        let dtype = if f64 { DType::F64 } else { DType::F32 };
        let layout = Layout {
            row_stride: layout.width,
            dtype,
            ..layout
        };
        let shape = [pages.total(), pages.page_size(), layout.width];
        // Checks the size and that there is so much memory.
        HostTensor::zeros(dtype, &shape)?;
        let elements = shape.iter().product();
        let rows = match f64 {
            true => Rows::F64(Value::floats(&shape, vec![0.0; elements])),
            false => Rows::F32(Value::floats(&shape, vec![0.0; elements])),
        };
        Ok(PagedKvCache::of(pages, rows, layout))
    }

    /// Number of sequences, B.
    pub fn sequences(&self) -> usize {
        self.pages.sequences()
    }

    /// Cached tokens of a sequence; `None` where there is no such sequence.
    pub fn len(&self, sequence: usize) -> Option<usize> {
        self.pages.len(sequence)
    }

    /// Whether no sequence has a token.
    pub fn is_empty(&self) -> bool {
        (0..self.sequences()).all(|sequence| self.len(sequence) == Some(0))
    }

    /// Tokens a page.
    pub fn page_size(&self) -> usize {
        self.pages.page_size()
    }

    /// Pages of the cache, and those of them that no sequence has.
    pub fn pages(&self) -> (usize, usize) {
        (self.pages.total(), self.pages.free().len())
    }

    /// Type of the cached elements.
    pub fn dtype(&self) -> DType {
        self.layout.dtype
    }

    /// Elements from one row to the next: d_latent + d_rope, padded to 16 bytes.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// The block table \[B, P\], i32: page numbers of each sequence in order; what stands past them means nothing. P is the
    /// pages that the tokens promised to each sequence need, at least 1, doubled until the longest sequence fits.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn block_table(&self) -> Result<HostTensor, Error> {
        let mut table = Vec::new();
        let width = self.pages.write_table(&mut table);
        Ok(HostTensor::from_i32(&[self.sequences(), width], &table)?)
    }

    /// Reserves pages so that each sequence has room for `tokens` more tokens (one number a sequence). A step reserves
    /// what it needs by itself; this says early whether there is room.
    ///
    /// # Errors
    /// [`Error::CacheFull`], with nothing reserved; [`Error::Count`], [`Error::Length`].
    pub fn grow(&mut self, tokens: &[usize]) -> Result<(), Error> {
        let mut lens = Vec::new();
        self.grown("tokens", tokens, LARGEST, &mut lens)?;
        self.pages.reserve(&lens)
    }

    /// Makes `lens` the lengths after `new` tokens more, each at most `longest`.
    pub(crate) fn grown(
        &self,
        argument: &'static str,
        new: &[usize],
        longest: usize,
        lens: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let expected = self.sequences();
        if new.len() != expected {
            return Err(Error::Count {
                argument,
                expected,
                found: new.len(),
            });
        }
        let longest = longest.min(LARGEST);
        lens.clear();
        for (sequence, &new) in new.iter().enumerate() {
            let len = self.len(sequence).unwrap_or(0);
            let allowed = || format!("at most {} after {len} cached ones", longest.saturating_sub(len));
            let grown = len.checked_add(new).filter(|&grown| grown <= longest);
            lens.push(grown.ok_or_else(|| Error::Length {
                argument,
                sequence,
                found: new,
                allowed: allowed(),
            })?);
        }
        Ok(())
    }

    /// Makes the empty sequence `to` a continuation of what `from` holds, as for several answers to one prompt. They share the
    /// full pages; the last page, where it is not full, is copied, so that both may go on as they like.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # use mlafuse::config::MlaConfig;
    /// # use mlafuse::{HostTensor, LayerOptions, LayerWeights, MlaLayer, checkpoint_tensors};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = MlaConfig::from_inline("heads=2,d_model=8,d_latent=8,d_rope=4,d_nope=4,d_v=4,d_q_latent=none")?;
    /// # let tensors: BTreeMap<String, HostTensor> = checkpoint_tensors(&config)
    /// #     .into_iter()
    /// #     .map(|spec| Ok((spec.suffix.to_string(), HostTensor::from_f32(&spec.shape, &vec![0.1; spec.shape.iter().product()])?)))
    /// #     .collect::<Result<_, mlafuse_tensor::TensorError>>()?;
    /// # let layer = MlaLayer::new(&LayerWeights::from_tensors(&config, &tensors)?, &config, LayerOptions::default())?;
    /// // Room for two sequences of 128 tokens, in pages of 64: 4 pages.
    /// let mut cache = layer.new_cache(2, 128)?;
    /// let prompt = HostTensor::from_f32(&[2, 70, 8], &vec![0.5; 2 * 70 * 8])?;
    /// layer.step(&mut cache, &prompt, &[70, 0])?;
    /// cache.fork(0, 1)?;
    /// assert_eq!((cache.len(1), cache.pages()), (Some(70), (4, 1)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Sequence`]; [`Error::Occupied`] where `to` holds tokens; [`Error::CacheFull`] where a page must be copied and
    /// none is free; those of the device, after which `to` is empty.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<(), Error> {
        let copied = match self.pages.fork(from, to)? {
            Some(rows) => self.copy(rows),
            None => Ok(()),
        };
        if copied.is_err() {
            self.pages.release(to)?;
        }
        copied
    }

    fn copy(&mut self, CopiedRows { from, to, rows }: CopiedRows) -> Result<(), Error> {
        let Layout { row_stride, dtype, .. } = self.layout;
        match &mut self.rows {
            Rows::Device { device, buffer } => {
                let row = row_stride * dtype.size_bytes();
                let used = self.layout.width * dtype.size_bytes();
                let mut bytes = vec![0; used];
                for i in 0..rows {
                    device.read(buffer, (from + i) * row, &mut bytes)?;
                    device.write(buffer, (to + i) * row, &bytes)?;
                }
            }
            Rows::F32(value) => copy_rows(value, [from, to, rows].map(|n| n * row_stride)),
            Rows::F64(value) => copy_rows(value, [from, to, rows].map(|n| n * row_stride)),
        }
        Ok(())
    }

    /// Forgets a sequence's tokens and frees those of its pages that no other sequence shares.
    ///
    /// # Errors
    /// [`Error::Sequence`].
    pub fn release(&mut self, sequence: usize) -> Result<(), Error> {
        self.pages.release(sequence)
    }

    /// The cached rows of a sequence, \[len, d_latent + d_rope\], in the cache's type: the normed latent, then the rotated
    /// rope key in the checkpoint's order of pairs.
    ///
    /// # Errors
    /// [`Error::Sequence`]; those of the device.
    pub fn rows(&self, sequence: usize) -> Result<HostTensor, Error> {
        let sequences = self.sequences();
        let len = self.len(sequence).ok_or(Error::Sequence {
            found: sequence,
            sequences,
        })?;
        let Layout { width, dtype, .. } = self.layout;
        let mut tensor = HostTensor::zeros(dtype, &[len, width])?;
        let row_bytes = width * dtype.size_bytes();
        if row_bytes == 0 {
            return Ok(tensor);
        }
        for (token, to) in tensor.bytes_mut().chunks_exact_mut(row_bytes).enumerate() {
            let page = self
                .pages
                .of(sequence)
                .get(token / self.page_size())
                .copied()
                .unwrap_or(0);
            self.read_row(page as usize * self.page_size() + token % self.page_size(), to)?;
        }
        Ok(tensor)
    }

    /// Row `row`, counted from the first page on.
    fn read_row(&self, row: usize, to: &mut [u8]) -> Result<(), Error> {
        match &self.rows {
            Rows::Device { device, buffer } => Ok(device.read(
                buffer,
                row * self.layout.row_stride * self.layout.dtype.size_bytes(),
                to,
            )?),
            Rows::F32(value) => {
                copy_row(value, row, self.layout.width, to, |x| x.to_le_bytes());
                Ok(())
            }
            Rows::F64(value) => {
                copy_row(value, row, self.layout.width, to, |x| x.to_le_bytes());
                Ok(())
            }
        }
    }

    /// Overwrites all memory that holds no cached row with NaN, and puts free pages into an order and into unused entries of
    /// the block table numbers (huge, negative, those of pages) that follow from `seed`. No result may depend on any of it: this
    /// is for tests of that.
    ///
    /// # Errors
    /// Those of the device.
    pub fn scramble(&mut self, seed: u64) -> Result<(), Error> {
        let used = self.used_rows();
        let Layout {
            width,
            row_stride,
            dtype,
        } = self.layout;
        match &mut self.rows {
            Rows::Device { device, buffer } => {
                let (row_bytes, size) = (row_stride * dtype.size_bytes(), dtype.size_bytes());
                // All ones are a NaN in every float type.
                let ones = vec![0xff; row_bytes];
                for (row, used) in used.iter().enumerate() {
                    let from = if *used { width * size } else { 0 };
                    device.write(buffer, row * row_bytes + from, ones.get(from..).unwrap_or_default())?;
                }
            }
            Rows::F32(value) => fill_unused(value, &used, width, f32::NAN),
            Rows::F64(value) => fill_unused(value, &used, width, f64::NAN),
        }
        self.pages.scramble(seed);
        Ok(())
    }

    /// For each row of the memory, whether it holds a token.
    fn used_rows(&self) -> Vec<bool> {
        let page_size = self.page_size();
        let mut used = vec![false; self.pages.total() * page_size];
        for sequence in 0..self.sequences() {
            for token in 0..self.len(sequence).unwrap_or(0) {
                let page = self.pages.of(sequence).get(token / page_size).copied().unwrap_or(0);
                if let Some(used) = used.get_mut(page as usize * page_size + token % page_size) {
                    *used = true;
                }
            }
        }
        used
    }
}

impl std::fmt::Debug for PagedKvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lens: Vec<Option<usize>> = (0..self.sequences()).map(|sequence| self.len(sequence)).collect();
        let (pages, free) = self.pages();
        write!(
            f,
            "PagedKvCache({:?}, lengths {lens:?}, {free} of {pages} pages free)",
            self.layout
        )
    }
}

fn too_large(pages: &Pages) -> Error {
    let (sequences, page_size) = (pages.sequences(), pages.page_size());
    let max_tokens = pages.total().saturating_mul(page_size) / sequences.max(1);
    Error::CacheSize {
        sequences,
        max_tokens,
        page_size,
        largest: LARGEST,
    }
}

fn copy_row<F: Real, const N: usize>(
    value: &Value<F>,
    row: usize,
    width: usize,
    to: &mut [u8],
    bytes: impl Fn(F) -> [u8; N],
) {
    let from = value.as_floats().unwrap_or_default().iter().skip(row * width);
    to.chunks_exact_mut(N)
        .zip(from)
        .for_each(|(to, &x)| to.copy_from_slice(&bytes(x)));
}

fn copy_rows<F: Real>(value: &mut Value<F>, [from, to, elements]: [usize; 3]) {
    if let Value::F { data, .. } = value {
        Arc::make_mut(data).copy_within(from..from + elements, to);
    }
}

fn fill_unused<F: Real>(value: &mut Value<F>, used: &[bool], width: usize, with: F) {
    if let (Value::F { data, .. }, true) = (value, width > 0) {
        let rows = Arc::make_mut(data).chunks_exact_mut(width).zip(used);
        rows.filter(|(_, used)| !**used).for_each(|(row, _)| row.fill(with));
    }
}

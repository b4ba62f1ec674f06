//! The paged cache of a layer.

use std::sync::Arc;

use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::interp::{Real, Value};
use mlafuse_runtime::{Buffer, Device};
use mlafuse_tensor::{DType, HostTensor};

use crate::Error;
use crate::pages::{LARGEST, Pages};

/// The cached latents and rope keys of one layer, for a fixed number of sequences.
///
/// Memory is \[pages, page_size, row_stride\]: of each token the latent (d_latent), then the rope key (d_rope), then
/// padding to 16 bytes. Sequences take pages from a common free list as they grow. Made by
/// [`MlaLayer::new_cache`](crate::MlaLayer::new_cache).
pub struct PagedKvCache {
    pub(crate) pages: Pages,
    pub(crate) rows: Rows,
    pub(crate) layout: Layout,
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
        Ok(PagedKvCache { pages, rows, layout })
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
        Ok(PagedKvCache { pages, rows, layout })
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

    /// The block table \[B, P\], i32: page numbers of each sequence in order, -1 past its pages. P is at least 1.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn block_table(&self) -> Result<HostTensor, Error> {
        let (table, width) = self.pages.table();
        Ok(HostTensor::from_i32(&[self.sequences(), width], &table)?)
    }

    /// Reserves pages so that each sequence has room for `tokens` more tokens (one number a sequence). A step reserves
    /// what it needs by itself; this says early whether there is room.
    ///
    /// # Errors
    /// [`Error::CacheFull`], with nothing reserved; [`Error::Count`], [`Error::Length`].
    pub fn grow(&mut self, tokens: &[usize]) -> Result<(), Error> {
        let lens = self.grown("tokens", tokens, LARGEST)?;
        self.pages.reserve(&lens)
    }

    /// The lengths after `new` tokens more, each at most `longest`.
    pub(crate) fn grown(&self, argument: &'static str, new: &[usize], longest: usize) -> Result<Vec<usize>, Error> {
        let expected = self.sequences();
        if new.len() != expected {
            return Err(Error::Count {
                argument,
                expected,
                found: new.len(),
            });
        }
        let longest = longest.min(LARGEST);
        let grown = new.iter().enumerate().map(|(sequence, &new)| {
            let len = self.len(sequence).unwrap_or(0);
            let allowed = || format!("at most {} after {len} cached ones", longest.saturating_sub(len));
            let grown = len.checked_add(new).filter(|&grown| grown <= longest);
            grown.ok_or_else(|| Error::Length {
                argument,
                sequence,
                found: new,
                allowed: allowed(),
            })
        });
        grown.collect()
    }

    /// Forgets a sequence's tokens and frees its pages.
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

    /// Overwrites all memory that holds no cached row with NaN and puts the free pages into an order that follows from
    /// `seed`. No result may depend on either: this is for tests of that.
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
        shuffle(self.pages.free_mut(), seed);
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

fn fill_unused<F: Real>(value: &mut Value<F>, used: &[bool], width: usize, with: F) {
    if let (Value::F { data, .. }, true) = (value, width > 0) {
        let rows = Arc::make_mut(data).chunks_exact_mut(width).zip(used);
        rows.filter(|(_, used)| !**used).for_each(|(row, _)| row.fill(with));
    }
}

/// Fisher and Yates, with splitmix64.
fn shuffle(pages: &mut [i32], seed: u64) {
    let mut state = seed;
    for last in (1..pages.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        pages.swap(last, (z % (last as u64 + 1)) as usize);
    }
}

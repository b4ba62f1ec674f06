//! Launches of an attention core, and what they must give.

use mlafuse::{AttentionInputs, AttentionOutput, AttentionShape, DType, DecodeAttention, DeviceSpec, HostTensor};

/// A launch: lengths as (kv_len, q_len) of each sequence.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: AttentionShape,
    pub tokens: usize,
    pub lens: Vec<(usize, usize)>,
    /// Tokens that the block table has room for at least.
    pub room: usize,
    /// Elements between rows besides the row's own.
    pub padding: usize,
    pub seed: u64,
}

/// Numbers in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> HostTensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next()).collect();
        HostTensor::from_f32(shape, &values).unwrap().to_dtype(dtype)
    }
}

/// One launch's arguments.
pub struct Launch {
    pub q_latent: HostTensor,
    pub q_pe: HostTensor,
    pub cache: HostTensor,
    pub block_table: HostTensor,
    pub q_len: Vec<usize>,
    pub kv_len: Vec<usize>,
}

impl Case {
    /// Pages in descending order, with one that nobody has between sequences; NaN and nonsense where nothing may look.
    pub fn launch(&self) -> Launch {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            dtype,
            page_size,
            ..
        } = self.shape;
        let mut random = Random(self.seed);
        let q_latent = random.tensor(dtype, &[self.lens.len(), self.tokens, n_heads, d_latent]);
        let q_pe = random.tensor(dtype, &[self.lens.len(), self.tokens, n_heads, d_rope]);
        let of = |len: usize| len.div_ceil(page_size);
        let longest = self.lens.iter().map(|&(len, _)| len).max().unwrap();
        let width = of(longest.max(self.room)) + 1;
        let mut page: usize = self.lens.iter().map(|&(len, _)| of(len) + 1).sum();
        let stride = d_latent + d_rope + self.padding;
        let mut rows = vec![f32::NAN; page * page_size * stride];
        let mut table = vec![i32::MAX; self.lens.len() * width];
        for (b, &(len, _)) in self.lens.iter().enumerate() {
            page -= 1;
            for token in 0..len {
                if token % page_size == 0 {
                    page -= 1;
                    table[b * width + token / page_size] = page as i32;
                }
                let row = (page * page_size + token % page_size) * stride;
                rows[row..row + d_latent + d_rope]
                    .iter_mut()
                    .for_each(|x| *x = random.next());
            }
        }
        let pages = rows.len() / (page_size * stride);
        Launch {
            q_latent,
            q_pe,
            cache: HostTensor::from_f32(&[pages, page_size, stride], &rows)
                .unwrap()
                .to_dtype(dtype),
            block_table: HostTensor::from_i32(&[self.lens.len(), width], &table).unwrap(),
            q_len: self.lens.iter().map(|&(_, q)| q).collect(),
            kv_len: self.lens.iter().map(|&(kv, _)| kv).collect(),
        }
    }

    /// Largest differences of output and log-sum-exp from the definition.
    pub fn check(&self, device: DeviceSpec) -> (f64, f64) {
        let launch = self.launch();
        let core = DecodeAttention::new(self.shape, device).unwrap();
        self.differences(&launch, &core.run(&launch.inputs(&self.shape)).unwrap())
    }

    /// Largest differences of output and log-sum-exp of a launch of this case from the definition.
    pub fn differences(&self, launch: &Launch, found: &AttentionOutput) -> (f64, f64) {
        let (out, lse) = (found.out.to_f64_vec(), found.lse.to_f64_vec());
        assert_eq!(found.lse.shape(), [self.lens.len(), self.tokens, self.shape.n_heads]);
        let (heads, d_latent) = (self.shape.n_heads, self.shape.d_latent);
        let cached = launch.cache.to_f64_vec();
        let (mut worst_out, mut worst_lse) = (0.0f64, 0.0f64);
        for (b, &(_, q_len)) in self.lens.iter().enumerate() {
            for row in (0..q_len * heads).map(|row| b * self.tokens * heads + row) {
                let (expected, expected_lse) = launch.definition(self, &cached, b, row);
                for (found, expected) in out[row * d_latent..].iter().zip(&expected) {
                    worst_out = worst_out.max((found - expected).abs());
                }
                if lse[row] != expected_lse {
                    worst_lse = worst_lse.max((lse[row] - expected_lse).abs());
                }
            }
        }
        assert!(!worst_out.is_nan() && !worst_lse.is_nan() && out.iter().all(|x| !x.is_nan()));
        (worst_out, worst_lse)
    }
}

impl Case {
    /// Largest difference of an output.
    pub fn allowed(&self) -> f64 {
        if self.shape.dtype == DType::F32 { 1e-5 } else { 1.2e-2 }
    }
}

impl Launch {
    pub fn inputs(&self, shape: &AttentionShape) -> AttentionInputs<'_> {
        AttentionInputs {
            q_latent: &self.q_latent,
            q_pe: (shape.d_rope > 0).then_some(&self.q_pe),
            cache: &self.cache,
            block_table: &self.block_table,
            q_len: &self.q_len,
            kv_len: &self.kv_len,
        }
    }

    /// Output and log-sum-exp of one row (sequence, token, head) in f64.
    fn definition(&self, case: &Case, cache: &[f64], b: usize, row: usize) -> (Vec<f64>, f64) {
        let AttentionShape {
            n_heads,
            d_latent,
            d_rope,
            page_size,
            softmax_scale,
            ..
        } = case.shape;
        let (q_latent, q_pe) = (self.q_latent.to_f64_vec(), self.q_pe.to_f64_vec());
        let query = [&q_latent[row * d_latent..][..d_latent], &q_pe[row * d_rope..][..d_rope]].concat();
        let (kv_len, q_len) = case.lens[b];
        let token = row / n_heads % case.tokens;
        let table = &self.block_table.as_i32().unwrap()[b * self.block_table.shape()[1]..];
        let key = |j: usize| {
            let row = table[j / page_size] as usize * page_size + j % page_size;
            &cache[row * self.cache.shape()[2]..][..d_latent + d_rope]
        };
        let dot = |j: usize| key(j).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>() * softmax_scale;
        let scores: Vec<f64> = (0..kv_len)
            .take_while(|j| *j <= kv_len - q_len + token)
            .map(dot)
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; d_latent];
        for (j, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / sum;
            out.iter_mut()
                .zip(key(j))
                .for_each(|(out, value)| *out += weight * value);
        }
        (out, if scores.is_empty() { max } else { max + sum.ln() })
    }

    /// The same launch of some of the sequences, in this order, with a block table of `entries`.
    pub fn only(&self, sequences: &[usize], entries: usize) -> Launch {
        let rows = |tensor: &HostTensor| {
            let of_sequence = tensor.bytes().len() / self.kv_len.len();
            let bytes = sequences
                .iter()
                .map(|b| &tensor.bytes()[b * of_sequence..][..of_sequence]);
            let shape = [&[sequences.len()], &tensor.shape()[1..]].concat();
            HostTensor::from_bytes(tensor.dtype(), &shape, bytes.collect::<Vec<_>>().concat()).unwrap()
        };
        let width = self.block_table.shape()[1];
        let table = self.block_table.as_i32().unwrap();
        let of_sequence = |b: &usize| {
            let known = table[b * width..][..width].iter().copied();
            known
                .chain(std::iter::repeat(i32::MIN))
                .take(entries)
                .collect::<Vec<_>>()
        };
        let table: Vec<i32> = sequences.iter().flat_map(of_sequence).collect();
        Launch {
            q_latent: rows(&self.q_latent),
            q_pe: rows(&self.q_pe),
            cache: self.cache.clone(),
            block_table: HostTensor::from_i32(&[sequences.len(), entries], &table).unwrap(),
            q_len: sequences.iter().map(|&b| self.q_len[b]).collect(),
            kv_len: sequences.iter().map(|&b| self.kv_len[b]).collect(),
        }
    }

    /// Lets every sequence have the first `pages` pages of the first one, as far as both are full of tokens.
    pub fn share(&mut self, pages: usize, page_size: usize) {
        let width = self.block_table.shape()[1];
        let mut table = self.block_table.to_i32_vec().unwrap();
        for (b, len) in self.kv_len.iter().enumerate().skip(1) {
            let shared = pages.min(len / page_size).min(self.kv_len[0] / page_size);
            table.copy_within(..shared, b * width);
        }
        self.block_table = HostTensor::from_i32(self.block_table.shape(), &table).unwrap();
    }
}

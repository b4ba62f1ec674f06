//! What a kernel must move and compute, counted from the plan.

use std::collections::BTreeSet;

use mlafuse_ir::graph::{Graph, Op, ValueId};
use mlafuse_ir::plan::{AttentionRegion, BufferId, Keys, Plan, PrefillRegion, Region, RegionKind, View};
use mlafuse_ir::size::{Dim, Dims, Size, Symbol};
use mlafuse_tensor::DType;

use crate::ProfileError;

/// The least that a kernel can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read and written: each input and each output once; of a cache the rows that are read or written.
    pub bytes: u64,
    /// Operations of the contractions, 2 for each multiply-add.
    pub flops: u64,
}

/// The work of one kernel of `plan` in launches of the sizes in `dims`, `Z` among them, with every sequence at its full
/// length `S` and `T` new tokens.
///
/// # Errors
/// [`ProfileError::Size`].
pub fn kernel_work(plan: &Plan, region: &Region, dims: &Dims) -> Result<Work, ProfileError> {
    let counter = Counter { plan, dims };
    match &region.kind {
        RegionKind::Node(_) | RegionKind::UpProjection(_) => Ok(Work {
            bytes: counter.node_bytes(region)?,
            flops: counter.flops(&region.nodes)?,
        }),
        RegionKind::Attention(attention) => Ok(Work {
            bytes: counter.attention_bytes(attention)?,
            flops: counter.flops(&region.nodes)?,
        }),
        // Of its contractions the attention has counted all but the projection.
        RegionKind::Combine(combine) => {
            let weight = combine.projection.map(|projection| projection.weight);
            if weight.is_none() && counter.is_whole() {
                return Ok(Work::default());
            }
            let values: Vec<ValueId> = weight.into_iter().chain([combine.output]).collect();
            Ok(Work {
                bytes: counter.buffers(&[combine.partial, combine.lse])? + counter.values(&values)?,
                flops: weight.map_or(Ok(0), |_| counter.flops(&[combine.output]))?,
            })
        }
        RegionKind::Prefill(prefill) => Ok(Work {
            bytes: counter.prefill_bytes(prefill)?,
            flops: counter.visible(counter.flops(&region.nodes)?),
        }),
    }
}

struct Counter<'a> {
    plan: &'a Plan,
    dims: &'a Dims,
}

impl Counter<'_> {
    fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    /// Of a kernel of nodes, with what is between them kept to itself.
    fn node_bytes(&self, region: &Region) -> Result<u64, ProfileError> {
        let nodes = &region.nodes;
        let (mut whole, mut tables, mut bytes) = (Vec::new(), Vec::new(), 0);
        for &made in nodes {
            let node = self.graph().node(made);
            match (&node.op, node.args.as_slice()) {
                // The rest of the cache stays where it is.
                (Op::CacheWrite, [cache, rows @ .., _, q_len, kv_len]) => {
                    whole.extend(rows.iter().chain([q_len, kv_len]));
                    bytes += self.new_pages(*cache)?;
                }
                (Op::CacheRead, [cache, read @ ..]) => {
                    whole.extend(read);
                    bytes += self.rows(*cache, Symbol::S, self.columns_of(made, nodes))?;
                }
                (Op::Rope { .. }, [x, cos, sin, read @ ..]) => {
                    whole.extend(read.iter().chain([x]));
                    tables.extend([*cos, *sin]);
                }
                (_, args) => whole.extend(args),
            }
        }
        whole.retain(|value| !nodes.contains(value));
        tables.sort();
        tables.dedup();
        for table in tables {
            bytes += self.angles(table)?;
        }
        for value in self.plan.results(region) {
            bytes += self.made(value)?;
        }
        Ok(bytes + self.values(&whole)?)
    }

    /// Of what a kernel writes: of a cache the new rows.
    fn made(&self, value: ValueId) -> Result<u64, ProfileError> {
        match self.graph().node(value).op {
            Op::CacheWrite => self.rows(value, Symbol::T, None),
            _ => self.values(&[value]),
        }
    }

    fn attention_bytes(&self, attention: &AttentionRegion) -> Result<u64, ProfileError> {
        let mut columns: BTreeSet<usize> = attention.values.clone().collect();
        columns.extend(attention.queries.iter().flat_map(|part| part.columns.clone()));
        let queries = attention.queries.iter().map(|part| part.value);
        let read: Vec<ValueId> = queries
            .chain([attention.block_table, attention.q_len, attention.kv_len])
            .collect();
        let rows = self.rows(attention.cache, Symbol::S, Some(columns.len()))?;
        let written = match attention.result.filter(|_| self.is_whole()) {
            Some(result) => self.values(&[result])?,
            None => self.buffers(&[attention.partial])?,
        };
        Ok(self.values(&read)? + rows + written + self.buffers(&[attention.lse])?)
    }

    /// Whether every sequence has one split alone, which leaves nothing to combine where attention may write its result.
    fn is_whole(&self) -> bool {
        self.dims.get(Symbol::Z) == Some(1)
    }

    fn prefill_bytes(&self, prefill: &PrefillRegion) -> Result<u64, ProfileError> {
        let mut values = vec![prefill.values, prefill.q_len, prefill.kv_len, prefill.output];
        let mut rows = 0;
        for term in &prefill.terms {
            values.push(term.query);
            match &term.keys {
                Keys::PerHead(keys) => values.push(*keys),
                Keys::Cached {
                    cache,
                    block_table,
                    columns,
                } => {
                    values.push(*block_table);
                    rows += self.rows(*cache, Symbol::S, Some(columns.len()))?;
                }
            }
        }
        Ok(self.values(&values)? + rows)
    }

    /// The part of `flops`, done for every new token with every key, that is for keys the token sees.
    fn visible(&self, flops: u64) -> u64 {
        let [cached, new] = [Symbol::S, Symbol::T].map(|symbol| self.dims.get(symbol).unwrap_or(1) as u64);
        let seen = (2 * cached + 1).saturating_sub(new);
        flops.checked_div(2 * cached).unwrap_or(0) * seen
    }

    /// The columns of cached rows that a kernel of `nodes` looks at, where it is not all of them.
    fn columns_of(&self, read: ValueId, nodes: &[ValueId]) -> Option<usize> {
        nodes.iter().find_map(|&node| {
            let node = self.graph().node(node);
            match node.op {
                Op::Slice { len, .. } if node.args == [read] => Some(len),
                _ => None,
            }
        })
    }

    /// Of values in memory, each place once.
    fn values(&self, values: &[ValueId]) -> Result<u64, ProfileError> {
        let mut seen: Vec<&View> = Vec::new();
        let mut bytes = 0;
        for &value in values {
            let Some(view) = self.plan.view(value).filter(|view| !seen.contains(view)) else {
                continue;
            };
            seen.push(view);
            let node = self.graph().node(value);
            bytes += self.bytes(&node.name, Size::product(&node.ty.shape), node.ty.dtype.size_bytes())?;
        }
        Ok(bytes)
    }

    fn buffers(&self, ids: &[BufferId]) -> Result<u64, ProfileError> {
        let buffers = ids.iter().map(|&id| self.plan.buffer(id));
        buffers
            .map(|buffer| self.bytes(&buffer.name, buffer.size.clone(), buffer.dtype.size_bytes()))
            .sum()
    }

    /// Of `tokens` rows a sequence of a cache: all of a row's columns, or so many.
    fn rows(&self, cache: ValueId, tokens: Symbol, columns: Option<usize>) -> Result<u64, ProfileError> {
        let node = self.graph().node(cache);
        let width = columns.map(Dim::Const).or(node.ty.shape.last().copied());
        let size = Size::product(&[Dim::Sym(Symbol::B), Dim::Sym(tokens), width.unwrap_or(Dim::Const(0))]);
        self.bytes(&node.name, size, node.ty.dtype.size_bytes())
    }

    /// Of the block table's entries for the pages that the new tokens go to.
    fn new_pages(&self, cache: ValueId) -> Result<u64, ProfileError> {
        let node = self.graph().node(cache);
        let page_size = node
            .ty
            .shape
            .get(1)
            .and_then(|dim| dim.value(self.dims))
            .unwrap_or(1)
            .max(1);
        let [cached, new] = [Symbol::S, Symbol::T].map(|symbol| self.dims.get(symbol).unwrap_or(0));
        let entries = cached.div_ceil(page_size) - cached.saturating_sub(new) / page_size;
        let size = Size::product(&[Dim::Sym(Symbol::B), Dim::Const(entries)]);
        self.bytes(&node.name, size, DType::I32.size_bytes())
    }

    /// Of the rows of a rope table that the new tokens look up. All sequences are of one length, so they share them.
    fn angles(&self, table: ValueId) -> Result<u64, ProfileError> {
        let node = self.graph().node(table);
        let columns = node.ty.shape.last().copied().unwrap_or(Dim::Const(0));
        let size = Size::product(&[Dim::Sym(Symbol::T), columns]);
        self.bytes(&node.name, size, node.ty.dtype.size_bytes())
    }

    fn bytes(&self, what: &str, size: Size, element: usize) -> Result<u64, ProfileError> {
        self.value(what, size.times(Dim::Const(element)))
    }

    fn value(&self, what: &str, size: Size) -> Result<u64, ProfileError> {
        let value = size.value(self.dims).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| ProfileError::Size {
            what: what.to_string(),
            size: size.to_string(),
        })
    }

    /// Of the contractions among `nodes`.
    fn flops(&self, nodes: &[ValueId]) -> Result<u64, ProfileError> {
        let mut flops = 0;
        for &value in nodes {
            let node = self.graph().node(value);
            let (Op::Einsum(spec), &[a, b]) = (&node.op, node.args.as_slice()) else {
                continue;
            };
            let extent = |label: &String| {
                let place = |labels: &[String], arg: ValueId| {
                    let index = labels.iter().position(|other| other == label)?;
                    self.graph().ty(arg).shape.get(index).copied()
                };
                place(&spec.a, a).or_else(|| place(&spec.b, b))
            };
            let extents: Vec<Dim> = spec.labels().filter_map(extent).collect();
            flops += self.value(&node.name, Size::product(&extents).times(Dim::Const(2)))?;
        }
        Ok(flops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::{fused, unfused};
    use mlafuse_ir::text::parse;

    fn works(plan: &Plan, dims: &Dims) -> Vec<(String, u64, u64)> {
        let work = |region: &Region| {
            let Work { bytes, flops } = kernel_work(plan, region, dims).unwrap();
            (region.name.clone(), bytes, flops)
        };
        plan.kernels.iter().map(work).collect()
    }

    #[test]
    fn a_small_graph_by_hand() {
        let text = "graph g { %x = input \"x\" : bf16[T, 100] %w = input \"w\" : bf16[50, 100]
            %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 50]
            %z = add %y, %y : f32[T, 50] output \"z\" %z }";
        let plan = unfused(&parse(text).unwrap()).unwrap();
        let dims = Dims::new().with(Symbol::T, 3);
        // x 3·100, w 50·100 in bf16, y 3·50 in f32; then y, read once though added to itself, and z.
        let expected = [("einsum_y", 600 + 10_000 + 600, 2 * 3 * 50 * 100), ("add_z", 1200, 0)];
        assert_eq!(
            works(&plan, &dims),
            expected.map(|(name, bytes, flops)| (name.to_string(), bytes, flops))
        );
        let error = kernel_work(&plan, &plan.kernels[0], &Dims::new()).unwrap_err();
        assert!(error.to_string().contains("`y` (200*T)"), "{error}");
    }

    const ATTENTION: &str = "graph g {
        %cache = input \"cache\" : bf16[N, 4, 10] %table = input \"block_table\" : i32[B, P]
        %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
        %latent = input \"latent\" : bf16[B, T, 10] %q = input \"q\" : bf16[B, T, 3, 10]
        %written = cache_write %cache, %latent, %table, %q_len, %kv_len : bf16[N, 4, 10]
        %rows = cache_read %written, %table, %kv_len : bf16[B, S, 10]
        %c = slice axis=2 start=0 len=8 %rows : bf16[B, S, 8]
        %scores = einsum \"b t h c, b s c -> b t h s\" %q, %rows : f32[B, T, 3, S]
        %masked = mask %scores, %q_len, %kv_len : f32[B, T, 3, S]
        %p = softmax %masked : bf16[B, T, 3, S]
        %o = einsum \"b t h s, b s c -> b t h c\" %p, %c : bf16[B, T, 3, 8]
        output \"o\" %o }";

    #[test]
    fn what_a_kernel_keeps_to_itself_is_not_moved() {
        let text = "graph g { %cache = input \"cache\" : bf16[N, 4, 10] %table = input \"block_table\" : i32[B, P]
            %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
            %x = input \"x\" : bf16[B, T, 10] %g = input \"g\" : bf16[10]
            %latent = rms_norm eps=1e-6 %x, %g : bf16[B, T, 10]
            %written = cache_write %cache, %latent, %table, %q_len, %kv_len : bf16[N, 4, 10]
            output \"cache\" %written }";
        let graph = parse(text).unwrap();
        let dims = [(Symbol::B, 2), (Symbol::T, 1), (Symbol::S, 7)];
        let dims = Dims::from_iter(dims);
        let total = |plan: &Plan| works(plan, &dims).iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let (fused, unfused) = (fused(&graph).unwrap(), unfused(&graph).unwrap());
        let (rows, gain, entries, lens) = (2 * 10 * 2, 10 * 2, 2 * 4, 2 * 2 * 4);
        assert_eq!((fused.kernels.len(), unfused.kernels.len()), (1, 2));
        assert_eq!(total(&fused), rows + gain + entries + lens + rows);
        // Out and in again.
        assert_eq!(total(&unfused), total(&fused) + 2 * rows);
    }

    #[test]
    fn attention_reads_rows_by_length_and_counts_its_contractions_once() {
        let graph = parse(ATTENTION).unwrap();
        // Many more pages than are in use: they do not count.
        let dims = [
            (Symbol::B, 2),
            (Symbol::T, 1),
            (Symbol::S, 7),
            (Symbol::P, 2),
            (Symbol::N, 99),
            (Symbol::Z, 2),
            (Symbol::R, 16),
            (Symbol::G, 64),
        ];
        let dims = Dims::from_iter(dims);
        let fused = works(&fused(&graph).unwrap(), &dims);
        let (table, lens, row) = (2 * 2 * 4, 2 * 4, 10 * 2);
        let partial = 2 * 2 * 3 * 8 * 4 + 2 * 2 * 3 * 4;
        let contractions = 2 * 2 * 3 * 7 * (10 + 8);
        let expected = [
            // Of the table one entry a sequence.
            ("cache_write_written", 2 * row + 2 * 4 + 2 * lens + 2 * row, 0),
            (
                "attention",
                2 * 3 * row + table + 2 * lens + 2 * 7 * row + partial,
                contractions,
            ),
            ("combine", partial + 2 * 3 * 8 * 2, 0),
        ];
        assert_eq!(
            fused,
            expected.map(|(name, bytes, flops)| (name.to_string(), bytes, flops))
        );
        let unfused = works(&unfused(&graph).unwrap(), &dims);
        assert_eq!(unfused.iter().map(|(_, _, flops)| flops).sum::<u64>(), contractions);
        let read = unfused.iter().find(|(name, _, _)| name == "cache_read_rows").unwrap();
        assert_eq!(read.1, table + lens + 2 * (2 * 7 * row));
    }

    #[test]
    fn a_whole_attention_leaves_nothing_to_combine() {
        let plan = fused(&parse(ATTENTION).unwrap()).unwrap();
        let dims = [
            (Symbol::B, 2),
            (Symbol::T, 1),
            (Symbol::S, 7),
            (Symbol::P, 2),
            (Symbol::Z, 1),
        ];
        let dims = Dims::from_iter(dims);
        let work = |name: &str| kernel_work(&plan, plan.kernel(name).unwrap(), &dims).unwrap();
        let (query, rows, table, lens) = (2 * 3 * 10 * 2, 2 * 7 * 10 * 2, 2 * 2 * 4, 2 * 2 * 4);
        let (result, lse) = (2 * 3 * 8 * 2, 2 * 3 * 4);
        assert_eq!(work("attention").bytes, query + rows + table + lens + result + lse);
        assert_eq!(work("combine"), Work::default());
    }

    #[test]
    fn a_projected_combine_reads_its_weight_and_counts_its_own_contraction() {
        let text = ATTENTION.replace(
            "output \"o\" %o }",
            "%w = input \"W\" : bf16[3, 5, 8] %y = einsum \"b t h c, h v c -> b t h v\" %o, %w : bf16[B, T, 3, 5]
            output \"y\" %y }",
        );
        let plan = fused(&parse(&text).unwrap()).unwrap();
        let dims = [
            (Symbol::B, 2),
            (Symbol::T, 1),
            (Symbol::S, 7),
            (Symbol::P, 2),
            (Symbol::Z, 2),
        ];
        let dims = Dims::from_iter(dims);
        let work = kernel_work(&plan, plan.kernel("combine").unwrap(), &dims).unwrap();
        let partial = 2 * 2 * 3 * 8 * 4 + 2 * 2 * 3 * 4;
        let (weight, output) = (3 * 5 * 8 * 2, 2 * 3 * 5 * 2);
        assert_eq!(work.bytes, partial + weight + output);
        assert_eq!(work.flops, 2 * 2 * 3 * 8 * 5);
    }

    const PREFILL: &str = "graph g {
        %cache = input \"cache\" : bf16[N, 4, 10] %table = input \"block_table\" : i32[B, P]
        %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
        %q = input \"q\" : bf16[B, T, 3, 5] %q_pe = input \"q_pe\" : bf16[B, T, 3, 2]
        %w_k = input \"w_k\" : bf16[3, 5, 8] %w_v = input \"w_v\" : bf16[3, 6, 8]
        %rows = cache_read %cache, %table, %kv_len : bf16[B, S, 10]
        %c = slice axis=2 start=0 len=8 %rows : bf16[B, S, 8]
        %kr = slice axis=2 start=8 len=2 %rows : bf16[B, S, 2]
        %k = einsum \"b s c, h n c -> b s h n\" %c, %w_k : bf16[B, S, 3, 5]
        %v = einsum \"b s c, h v c -> b s h v\" %c, %w_v : bf16[B, S, 3, 6]
        %own = einsum \"b t h n, b s h n -> b t h s\" %q, %k : f32[B, T, 3, S]
        %shared = einsum \"b t h r, b s r -> b t h s\" %q_pe, %kr : f32[B, T, 3, S]
        %scores = add %own, %shared : f32[B, T, 3, S]
        %masked = mask %scores, %q_len, %kv_len : f32[B, T, 3, S]
        %p = softmax %masked : bf16[B, T, 3, S]
        %o = einsum \"b t h s, b s h v -> b t h v\" %p, %v : bf16[B, T, 3, 6]
        output \"o\" %o }";

    #[test]
    fn prefill_reads_columns_of_rows_and_computes_what_is_seen() {
        let dims = [
            (Symbol::B, 2),
            (Symbol::T, 4),
            (Symbol::S, 7),
            (Symbol::P, 2),
            (Symbol::N, 99),
        ];
        let dims = Dims::from_iter(dims);
        let (table, lens) = (2 * 2 * 4, 2 * 4);
        let [k, v] = [5, 6].map(|width| 2 * 7 * 3 * width * 2);
        let latents = 2 * 7 * 8 * 2 + table + lens;
        let queries = 2 * 4 * 3 * (5 + 2) * 2;
        // Of seven keys the four tokens see 4, 5, 6 and 7.
        let seen = 2 * (4 + 5 + 6 + 7);
        let expected = [
            ("einsum_k", latents + 3 * 5 * 8 * 2 + k, 2 * 2 * 7 * 3 * 5 * 8),
            ("einsum_v", latents + 3 * 6 * 8 * 2 + v, 2 * 2 * 7 * 3 * 6 * 8),
            (
                "prefill",
                queries + k + 2 * 7 * 2 * 2 + table + v + 2 * lens + 2 * 4 * 3 * 6 * 2,
                2 * seen * 3 * (5 + 2 + 6),
            ),
        ];
        assert_eq!(
            works(&fused(&parse(PREFILL).unwrap()).unwrap(), &dims),
            expected.map(|(name, bytes, flops)| (name.to_string(), bytes, flops))
        );
    }
}

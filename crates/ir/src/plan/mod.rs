//! The plan: kernels, in order, and the buffers between them.
//!
//! A plan says which values of a graph are in memory, where ([`View`]), and which kernel makes them ([`Region`]). How a
//! kernel does it is the code generator's.

mod attention;
mod dot;
mod draft;
mod fuse;
mod memory;
mod part;
mod prefill;
mod text;
mod view;

use draft::{Draft, Fusions};
pub use memory::{ARENA_ALIGN, Arena, Placement, SizeError};
pub use part::Part;
pub use prefill::{Keys, PrefillRegion, ScoreTerm};
pub use text::{KernelSummary, PlanSummary};
pub use view::View;

use crate::build::numbered;
use crate::graph::{Graph, Op, ValueId};
use crate::size::{Dim, Size, Symbol};
use mlafuse_tensor::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Index of a buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub usize);

/// Who fills a buffer, and who reads it in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BufferRole {
    /// The caller binds it, by the graph input's name. A kernel writes to it only where it is a cache.
    Input(String),
    /// The caller reads it: it holds these outputs of the graph (each where its view says).
    Output(Vec<String>),
    /// Between two kernels.
    Temp,
}

/// A piece of device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Unique within the plan.
    pub name: String,
    /// Type of each element.
    pub dtype: DType,
    /// The dimensions, outermost first.
    pub shape: Vec<Dim>,
    /// Who fills and reads it.
    pub role: BufferRole,
    /// Elements it takes. More than the product of its shape where the symbols `G` and `R` pad pages and rows.
    pub size: Size,
    /// Elements: the symbolic strides `G` and `R` are multiples of this. What a program may assume of its accesses
    /// follows from it; a cache laid out by somebody else may need 1.
    pub stride_align: usize,
}

/// A part of attention's query: what meets which columns of the cached rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryPart {
    /// \[B, T, H, x\].
    pub value: ValueId,
    /// The x columns of a cached row it is multiplied with.
    pub columns: Range<usize>,
}

/// Attention over the rows of a paged cache, split over the cached tokens.
///
/// For each split z: `partial[z, b, t, h, :]` = softmax over the split's visible tokens of `scale · Σ parts q · row`,
/// times the rows' `values` columns; `lse[z, b, t, h]` = the natural logarithm of the sum of exponentials, -inf where
/// no token is visible. The partial of a split with no token at all is not written.
///
/// A sequence that has tokens in no split but the first is whole: its softmax goes to `result` instead of `partial` where there
/// is one, and the lse of its other splits is +inf.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionRegion {
    /// The query, in parts of disjoint columns, ascending.
    pub queries: Vec<QueryPart>,
    /// The columns of a cached row that are its value.
    pub values: Range<usize>,
    /// \[N, page_size, row width\].
    pub cache: ValueId,
    /// \[B, P\].
    pub block_table: ValueId,
    /// \[B\].
    pub q_len: ValueId,
    /// \[B\].
    pub kv_len: ValueId,
    /// Softmax scale.
    pub scale: f64,
    /// Query heads that share the row.
    pub n_heads: usize,
    /// f32 \[Z, B, T, H, values\].
    pub partial: BufferId,
    /// f32 \[Z, B, T, H\], natural.
    pub lse: BufferId,
    /// The attention's result, \[B, T, H, values\], where it is to be in memory: of the sequences that are whole.
    pub result: Option<ValueId>,
}

/// The splits of an attention put together: `Σ exp(lse - max) · partial / Σ exp(lse - max)`, zeros where every lse is
/// -inf. A sequence that attention has left whole in the result stays as it is.
///
/// Splits are outermost, so that the rows (b, t) of one head lie a uniform stride apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CombineRegion {
    /// f32 \[Z, B, T, H, values\].
    pub partial: BufferId,
    /// f32 \[Z, B, T, H\].
    pub lse: BufferId,
    /// Query heads.
    pub n_heads: usize,
    /// Value columns.
    pub columns: usize,
    /// The attention's result, \[B, T, H, values\].
    pub result: ValueId,
    /// What each head's columns of it are multiplied with on the way to memory.
    pub projection: Option<Projection>,
    /// What reaches memory: the result, or what the projection makes of it.
    pub output: ValueId,
}

/// A weight W of each head: `output[b, t, h, v] = Σ over c of result[b, t, h, c] · W[h, v, c]`, with the result rounded to
/// its type as it would be in memory. W has the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Of three dimensions.
    pub weight: ValueId,
    /// Which of them are h, v and c.
    pub axes: [usize; 3],
}

/// A contraction per head, `y[b, t, h, m] = Σ over k of x[b, t, k] · w[h, m, k]`, whose columns m are used up where they are
/// made.
///
/// The sums and the nodes of `epilogue` are computed in f32. A part that is multiplied is rounded to its storage type before,
/// as it would be in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpProjectionRegion {
    /// The contraction, of x and w.
    pub product: ValueId,
    /// What is done to each element of the product, in order: scale, add, cast, scale_rows.
    pub epilogue: Vec<ValueId>,
    /// By their first column.
    pub parts: Vec<ProjectedPart>,
}

/// Columns of an up-projection and what they become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectedPart {
    /// Columns m.
    pub columns: Range<usize>,
    /// What is made of them, \[B, T, H, ..\]: a rope of them, a contraction with a weight of the head
    /// (`b t h n, h n c -> b t h c`), or the slice that they are.
    pub value: ValueId,
}

/// What a kernel computes.
#[derive(Clone, Debug, PartialEq)]
pub enum RegionKind {
    /// One node, with those of [`Region::nodes`] that are computed on the way to it, or beside it from the same rows; or the
    /// contraction that [`Region::nodes`] begin with and what is done to its elements up to this node.
    Node(ValueId),
    /// A contraction per head and what becomes of its columns.
    UpProjection(UpProjectionRegion),
    /// Attention over a paged cache.
    Attention(AttentionRegion),
    /// Its splits put together.
    Combine(CombineRegion),
    /// Attention over keys and values that each head has its own of.
    Prefill(PrefillRegion),
}

/// One kernel: nodes of the graph that are computed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// The kernel's name: a C identifier, unique within the plan.
    pub name: String,
    /// What it computes.
    pub kind: RegionKind,
    /// The graph's nodes it covers.
    pub nodes: Vec<ValueId>,
    /// Buffers it reads, in order of first use.
    pub reads: Vec<BufferId>,
    /// Buffers it writes.
    pub writes: Vec<BufferId>,
}

/// Kernels, in order of launch, over buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is computed.
    pub graph: Graph,
    /// Memory.
    pub buffers: Vec<Buffer>,
    /// Where each value of the graph lies; `None` for those that never reach memory.
    pub views: Vec<Option<View>>,
    /// The kernels.
    pub kernels: Vec<Region>,
    /// What was not fused, and why.
    pub notes: Vec<String>,
}

/// A graph that cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A cache is written in place, so nobody may read the value it had before.
    #[error(
        "`{reader}` reads `{cache}` after `{writer}` has written its rows in place; expected it to read `{writer}`"
    )]
    StaleCache {
        /// The node that reads.
        reader: String,
        /// The value it reads.
        cache: String,
        /// The node that wrote to the same memory before.
        writer: String,
    },
    /// A reshape of a value whose elements do not lie next to each other.
    #[error("reshape `{node}`: expected a contiguous argument, got `{argument}`, a part of buffer `{buffer}`")]
    Reshape {
        /// The reshape.
        node: String,
        /// Its argument.
        argument: String,
        /// Where the argument lies.
        buffer: String,
    },
    /// An index beyond the graph, or a value used before it is made.
    #[error("node `{node}`: expected its arguments to be made by earlier nodes, got value {found}")]
    Order {
        /// The node.
        node: String,
        /// The argument's index.
        found: usize,
    },
}

/// A kernel for every node.
pub fn unfused(graph: &Graph) -> Result<Plan, PlanError> {
    plan(graph, &Fusions::default(), Vec::new())
}

/// The fewest kernels that are known: attention over cached rows becomes one kernel and a combine, which a contraction of
/// each head's result joins; attention over keys and values per head becomes one kernel, and what decompresses those reads
/// the cache in place; the norms and rope of new rows join their cache write, rope and absorption the query's
/// up-projection, biases and factors their contraction.
///
/// What looks like one of these but cannot be fused stays a kernel a node, and [`Plan::notes`] says why.
pub fn fused(graph: &Graph) -> Result<Plan, PlanError> {
    fused_except(graph, &BTreeMap::new())
}

/// As [`fused`], but without the fusions `left_out`, each named by its [`Region::fusion`]; the notes that come with them say why.
/// What such a fusion covered becomes kernels of other fusions, or a kernel a node.
pub fn fused_except(graph: &Graph, left_out: &BTreeMap<ValueId, String>) -> Result<Plan, PlanError> {
    check_order(graph)?;
    let (fusions, notes) = Fusions::find(graph, left_out);
    plan(graph, &fusions, notes)
}

impl Region {
    /// The value that names the fusion which made the kernel, for [`fused_except`]; `None` for a kernel of one node. A combine
    /// without a projection is part of its attention's.
    pub fn fusion(&self) -> Option<ValueId> {
        match &self.kind {
            RegionKind::Attention(_) => self.nodes.last().copied(),
            RegionKind::Combine(combine) => Some(combine.projection.map_or(combine.result, |_| combine.output)),
            RegionKind::Prefill(prefill) => Some(prefill.output),
            RegionKind::UpProjection(projection) => Some(projection.product),
            RegionKind::Node(value) => (self.nodes.len() > 1).then_some(*value),
        }
    }

    /// Whether the kernel is attention, or puts its parts together: what every plan that can have it fuses.
    pub fn is_attention(&self) -> bool {
        match &self.kind {
            RegionKind::Attention(_) | RegionKind::Prefill(_) => true,
            RegionKind::Combine(combine) => combine.projection.is_none(),
            RegionKind::UpProjection(_) | RegionKind::Node(_) => false,
        }
    }
}

impl Plan {
    /// Where `value` lies, if it reaches memory.
    pub fn view(&self, value: ValueId) -> Option<&View> {
        self.views.get(value.0)?.as_ref()
    }

    /// The buffer `id`.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0]
    }

    /// Where the output `name` lies.
    pub fn output(&self, name: &str) -> Option<&View> {
        self.view(self.graph.output(name)?)
    }

    /// The values of the graph that `region` leaves in memory. Attention's partial results are none of them.
    pub fn results(&self, region: &Region) -> Vec<ValueId> {
        self.results_of(&region.kind, &region.nodes)
    }

    fn results_of(&self, kind: &RegionKind, nodes: &[ValueId]) -> Vec<ValueId> {
        match kind {
            RegionKind::Attention(_) => Vec::new(),
            RegionKind::Combine(combine) => vec![combine.output],
            RegionKind::Prefill(prefill) => vec![prefill.output],
            RegionKind::UpProjection(projection) => projection.parts.iter().map(|part| part.value).collect(),
            // Beside the rows of the cache, norms of other rows.
            RegionKind::Node(value) if self.graph.node(*value).op == Op::CacheWrite => {
                let in_memory = |node: &ValueId| self.view(*node).is_some();
                nodes.iter().copied().filter(in_memory).collect()
            }
            RegionKind::Node(value) => vec![*value],
        }
    }

    /// The kernel named `name`.
    pub fn kernel(&self, name: &str) -> Option<&Region> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Sets what the cache strides `G` and `R` are multiples of, in elements: 1 for a cache of unknown layout.
    pub fn with_stride_align(mut self, elements: usize) -> Plan {
        for buffer in &mut self.buffers {
            buffer.stride_align = elements.max(1);
        }
        self
    }
}

fn check_order(graph: &Graph) -> Result<(), PlanError> {
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Some(arg) = node.args.iter().find(|arg| arg.0 >= index) {
            return Err(PlanError::Order {
                node: node.name.clone(),
                found: arg.0,
            });
        }
    }
    match graph.outputs.iter().find(|(_, value)| value.0 >= graph.nodes.len()) {
        Some((name, value)) => Err(PlanError::Order {
            node: name.clone(),
            found: value.0,
        }),
        None => Ok(()),
    }
}

fn plan(graph: &Graph, fusions: &Fusions, notes: Vec<String>) -> Result<Plan, PlanError> {
    check_order(graph)?;
    let drafts = fusions.drafts(graph);
    let mut plan = Plan {
        graph: graph.clone(),
        buffers: Vec::new(),
        views: vec![None; graph.nodes.len()],
        kernels: Vec::new(),
        notes,
    };
    place_values(&mut plan, &drafts)?;
    let mut names = BTreeSet::new();
    for draft in drafts {
        draft.add(&mut plan, &mut names);
    }
    check_in_place(&plan)?;
    Ok(plan)
}

/// The values that nodes read and do not make themselves, in order of first use.
fn outside(graph: &Graph, nodes: &[ValueId]) -> Vec<ValueId> {
    let mut values = Vec::new();
    for &arg in nodes.iter().flat_map(|&node| &graph.node(node).args) {
        if !nodes.contains(&arg) && !values.contains(&arg) {
            values.push(arg);
        }
    }
    values
}

/// Gives every value that reaches memory its buffer and view.
fn place_values(plan: &mut Plan, drafts: &[Draft]) -> Result<(), PlanError> {
    let graph = plan.graph.clone();
    let made: BTreeSet<ValueId> = drafts.iter().flat_map(|draft| draft.makes(&graph)).collect();
    for value in graph.values() {
        let node = graph.node(value);
        let first = node.args.first().and_then(|&arg| plan.view(arg)).cloned();
        let view = match (&node.op, first) {
            (Op::Input { name, .. }, _) => Some(place_input(plan, value, name)),
            (Op::Slice { axis, start, .. }, Some(from)) => Some(from.slice(*axis, *start, &node.ty.shape)),
            (Op::Reshape, Some(from)) => Some(from.reshape(&node.ty.shape).ok_or_else(|| {
                PlanError::Reshape {
                    node: node.name.clone(),
                    argument: node
                        .args
                        .first()
                        .map(|&arg| graph.node(arg).name.clone())
                        .unwrap_or_default(),
                    buffer: plan.buffer(from.buffer).name.clone(),
                }
            })?),
            (Op::CacheWrite, Some(from)) => Some(from),
            _ if made.contains(&value) => Some(place_temp(plan, value)),
            _ => None,
        };
        plan.views[value.0] = view;
    }
    for (name, value) in &graph.outputs {
        let Some(buffer) = plan.view(*value).map(|view| view.buffer) else {
            continue;
        };
        let buffer = &mut plan.buffers[buffer.0];
        match &mut buffer.role {
            BufferRole::Input(_) => {}
            BufferRole::Output(names) => names.push(name.clone()),
            BufferRole::Temp => buffer.role = BufferRole::Output(vec![name.clone()]),
        }
    }
    Ok(())
}

fn place_input(plan: &mut Plan, value: ValueId, name: &str) -> View {
    let ty = plan.graph.ty(value).clone();
    let is_cache = plan.graph.users(value).iter().any(|&user| {
        let node = plan.graph.node(user);
        matches!(node.op, Op::CacheWrite | Op::CacheRead) && node.args.first() == Some(&value)
    });
    let id = BufferId(plan.buffers.len());
    let view = if is_cache {
        View::cache(id, &ty.shape)
    } else {
        View::contiguous(id, &ty.shape)
    };
    let size = match ty.shape.first() {
        Some(&pages) if is_cache => Size::product(&[pages, Dim::Sym(Symbol::G)]),
        _ => Size::product(&ty.shape),
    };
    push_buffer(
        plan,
        name,
        ty.dtype,
        &ty.shape,
        BufferRole::Input(name.to_string()),
        size,
    );
    view
}

fn place_temp(plan: &mut Plan, value: ValueId) -> View {
    let node = plan.graph.node(value).clone();
    let size = Size::product(&node.ty.shape);
    let id = push_buffer(plan, &node.name, node.ty.dtype, &node.ty.shape, BufferRole::Temp, size);
    View::contiguous(id, &node.ty.shape)
}

fn push_buffer(plan: &mut Plan, name: &str, dtype: DType, shape: &[Dim], role: BufferRole, size: Size) -> BufferId {
    let taken = |name: &str| plan.buffers.iter().any(|buffer| buffer.name == name);
    let name = numbered(name).find(|name| !taken(name)).unwrap_or_default();
    // Our own caches pad rows to 16 bytes.
    let stride_align = (16 / dtype.size_bytes()).max(1);
    plan.buffers.push(Buffer {
        name,
        dtype,
        shape: shape.to_vec(),
        role,
        size,
        stride_align,
    });
    BufferId(plan.buffers.len() - 1)
}

/// `wanted` as a C identifier that no other kernel has.
fn kernel_name(wanted: &str, names: &mut BTreeSet<String>) -> String {
    let mut name: String = wanted
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, 'k');
    }
    let name = numbered(&name).find(|name| !names.contains(name)).unwrap_or_default();
    names.insert(name.clone());
    name
}

/// The buffers of `values`, each once, in order of first use.
fn buffers(plan: &Plan, values: &[ValueId]) -> Vec<BufferId> {
    let mut ids = Vec::new();
    for id in values
        .iter()
        .filter_map(|&value| plan.view(value))
        .map(|view| view.buffer)
    {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// Checks that nobody reads a cache as it was before a write in place.
fn check_in_place(plan: &Plan) -> Result<(), PlanError> {
    let mut newest: BTreeMap<BufferId, ValueId> = BTreeMap::new();
    for kernel in &plan.kernels {
        let last = kernel.nodes.last().copied();
        let reads = match &kernel.kind {
            RegionKind::Node(_) | RegionKind::UpProjection(_) => outside(&plan.graph, &kernel.nodes),
            RegionKind::Attention(attention) => vec![attention.cache],
            RegionKind::Combine(combine) => combine.projection.iter().map(|projection| projection.weight).collect(),
            RegionKind::Prefill(prefill) => prefill.reads(),
        };
        for value in reads {
            let Some(writer) = plan.view(value).and_then(|view| newest.get(&view.buffer)) else {
                continue;
            };
            if plan.graph.root(value) != *writer {
                let name = |value: ValueId| plan.graph.node(value).name.clone();
                let (reader, cache) = (last.map(name).unwrap_or_default(), name(value));
                return Err(PlanError::StaleCache {
                    reader,
                    cache,
                    writer: name(*writer),
                });
            }
        }
        if let RegionKind::Node(value) = kernel.kind
            && plan.graph.node(value).op == Op::CacheWrite
            && let Some(view) = plan.view(value)
        {
            newest.insert(view.buffer, value);
        }
    }
    let stale = plan.graph.outputs.iter().find_map(|(name, value)| {
        let writer = *newest.get(&plan.view(*value)?.buffer)?;
        (plan.graph.root(*value) != writer).then_some((name, *value, writer))
    });
    match stale {
        Some((name, value, writer)) => Err(PlanError::StaleCache {
            reader: format!("output {name}"),
            cache: plan.graph.node(value).name.clone(),
            writer: plan.graph.node(writer).name.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

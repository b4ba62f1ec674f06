//! Weights as the kernels read them: what a graph computes from weights alone is taken out of it, to be made once, when the
//! weights are loaded.

use crate::build::{numbered, unique_name};
use crate::graph::{Graph, Node, Op, Ty, ValueId};
use crate::size::{Dim, Dims, Size};
use crate::verify::{VerifyError, verify};
use std::collections::{BTreeMap, BTreeSet};

/// A graph without the part that is computed from weights alone, and that part, weight by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What is left to compute in each launch. Its weights are [`Prepared::weights`].
    pub graph: Graph,
    /// The weights that it reads, in its order.
    pub weights: Vec<PreparedWeight>,
}

/// A weight as launches read it.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedWeight {
    /// What the prepared graph reads it by: the names of the weights it is made of, with `|` between those that lie side by
    /// side and `*` between others, as `W_UQ|W_QR*g_q`. Of a weight that is read as it is, its own name.
    pub name: String,
    /// Its storage type and shape, all constants.
    pub ty: Ty,
    /// Bytes it takes.
    pub bytes: usize,
    /// What it is made of: its memory is rows, each with a run of every part in turn. One part can so be put in its place while
    /// no other is in memory.
    pub parts: Vec<Part>,
}

/// A part of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Computes it from the original weights: [`PART`] is its one output, in the weight's storage type.
    pub graph: Graph,
    /// Bytes of it in each row. There is one row where the parts lie one after the other.
    pub run: usize,
}

/// Bytes of a value of constant shape.
fn bytes(ty: &Ty) -> Option<usize> {
    let size = Size::product(&ty.shape).times(Dim::Const(ty.dtype.size_bytes()));
    size.value(&Dims::new())
}

/// The name of a part's output.
pub const PART: &str = "part";

/// Takes what is computed from weights alone out of `graph`. Slices and reshapes of a weight stay where they are: they are
/// views, and others may read the rest of it.
///
/// # Errors
/// Where the graph is not sound.
pub fn prepare(graph: &Graph) -> Result<Prepared, VerifyError> {
    verify(graph)?;
    let constants = Constants::of(graph);
    let mut names = Names::of(graph, &constants);
    let mut rest = Rest::new(graph);
    let mut weights = Vec::new();
    for value in graph.values().filter(|value| constants.stays(*value)) {
        let node = graph.node(value).clone();
        let Some(&bytes) = constants.roots.get(&value) else {
            rest.push(value, node);
            continue;
        };
        let (name, ty) = (names.of_root(graph, value), node.ty.clone());
        let op = Op::Input {
            name: name.clone(),
            constant: true,
        };
        let args = Vec::new();
        rest.push(value, Node { op, args, ..node });
        weights.push(PreparedWeight {
            name,
            ty,
            bytes,
            parts: parts(graph, value),
        });
    }
    let graph = rest.finish(graph);
    Ok(Prepared { graph, weights })
}

/// What is computed from weights alone, and where launches read it.
struct Constants {
    /// With the bytes that each takes.
    constant: BTreeMap<ValueId, usize>,
    /// Weights that launches read, and values made of weights that become such; with the bytes that each takes.
    roots: BTreeMap<ValueId, usize>,
    /// Views of roots that launches read.
    views: BTreeSet<ValueId>,
}

impl Constants {
    fn of(graph: &Graph) -> Constants {
        let known = graph.values().zip(graph.constants()).filter(|(_, constant)| *constant);
        let constant: BTreeMap<_, _> = known.filter_map(|(v, _)| Some((v, bytes(graph.ty(v))?))).collect();
        let launched = graph.values().filter(|value| !constant.contains_key(value));
        let mut read: Vec<ValueId> = launched.flat_map(|value| graph.node(value).args.clone()).collect();
        read.extend(graph.outputs.iter().map(|(_, value)| *value));
        let (mut roots, mut views) = (BTreeMap::new(), BTreeSet::new());
        while let Some(value) = read.pop() {
            let (node, bytes) = (graph.node(value), constant.get(&value));
            match (bytes, &node.op) {
                (Some(_), Op::Slice { .. } | Op::Reshape) => {
                    read.extend(&node.args);
                    views.insert(value);
                }
                (Some(&bytes), _) => {
                    roots.insert(value, bytes);
                }
                (None, _) => {}
            }
        }
        Constants { constant, roots, views }
    }

    /// Whether the prepared graph has this value.
    fn stays(&self, value: ValueId) -> bool {
        !self.constant.contains_key(&value) || self.roots.contains_key(&value) || self.views.contains(&value)
    }
}

/// Names of inputs that are given out.
struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// Those of the inputs that stay as they are.
    fn of(graph: &Graph, constants: &Constants) -> Names {
        let stays = graph.values().filter(|value| constants.stays(*value));
        let taken = stays.filter_map(|value| match &graph.node(value).op {
            Op::Input { name, .. } => Some(name.clone()),
            _ => None,
        });
        Names { taken: taken.collect() }
    }

    fn of_root(&mut self, graph: &Graph, root: ValueId) -> String {
        let wanted = made_of(graph, root);
        if let Op::Input { .. } = graph.node(root).op {
            return wanted;
        }
        let free = |name: &String| !self.taken.contains(name);
        let name = numbered(&wanted).find(free).unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }
}

/// The names of the weights that `value` is made of.
fn made_of(graph: &Graph, value: ValueId) -> String {
    let node = graph.node(value);
    let between = match &node.op {
        Op::Input { name, .. } => return name.clone(),
        Op::Concat { .. } => "|",
        _ => "*",
    };
    let args: Vec<String> = node.args.iter().map(|&arg| made_of(graph, arg)).collect();
    args.join(between)
}

/// What lies side by side in the memory of `value`.
fn parts(graph: &Graph, value: ValueId) -> Vec<Part> {
    let axis = match graph.node(value).op {
        Op::Concat { axis } => axis,
        _ => 0,
    };
    let part = |value: ValueId| {
        let Ty { dtype, shape } = graph.ty(value).clone();
        let shape = shape.get(axis..).unwrap_or_default().to_vec();
        Part {
            graph: extract(graph, value),
            run: bytes(&Ty { dtype, shape }).unwrap_or_default(),
        }
    };
    side_by_side(graph, value, axis).into_iter().map(part).collect()
}

/// The values that are concatenated to `value` along one dimension.
fn side_by_side(graph: &Graph, value: ValueId, along: usize) -> Vec<ValueId> {
    let node = graph.node(value);
    let copies = match node.op {
        Op::Concat { axis } => axis == along,
        // The elements are in the same order, and one after the other along the first dimension.
        Op::Reshape => along == 0,
        _ => false,
    };
    // A concatenation that also rounds is computed.
    if copies && node.args.iter().all(|&arg| graph.ty(arg).dtype == node.ty.dtype) {
        let args = node.args.iter();
        args.flat_map(|&arg| side_by_side(graph, arg, along)).collect()
    } else {
        vec![value]
    }
}

/// `value` and what it is computed from, as a graph of its own.
fn extract(graph: &Graph, value: ValueId) -> Graph {
    let mut needed = BTreeSet::from([value]);
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        open.extend(graph.node(value).args.iter().filter(|arg| needed.insert(**arg)));
    }
    let mut part = Rest::new(graph);
    part.graph.name = graph.node(value).name.clone();
    for &value in &needed {
        part.push(value, graph.node(value).clone());
    }
    let mut last = part.places[&value];
    if let Op::Slice { .. } = graph.node(value).op {
        last = part.copy(last);
    }
    part.graph.outputs.push((PART.to_string(), last));
    part.graph
}

/// A graph of some of another's nodes.
struct Rest {
    graph: Graph,
    /// Where each value of the other graph stands in this one.
    places: BTreeMap<ValueId, ValueId>,
}

impl Rest {
    fn new(of: &Graph) -> Rest {
        let graph = Graph {
            name: of.name.clone(),
            ..Graph::default()
        };
        let places = BTreeMap::new();
        Rest { graph, places }
    }

    /// Appends the node of `value`, whose arguments are the other graph's.
    fn push(&mut self, value: ValueId, mut node: Node) {
        for arg in &mut node.args {
            *arg = self.places[arg];
        }
        self.graph.nodes.push(node);
        self.places.insert(value, ValueId(self.graph.nodes.len() - 1));
    }

    /// Appends a copy of a value, which lies in memory of its own.
    fn copy(&mut self, value: ValueId) -> ValueId {
        let Node { name, ty, .. } = self.graph.node(value).clone();
        self.graph.nodes.push(Node {
            name: unique_name(&self.graph.nodes, &format!("{name}_copy")),
            op: Op::Cast,
            args: vec![value],
            ty,
        });
        ValueId(self.graph.nodes.len() - 1)
    }

    fn finish(mut self, of: &Graph) -> Graph {
        let outputs = of
            .outputs
            .iter()
            .map(|(name, value)| (name.clone(), self.places[value]));
        self.graph.outputs = outputs.collect();
        self.graph
    }
}

//! A graph in the course of a change, and what rules ask of a graph before they make one.

use crate::build::append;
use crate::graph::{Graph, Op, Ty, ValueId};
use crate::infer::check_type;
use crate::size::Dim;
use mlafuse_tensor::DType;
use std::collections::BTreeSet;

/// A graph whose nodes may stand in any order until [`Edit::finish`] sorts them.
pub(super) struct Edit {
    graph: Graph,
}

impl Edit {
    pub fn new(graph: &Graph) -> Edit {
        Edit { graph: graph.clone() }
    }

    /// Appends a node, named `name` or with a number after it; `None` where the op and its arguments do not go together.
    pub fn push(&mut self, name: &str, op: Op, args: &[ValueId], dtype: DType) -> Option<ValueId> {
        append(&mut self.graph, name, op, args, dtype, &[]).ok()
    }

    /// Makes `value` another way; `None` where that way does not give its type. Its name stays, and who reads it.
    pub fn set(&mut self, value: ValueId, op: Op, args: &[ValueId]) -> Option<()> {
        let types: Vec<&Ty> = args.iter().map(|&arg| self.graph.ty(arg)).collect();
        check_type(&op, &types, self.graph.ty(value)).ok()?;
        let node = self.graph.nodes.get_mut(value.0)?;
        node.op = op;
        node.args = args.to_vec();
        Some(())
    }

    /// Lets all that reads `old` read `new`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        let args = self.graph.nodes.iter_mut().flat_map(|node| &mut node.args);
        let outputs = self.graph.outputs.iter_mut().map(|(_, value)| value);
        args.chain(outputs)
            .filter(|value| **value == old)
            .for_each(|value| *value = new);
    }

    /// `a` and `b` side by side along `axis`. Neighbouring slices of one value are a slice of it again.
    pub fn concat(&mut self, axis: usize, a: ValueId, b: ValueId) -> Option<ValueId> {
        if let Some((from, start, len)) = adjacent(&self.graph, axis, a, b) {
            let from_ty = self.graph.ty(from);
            if (start, Some(&Dim::Const(len))) == (0, from_ty.shape.get(axis)) {
                return Some(from);
            }
            let (name, dtype) = (self.joined_name(a, b), from_ty.dtype);
            return self.push(&name, Op::Slice { axis, start, len }, &[from], dtype);
        }
        let (name, dtype) = (self.joined_name(a, b), self.graph.ty(a).dtype);
        self.push(&name, Op::Concat { axis }, &[a, b], dtype)
    }

    /// The names of two nodes as one.
    pub fn joined_name(&self, a: ValueId, b: ValueId) -> String {
        format!("{}_{}", self.graph.node(a).name, self.graph.node(b).name)
    }

    /// The graph in an order of computation, without what nothing needs any more; slices of slices become slices. A node
    /// that is new stands right before the first that reads it; the others keep their order.
    pub fn finish(mut self) -> Graph {
        self.fold_slices();
        let needed = self.needed();
        let mut sorted = Sorted {
            from: &self.graph,
            to: Graph {
                name: self.graph.name.clone(),
                ..Graph::default()
            },
            places: vec![None; self.graph.nodes.len()],
        };
        for value in self.graph.values().filter(|value| needed.contains(value)) {
            sorted.place(value);
        }
        let Sorted { mut to, places, .. } = sorted;
        let place = |value: &ValueId| places.get(value.0).copied().flatten();
        to.outputs = self
            .graph
            .outputs
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), place(value)?)))
            .collect();
        to
    }

    fn fold_slices(&mut self) {
        for value in self.graph.values() {
            while let Some((op, arg)) = slice_of_slice(&self.graph, value) {
                let node = &mut self.graph.nodes[value.0];
                node.op = op;
                node.args = vec![arg];
            }
        }
    }

    /// Inputs, what outputs depend on, and what writes to a cache.
    fn needed(&self) -> BTreeSet<ValueId> {
        let kept = |&value: &ValueId| matches!(self.graph.node(value).op, Op::Input { .. } | Op::CacheWrite);
        let mut open: Vec<ValueId> = self.graph.outputs.iter().map(|&(_, value)| value).collect();
        open.extend(self.graph.values().filter(kept));
        let mut needed = BTreeSet::new();
        while let Some(value) = open.pop() {
            if needed.insert(value) {
                open.extend(&self.graph.node(value).args);
            }
        }
        needed
    }
}

/// The nodes that have found their place.
struct Sorted<'a> {
    from: &'a Graph,
    to: Graph,
    places: Vec<Option<ValueId>>,
}

impl Sorted<'_> {
    fn place(&mut self, value: ValueId) -> ValueId {
        if let Some(place) = self.places[value.0] {
            return place;
        }
        let mut node = self.from.node(value).clone();
        for arg in &mut node.args {
            *arg = self.place(*arg);
        }
        self.to.nodes.push(node);
        let place = ValueId(self.to.nodes.len() - 1);
        self.places[value.0] = Some(place);
        place
    }
}

/// What two neighbouring slices are together: of which value, from where, and how long.
pub(super) fn adjacent(graph: &Graph, axis: usize, a: ValueId, b: ValueId) -> Option<(ValueId, usize, usize)> {
    let slice = |value: ValueId| {
        let node = graph.node(value);
        match (&node.op, node.args.as_slice()) {
            (&Op::Slice { axis, start, len }, &[from]) => Some((axis, from, start, len)),
            _ => None,
        }
    };
    let ((axis_a, from_a, start, len), (axis_b, from_b, next, more)) = (slice(a)?, slice(b)?);
    let fits = (axis_a, axis_b, from_a) == (axis, axis, from_b) && start + len == next;
    fits.then_some((from_a, start, len + more))
}

fn slice_of_slice(graph: &Graph, value: ValueId) -> Option<(Op, ValueId)> {
    let slice = |value: ValueId| match (&graph.node(value).op, graph.node(value).args.first()) {
        (&Op::Slice { axis, start, len }, Some(&arg)) => Some((axis, start, len, arg)),
        _ => None,
    };
    let (axis, start, len, inner) = slice(value)?;
    let (inner_axis, first, _, arg) = slice(inner)?;
    let start = first + start;
    (axis == inner_axis).then_some((Op::Slice { axis, start, len }, arg))
}

/// Why something other than `reader` needs `value` too, in words; `None` where `reader` alone reads it.
pub(super) fn other_need(graph: &Graph, value: ValueId, reader: ValueId) -> Option<String> {
    let name = &graph.node(value).name;
    if let Some((output, _)) = graph.outputs.iter().find(|&&(_, other)| other == value) {
        return Some(format!("`{name}` is also the output \"{output}\""));
    }
    let other = graph.users(value).into_iter().find(|&user| user != reader)?;
    Some(format!("`{name}` is also read by `{}`", graph.node(other).name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn graph() -> Graph {
        parse(
            "graph g { %x = input \"x\" : f32[4, 8] %w = weight \"w\" : f32[4, 8]
             %a = slice axis=1 start=2 len=6 %x : f32[4, 6] %b = slice axis=1 start=1 len=3 %a : f32[4, 3]
             %c = slice axis=1 start=6 len=2 %x : f32[4, 2] %y = scale factor=2.0 %b : f32[4, 3]
             %z = scale factor=3.0 %x : f32[4, 8] output \"y\" %y output \"c\" %c }",
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_needed_goes_and_slices_fold() {
        let text = Edit::new(&graph()).finish().to_string();
        let expected = "graph g {\n  %x = input \"x\" : f32[4, 8]\n  %w = weight \"w\" : f32[4, 8]
  %b = slice axis=1 start=3 len=3 %x : f32[4, 3]\n  %c = slice axis=1 start=6 len=2 %x : f32[4, 2]
  %y = scale factor=2.0 %b : f32[4, 3]\n  output \"y\" %y\n  output \"c\" %c\n}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_new_node_stands_before_its_first_reader() {
        let mut edit = Edit::new(&graph());
        let [x, y, c] = [0, 5, 4].map(ValueId);
        let new = edit.push("x", Op::Scale { factor: 0.5 }, &[x], DType::F32).unwrap();
        edit.set(
            c,
            Op::Slice {
                axis: 1,
                start: 0,
                len: 2,
            },
            &[new],
        )
        .unwrap();
        assert!(edit.set(y, Op::Cast, &[new]).is_none(), "another shape");
        let graph = edit.finish();
        verify(&graph).unwrap();
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["x", "w", "b", "x_2", "c", "y"]);
    }

    #[test]
    fn neighbouring_slices_join() {
        let mut edit = Edit::new(&graph());
        let x = ValueId(0);
        let slice = |edit: &mut Edit, start, len| {
            edit.push("s", Op::Slice { axis: 1, start, len }, &[x], DType::F32)
                .unwrap()
        };
        let parts = [(0, 3), (3, 2), (5, 3)].map(|(start, len)| slice(&mut edit, start, len));
        let left = edit.concat(1, parts[0], parts[1]).unwrap();
        assert_eq!(
            edit.graph.node(left).op,
            Op::Slice {
                axis: 1,
                start: 0,
                len: 5
            }
        );
        assert_eq!(edit.concat(1, left, parts[2]), Some(x));
        let apart = edit.concat(1, parts[0], parts[2]).unwrap();
        assert_eq!(edit.graph.node(apart).op, Op::Concat { axis: 1 });
    }

    #[test]
    fn needs_and_dependences_are_seen() {
        let graph = graph();
        let [x, a, b, y] = [0, 2, 3, 5].map(ValueId);
        assert_eq!(other_need(&graph, a, b), None);
        assert_eq!(other_need(&graph, x, a).as_deref(), Some("`x` is also read by `c`"));
        assert_eq!(
            other_need(&graph, y, x).as_deref(),
            Some("`y` is also the output \"y\"")
        );
        assert!(graph.depends_on(y, x) && !graph.depends_on(x, y) && !graph.depends_on(y, ValueId(1)));
    }
}

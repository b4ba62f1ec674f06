//! Part of a plan's graph as a graph of its own, for a reference of one kernel.

use super::Plan;
use crate::graph::{Graph, Node, Op, ValueId};
use std::collections::BTreeMap;

/// A graph of some nodes of another, whose one output is named `result`.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The nodes.
    pub graph: Graph,
    /// Its inputs by name, with the values of the whole graph that they stand for.
    pub inputs: BTreeMap<String, ValueId>,
}

impl Plan {
    /// What makes `value`: those of `nodes`, and nodes that are in no memory (columns of cached rows, say). Everything else
    /// that these read, and `given`, are inputs.
    pub fn part(&self, nodes: &[ValueId], value: ValueId, given: Option<ValueId>) -> Part {
        let mut cut = Cut {
            plan: self,
            nodes,
            given,
            part: Part {
                graph: Graph {
                    name: "part".to_string(),
                    ..Graph::default()
                },
                inputs: BTreeMap::new(),
            },
            places: BTreeMap::new(),
        };
        let result = cut.place(value);
        cut.part.graph.outputs.push(("result".to_string(), result));
        cut.part
    }
}

struct Cut<'a> {
    plan: &'a Plan,
    nodes: &'a [ValueId],
    given: Option<ValueId>,
    part: Part,
    /// Where each value of the whole graph stands in the part.
    places: BTreeMap<ValueId, ValueId>,
}

impl Cut<'_> {
    fn place(&mut self, value: ValueId) -> ValueId {
        if let Some(&place) = self.places.get(&value) {
            return place;
        }
        let node = self.plan.graph.node(value).clone();
        let computed = self.nodes.contains(&value) || self.plan.view(value).is_none();
        let node = match computed && self.given != Some(value) {
            true => {
                let args = node.args.iter().map(|&arg| self.place(arg)).collect();
                Node { args, ..node }
            }
            false => {
                self.part.inputs.insert(node.name.clone(), value);
                let op = Op::Input {
                    name: node.name.clone(),
                    constant: false,
                };
                Node {
                    op,
                    args: Vec::new(),
                    ..node
                }
            }
        };
        let nodes = &mut self.part.graph.nodes;
        nodes.push(node);
        let place = ValueId(nodes.len() - 1);
        self.places.insert(value, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{fused, unfused};
    use crate::text::parse;

    const TEXT: &str = "graph g {
        %x = input \"x\" : f32[B, T, 4] %w = weight \"w\" : f32[3, 4]
        %y = einsum \"b t d, q d -> b t q\" %x, %w : f32[B, T, 3]
        %s = scale factor=2.0 %y : f32[B, T, 3] %z = softmax %s : f32[B, T, 3]
        output \"z\" %z }";

    #[test]
    fn what_is_in_memory_is_an_input() {
        let graph = parse(TEXT).unwrap();
        let [x, w, y, s, z] = [0, 1, 2, 3, 4].map(ValueId);
        let inputs = |plan: &Plan, nodes: &[ValueId], given| -> Vec<ValueId> {
            plan.part(nodes, z, given).inputs.into_values().collect()
        };
        let plan = unfused(&graph).unwrap();
        assert_eq!(inputs(&plan, &[z], None), [s]);
        assert_eq!(inputs(&plan, &[s, z], None), [y]);
        // The fused plan has no memory for y, so that it is computed where nobody gives it.
        let plan = fused(&graph).unwrap();
        assert!(plan.view(y).is_none());
        assert_eq!(inputs(&plan, &[s, z], None), [w, x]);
        assert_eq!(inputs(&plan, &[s, z], Some(y)), [y]);
        let part = plan.part(&[s, z], z, None);
        crate::verify::verify(&part.graph).unwrap();
        assert_eq!(
            part.graph
                .output("result")
                .map(|value| &part.graph.node(value).name[..]),
            Some("z")
        );
    }
}

//! Checks that a graph is well formed, whoever made it.

use crate::graph::{Graph, Op, Ty};
use crate::infer::{TypeError, check_type};
use std::collections::BTreeSet;

/// Where in a graph something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The graph's own name.
    Graph,
    /// A node, by index, and one of its arguments, by index.
    Node {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// Index into [`crate::graph::Node::args`].
        arg: Option<usize>,
    },
    /// An output, by index into [`Graph::outputs`].
    Output(usize),
}

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A name that the text form cannot write.
    #[error("{what} {found:?}: expected {expected}")]
    Name {
        /// Where it stands.
        site: Site,
        /// `graph name`, `node name`, `input name` or `output name`.
        what: &'static str,
        /// The name.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// Two of a kind with one name.
    #[error("{what} {found:?} stands twice")]
    Duplicate {
        /// Where the second stands.
        site: Site,
        /// `node name`, `input name` or `output name`.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// An argument that no earlier node makes.
    #[error("node `{node}`, argument {arg}: expected a value made before it, got value {got}")]
    Order {
        /// Where it stands.
        site: Site,
        /// The node's name.
        node: String,
        /// Which argument, from 0.
        arg: usize,
        /// The value's index.
        got: usize,
    },
    /// A node's types do not go together.
    #[error("node `{node}`{}: {error}", argument.as_ref().map(|a| format!(", {a}")).unwrap_or_default())]
    Type {
        /// Where it stands.
        site: Site,
        /// The node's name.
        node: String,
        /// The argument at fault in words, such as ``argument 1 (`w_dq`)``.
        argument: Option<String>,
        /// What is wrong.
        error: Box<TypeError>,
    },
    /// An output of a value that does not exist.
    #[error("output {output:?}: expected one of {nodes} values, got value {got}")]
    Output {
        /// Where it stands.
        site: Site,
        /// The output's name.
        output: String,
        /// How many values there are.
        nodes: usize,
        /// The value's index.
        got: usize,
    },
}

impl VerifyError {
    /// Where in the graph it is.
    pub fn site(&self) -> Site {
        match self {
            VerifyError::Name { site, .. }
            | VerifyError::Duplicate { site, .. }
            | VerifyError::Order { site, .. }
            | VerifyError::Type { site, .. }
            | VerifyError::Output { site, .. } => *site,
        }
    }
}

/// Whether the text form can write this after `%`: letters, digits, `_` and `.`, not starting with a digit or dot.
pub fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'.')
        && name
            .bytes()
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
}

/// Whether the text form can write this between double quotes.
pub fn is_quotable(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|c| (b' '..=b'~').contains(&c) && c != b'"' && c != b'\\')
}

const NAME: &str = "letters, digits, `_` and `.`, starting with a letter or `_`";
const QUOTABLE: &str = "printable ASCII characters without quotes and backslashes";

/// Checks names, order of computation, number of arguments, shapes, storage types and outputs.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    if !is_name(&graph.name) {
        let (what, found) = ("graph name", graph.name.clone());
        return Err(VerifyError::Name {
            site: Site::Graph,
            what,
            found,
            expected: NAME,
        });
    }
    let mut names = BTreeSet::new();
    let mut inputs = BTreeSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let site = Site::Node { node: index, arg: None };
        unique(&mut names, &node.name, "node name", site, is_name(&node.name), NAME)?;
        if let Op::Input { name, .. } = &node.op {
            unique(&mut inputs, name, "input name", site, is_quotable(name), QUOTABLE)?;
        }
        verify_node(graph, index)?;
    }
    let mut outputs = BTreeSet::new();
    for (index, (name, value)) in graph.outputs.iter().enumerate() {
        let site = Site::Output(index);
        unique(&mut outputs, name, "output name", site, is_quotable(name), QUOTABLE)?;
        if value.0 >= graph.nodes.len() {
            let (output, nodes) = (name.clone(), graph.nodes.len());
            return Err(VerifyError::Output {
                site,
                output,
                nodes,
                got: value.0,
            });
        }
    }
    Ok(())
}

fn unique<'a>(
    seen: &mut BTreeSet<&'a str>,
    name: &'a str,
    what: &'static str,
    site: Site,
    writable: bool,
    expected: &'static str,
) -> Result<(), VerifyError> {
    if !writable {
        return Err(VerifyError::Name {
            site,
            what,
            found: name.to_string(),
            expected,
        });
    }
    if !seen.insert(name) {
        return Err(VerifyError::Duplicate {
            site,
            what,
            found: name.to_string(),
        });
    }
    Ok(())
}

fn verify_node(graph: &Graph, index: usize) -> Result<(), VerifyError> {
    let node = &graph.nodes[index];
    let mut types: Vec<&Ty> = Vec::with_capacity(node.args.len());
    for (arg, value) in node.args.iter().enumerate() {
        if value.0 >= index {
            let site = Site::Node {
                node: index,
                arg: Some(arg),
            };
            return Err(VerifyError::Order {
                site,
                node: node.name.clone(),
                arg,
                got: value.0,
            });
        }
        types.push(graph.ty(*value));
    }
    check_type(&node.op, &types, &node.ty).map_err(|error| {
        let arg = error.arg();
        let argument = arg.map(|arg| match node.args.get(arg) {
            Some(&value) => format!("argument {arg} (`{}`)", graph.node(value).name),
            None => format!("argument {arg}"),
        });
        VerifyError::Type {
            site: Site::Node { node: index, arg },
            node: node.name.clone(),
            argument,
            error: error.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::GraphBuilder;
    use crate::graph::ValueId;
    use mlafuse_tensor::DType;

    fn sample() -> Graph {
        let mut g = GraphBuilder::new("sample");
        let x = g.input("x", DType::F32, &[2.into(), 3.into()]).unwrap();
        let w = g.input("W", DType::F32, &[4.into(), 3.into()]).unwrap();
        let y = g.einsum("y", "a b, c b -> a c", x, w, DType::F32).unwrap();
        g.output("out", y);
        g.finish()
    }

    #[test]
    fn a_sound_graph_passes() {
        verify(&sample()).unwrap();
    }

    #[test]
    fn each_fault_is_named() {
        let fault = |change: fn(&mut Graph)| {
            let mut graph = sample();
            change(&mut graph);
            verify(&graph).unwrap_err().to_string()
        };
        assert!(fault(|g| g.name = "a b".into()).starts_with("graph name \"a b\""));
        assert!(fault(|g| g.nodes[1].name = "x".into()).contains("node name \"x\" stands twice"));
        assert!(fault(|g| g.nodes[2].args[0] = ValueId(2)).contains("node `y`, argument 0: expected a value made"));
        assert!(fault(|g| g.nodes[2].args[1] = ValueId(0)).contains("result: expected [2, 2], got [2, 4]"));
        assert!(fault(|g| g.nodes[2].ty.dtype = DType::I32).contains("expected a float type, got i32"));
        assert!(fault(|g| g.nodes[2].ty.shape[0] = 5.into()).contains("result: expected [2, 4], got [5, 4]"));
        assert!(fault(|g| g.outputs[0].1 = ValueId(9)).contains("got value 9"));
        assert!(fault(|g| g.nodes[1].ty.shape[1] = 9.into()).contains("argument 1 (`w`): expected 3 along `b`, got 9"));
        assert!(fault(|g| g.nodes[2].args.push(ValueId(0))).contains("expected 2 arguments, got 3"));
    }
}

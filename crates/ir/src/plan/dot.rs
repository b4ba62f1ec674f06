//! A plan as a picture: the DOT language of Graphviz.

use std::collections::BTreeMap;

use super::{Buffer, BufferId, BufferRole, Plan};

/// A node of the picture.
#[derive(Clone, Copy, PartialEq)]
enum Node {
    /// A kernel, by its place in the plan.
    Kernel(usize),
    /// The caller's memory before the first launch.
    Input(BufferId),
    /// The caller's memory after the last.
    Output(BufferId),
}

impl Node {
    fn id(self) -> String {
        match self {
            Node::Kernel(index) => format!("kernel_{index}"),
            Node::Input(BufferId(index)) => format!("input_{index}"),
            Node::Output(BufferId(index)) => format!("output_{index}"),
        }
    }
}

impl Plan {
    /// The plan in the DOT language: a box for each kernel with its name and what `notes` says of it (its schedule, say, in the
    /// kernels' order), an ellipse for each input and output, and an edge for each buffer between two of them, labelled with its
    /// name and its size in symbols. A cache comes to its reader from the kernel that wrote to it last.
    pub fn to_dot(&self, notes: &[String]) -> String {
        let mut text = format!("digraph {} {{\n", quoted(&self.graph.name));
        text += "  rankdir=TB;\n  node [fontname=\"Helvetica\"];\n  edge [fontname=\"Helvetica\", fontsize=10];\n";
        for (index, buffer) in self.buffers.iter().enumerate() {
            text += &self.ellipses(BufferId(index), buffer);
        }
        for (index, kernel) in self.kernels.iter().enumerate() {
            let note = notes.get(index).filter(|note| !note.is_empty());
            let label = note.map_or(kernel.name.clone(), |note| format!("{}\n{note}", kernel.name));
            text += &node(Node::Kernel(index), "box", &label);
        }
        for (from, to, id) in self.flows() {
            let buffer = self.buffer(id);
            let bytes = format!("{} bytes", buffer.size.clone().times(buffer.dtype.size_bytes().into()));
            // An ellipse has the name already.
            let label = match (from, to) {
                (Node::Kernel(_), Node::Kernel(_)) => format!("{}\n{bytes}", buffer.name),
                _ => bytes,
            };
            text += &format!("  {} -> {} [label={}];\n", from.id(), to.id(), quoted(&label));
        }
        text + "}\n"
    }

    fn ellipses(&self, id: BufferId, buffer: &Buffer) -> String {
        let used = |node: Node| self.flows().iter().any(|&(from, to, _)| from == node || to == node);
        let ellipse = |shown: Node, label: &str| match used(shown) {
            true => node(shown, "ellipse", label),
            false => String::new(),
        };
        let outputs: Vec<&str> = self
            .graph
            .outputs
            .iter()
            .filter(|(_, value)| self.view(*value).is_some_and(|view| view.buffer == id))
            .map(|(name, _)| name.as_str())
            .collect();
        ellipse(Node::Input(id), &buffer.name) + &ellipse(Node::Output(id), &format!("output {}", outputs.join(", ")))
    }

    /// From where to where each buffer goes, in order of launch.
    fn flows(&self) -> Vec<(Node, Node, BufferId)> {
        let mut holder: BTreeMap<BufferId, Node> = BTreeMap::new();
        for (index, buffer) in self.buffers.iter().enumerate() {
            if let BufferRole::Input(_) = buffer.role {
                holder.insert(BufferId(index), Node::Input(BufferId(index)));
            }
        }
        let mut flows = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let here = Node::Kernel(index);
            // What is written in place comes in, too.
            let written = kernel.writes.iter().filter(|id| !kernel.reads.contains(id));
            for &id in kernel.reads.iter().chain(written) {
                flows.extend(holder.get(&id).map(|&from| (from, here, id)));
            }
            holder.extend(kernel.writes.iter().map(|&id| (id, here)));
        }
        let handed_out = self.graph.outputs.iter().filter_map(|(_, value)| self.view(*value));
        for id in handed_out.map(|view| view.buffer) {
            let flow = holder.get(&id).map(|&from| (from, Node::Output(id), id));
            flows.extend(flow.filter(|flow| !flows.contains(flow)));
        }
        flows
    }
}

fn node(shown: Node, shape: &str, label: &str) -> String {
    format!("  {} [shape={shape}, label={}];\n", shown.id(), quoted(label))
}

/// A string of the DOT language.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use crate::plan::unfused;
    use crate::text::parse;
    use std::collections::BTreeSet;

    const GRAPH: &str = "graph g { %cache = input \"cache\" : bf16[N, 4, 10]
        %table = input \"block_table\" : i32[B, P] %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
        %x = input \"x\" : bf16[B, T, 10] %unused = input \"unused\" : f32[T]
        %y = scale factor=2.0 %x : bf16[B, T, 10]
        %written = cache_write %cache, %y, %table, %q_len, %kv_len : bf16[N, 4, 10]
        %rows = cache_read %written, %table, %kv_len : bf16[B, S, 10]
        output \"cache\" %written output \"rows\" %rows }";

    /// The nodes that are declared, and the ends of each edge.
    fn parsed(dot: &str) -> (BTreeSet<&str>, Vec<(&str, &str)>) {
        let lines = dot.lines().map(str::trim);
        let statements: Vec<&str> = lines.filter_map(|line| line.strip_suffix("];")).collect();
        let edges = statements.iter().filter_map(|line| line.split_once(" -> "));
        let edges: Vec<_> = edges
            .map(|(from, rest)| (from, rest.split_once(' ').unwrap().0))
            .collect();
        let nodes = statements.iter().filter(|line| line.contains("[shape="));
        (nodes.map(|line| line.split_once(' ').unwrap().0).collect(), edges)
    }

    #[test]
    fn edges_join_declared_nodes_and_follow_the_cache() {
        let plan = unfused(&parse(GRAPH).unwrap()).unwrap();
        let schedules = ["rows 4 \"each\"".to_string()];
        let dot = plan.to_dot(&schedules);
        for (open, close) in [('{', '}'), ('[', ']')] {
            assert_eq!(dot.matches(open).count(), dot.matches(close).count(), "{dot}");
        }
        let (nodes, edges) = parsed(&dot);
        assert!(
            edges
                .iter()
                .all(|(from, to)| nodes.contains(from) && nodes.contains(to)),
            "{dot}"
        );
        // The cache, buffer 0: in, written, then read and handed out.
        for edge in [
            ("input_0", "kernel_1"),
            ("kernel_1", "kernel_2"),
            ("kernel_1", "output_0"),
        ] {
            assert!(edges.contains(&edge), "{edge:?} {dot}");
        }
        assert!(!edges.contains(&("input_0", "kernel_2")), "{dot}");
        assert!(
            dot.contains("label=\"scale_y\\nrows 4 \\\"each\\\"\"") && dot.contains("label=\"y\\n20*B*T bytes\""),
            "{dot}"
        );
        // Nobody reads it, so it is not drawn.
        assert!(!dot.contains("unused"), "{dot}");
    }
}

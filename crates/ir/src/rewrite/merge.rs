//! Contractions that share an operand become one: x·V and x·W are slices of x·(V | W).
//!
//! The two may differ in one label of the other operand, along which those are put side by side. Biases and row factors
//! of both move along. More than two merge two by two.

use super::edit::{Edit, adjacent, other_need};
use super::rule::{Change, Finding};
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use crate::size::Dim;
use std::collections::BTreeMap;

/// Every pair of contractions that read one value as the same operand.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    pairs(graph)
        .into_iter()
        .filter(|pair| !pair.of.iter().any(|value| constants[value.0]))
        .map(|pair| {
            let change = in_memory_twice(graph, &constants, &pair).map_or_else(|| merged(graph, &pair), Err);
            Finding::new(graph, &pair.of, change)
        })
        .collect()
}

/// Why a weight would be in memory both by itself and beside the other, in words, if it would.
fn in_memory_twice(graph: &Graph, constants: &[bool], pair: &Pair) -> Option<String> {
    let others = pair.others(graph)?;
    if others[0] == others[1] {
        return Some(format!("both read `{}`", graph.node(others[0]).name));
    }
    let mut weights = others.into_iter().zip(pair.of).filter(|(other, _)| constants[other.0]);
    let need = weights.find_map(|(weight, reader)| other_need(graph, weight, reader))?;
    Some(format!("{need}, so it would be in memory twice"))
}

/// Two contractions, the earlier first, and which of their operands is the same.
pub(super) struct Pair {
    pub of: [ValueId; 2],
    pub operand: usize,
}

impl Pair {
    /// The operands that differ.
    pub fn others(&self, graph: &Graph) -> Option<[ValueId; 2]> {
        let other = |value: ValueId| graph.node(value).args.get(1 - self.operand).copied();
        Some([other(self.of[0])?, other(self.of[1])?])
    }
}

pub(super) fn pairs(graph: &Graph) -> Vec<Pair> {
    let contracts = |value: &ValueId| matches!(graph.node(*value).op, Op::Einsum(_));
    let contractions: Vec<ValueId> = graph.values().filter(contracts).collect();
    let mut pairs = Vec::new();
    for (index, &first) in contractions.iter().enumerate() {
        for &second in &contractions[index + 1..] {
            for operand in [0, 1] {
                let args = [first, second].map(|value| graph.node(value).args.get(operand));
                if args[0] == args[1] {
                    let of = [first, second];
                    pairs.push(Pair { of, operand });
                }
            }
        }
    }
    pairs
}

/// The graph with one contraction in the place of two.
pub(super) fn merged(graph: &Graph, pair: &Pair) -> Result<Change, String> {
    let others = pair.others(graph).ok_or("a contraction has two operands")?;
    let axes = Axes::of(graph, pair, others)?;
    let names = pair.of.map(|value| graph.node(value).name.as_str());
    for (other, made) in [(others[1], pair.of[0]), (others[0], pair.of[1])] {
        if graph.depends_on(other, made) {
            let (other, made) = (&graph.node(other).name, &graph.node(made).name);
            return Err(format!("`{other}` depends on `{made}`"));
        }
    }
    let shared = graph.node(pair.of[0]).args[pair.operand];
    let [shared_name, v, w] = [shared, others[0], others[1]].map(|value| graph.node(value).name.as_str());
    let words = format!(
        "{} and {} are slices of {shared_name} · ({v} | {w})",
        names[0], names[1]
    );
    let graph = build(graph, pair, others, &axes).ok_or("the parts do not fit beside each other")?;
    Ok(Change { words, graph })
}

/// Where two contractions differ.
struct Axes {
    /// The dimension of the operands that differ.
    operand: usize,
    /// The same one of the results.
    out: usize,
}

impl Axes {
    fn of(graph: &Graph, pair: &Pair, others: [ValueId; 2]) -> Result<Axes, String> {
        let name = |value: ValueId| graph.node(value).name.as_str();
        let (Op::Einsum(first), Op::Einsum(second)) = (&graph.node(pair.of[0]).op, &graph.node(pair.of[1]).op) else {
            return Err("only contractions merge".to_string());
        };
        if !same_but_for_names(first, second) {
            return Err(format!(
                "`{}` is {first}, `{}` is {second}",
                name(pair.of[0]),
                name(pair.of[1])
            ));
        }
        for values in [pair.of, others] {
            let types = values.map(|value| graph.ty(value).dtype);
            if types[0] != types[1] {
                let [a, b] = values.map(name);
                return Err(format!("`{a}` is {}, `{b}` is {}", types[0], types[1]));
            }
        }
        let (labels, shared) = match pair.operand {
            0 => (&first.b, &first.a),
            _ => (&first.a, &first.b),
        };
        let shapes = others.map(|value| &graph.ty(value).shape);
        let differ: Vec<usize> = (0..labels.len())
            .filter(|&i| shapes[0].get(i) != shapes[1].get(i))
            .collect();
        let free = |i: &usize| first.out.contains(&labels[*i]) && !shared.contains(&labels[*i]);
        let operand = match differ.as_slice() {
            // Of one shape: as neighbours where they are, else along the innermost dimension of the results that is theirs.
            [] => match (0..labels.len()).find(|&axis| adjacent(graph, axis, others[0], others[1]).is_some()) {
                Some(axis) => Some(axis).filter(free),
                None => (0..labels.len())
                    .filter(free)
                    .max_by_key(|&i| first.out.iter().position(|label| *label == labels[i])),
            },
            [axis] => Some(*axis).filter(free),
            _ => {
                let [v, w] = others.map(name);
                return Err(format!("`{v}` and `{w}` differ in more than one dimension"));
            }
        };
        let [v, w] = others.map(name);
        let operand = operand.ok_or_else(|| format!("no dimension of `{v}` and `{w}` alone is left in the results"))?;
        let constant = |shape: &[Dim]| matches!(shape.get(operand), Some(Dim::Const(_)));
        if !shapes.iter().all(|shape| constant(shape)) {
            return Err(format!(
                "dimension {operand} of `{v}` and `{w}` is known at launch only"
            ));
        }
        let out = first.out.iter().position(|label| *label == labels[operand]);
        Ok(Axes {
            operand,
            out: out.ok_or("the dimension is summed over")?,
        })
    }
}

/// Whether one contraction is the other with its labels renamed.
fn same_but_for_names(first: &EinsumSpec, second: &EinsumSpec) -> bool {
    let lists = [(&first.a, &second.a), (&first.b, &second.b), (&first.out, &second.out)];
    let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
    lists.into_iter().all(|(first, second)| {
        first.len() == second.len()
            && first
                .iter()
                .zip(second)
                .all(|(a, b)| *there.entry(a).or_insert(b) == b && *back.entry(b).or_insert(a) == a)
    })
}

fn build(graph: &Graph, pair: &Pair, others: [ValueId; 2], axes: &Axes) -> Option<Graph> {
    let mut edit = Edit::new(graph);
    let other = edit.concat(axes.operand, others[0], others[1])?;
    let node = graph.node(pair.of[0]);
    let mut args = node.args.clone();
    *args.get_mut(1 - pair.operand)? = other;
    let mut whole = edit.push(
        &edit.joined_name(pair.of[0], pair.of[1]),
        node.op.clone(),
        &args,
        node.ty.dtype,
    )?;
    let mut parts = pair.of;
    if let Some(tail) = Tail::of(graph, pair.of, axes.out) {
        whole = tail.build(graph, &mut edit, axes.out, whole)?;
        parts = tail.of;
    }
    let mut start = 0;
    for part in parts {
        let axis = axes.out;
        let Some(&Dim::Const(len)) = graph.ty(part).shape.get(axis) else {
            return None;
        };
        edit.set(part, Op::Slice { axis, start, len }, &[whole])?;
        start += len;
    }
    Some(edit.finish())
}

/// What follows both contractions alike, element by element.
struct Tail {
    of: [ValueId; 2],
    /// The second operands: biases to be put side by side, or one row factor twice.
    operands: [ValueId; 2],
}

impl Tail {
    fn of(graph: &Graph, parts: [ValueId; 2], axis: usize) -> Option<Tail> {
        let of = [reader(graph, parts[0])?, reader(graph, parts[1])?];
        let nodes = of.map(|value| graph.node(value));
        let operands = [*nodes[0].args.get(1)?, *nodes[1].args.get(1)?];
        let [first, second] = operands.map(|value| graph.ty(value));
        let fits = match (&nodes[0].op, &nodes[1].op) {
            (Op::Add, Op::Add) => {
                let lacking = nodes[0].ty.shape.len() - first.shape.len();
                let constants = graph.constants();
                axis >= lacking
                    && (first.dtype, first.shape.len()) == (second.dtype, second.shape.len())
                    && operands.iter().all(|value| constants[value.0])
            }
            (Op::ScaleRows, Op::ScaleRows) => operands[0] == operands[1] && axis >= first.shape.len(),
            _ => false,
        };
        (fits && nodes[0].ty.dtype == nodes[1].ty.dtype).then_some(Tail { of, operands })
    }

    fn build(&self, graph: &Graph, edit: &mut Edit, axis: usize, whole: ValueId) -> Option<ValueId> {
        let node = graph.node(self.of[0]);
        let operand = match node.op {
            Op::Add => {
                let lacking = node.ty.shape.len() - graph.ty(self.operands[0]).shape.len();
                edit.concat(axis - lacking, self.operands[0], self.operands[1])?
            }
            _ => self.operands[0],
        };
        let name = edit.joined_name(self.of[0], self.of[1]);
        edit.push(&name, node.op.clone(), &[whole, operand], node.ty.dtype)
    }
}

/// The node that alone reads `value`, as its first argument.
fn reader(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let reader = *graph.users(value).first()?;
    let args = &graph.node(reader).args;
    let first = args.first() == Some(&value) && args.get(1) != Some(&value);
    (first && other_need(graph, value, reader).is_none()).then_some(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn found(body: &str) -> Vec<Finding> {
        let text = format!(
            "graph g {{ %x = input \"x\" : f32[T, 8] %v = weight \"v\" : f32[3, 8] %w = weight \"w\" : f32[5, 8] {body} }}"
        );
        let found = find(&parse(&text).unwrap());
        found
            .iter()
            .flat_map(|finding| &finding.change)
            .for_each(|change| verify(&change.graph).unwrap());
        found
    }

    fn refusal(body: &str) -> String {
        found(body).remove(0).change.unwrap_err()
    }

    const TWO: &str =
        "%a = einsum \"t d, q d -> t q\" %x, %v : f32[T, 3] %b = einsum \"t e, r e -> t r\" %x, %w : f32[T, 5]";

    #[test]
    fn two_become_one_with_their_biases() {
        let body = format!(
            "%i = weight \"i\" : f32[3] %j = weight \"j\" : f32[5] {TWO}
            %c = add %a, %i : f32[T, 3] %d = add %b, %j : f32[T, 5] output \"c\" %c output \"d\" %d"
        );
        let change = found(&body).remove(0).change.unwrap();
        assert_eq!(change.words, "a and b are slices of x · (v | w)");
        let text = change.graph.to_string();
        for line in [
            "%v_w = concat axis=0 %v, %w : f32[8, 8]",
            "%a_b = einsum \"t d, q d -> t q\" %x, %v_w : f32[T, 8]",
            "%c_d = add %a_b, %i_j : f32[T, 8]",
            "%c = slice axis=1 start=0 len=3 %c_d : f32[T, 3]",
            "%d = slice axis=1 start=3 len=5 %c_d : f32[T, 5]",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_third_joins_and_slices_stay_slices_of_one() {
        let body = format!(
            "{TWO} %u = weight \"u\" : f32[2, 8] %c = einsum \"t d, q d -> t q\" %x, %u : f32[T, 2]
            output \"a\" %a output \"b\" %b output \"c\" %c"
        );
        let two = found(&body).remove(0).change.unwrap().graph;
        let text = find(&two).remove(0).change.unwrap().graph.to_string();
        for line in [
            "%v_w_u = concat axis=0 %v_w, %u : f32[10, 8]",
            "%a = slice axis=1 start=0 len=3 %a_b_c : f32[T, 3]",
            "%b = slice axis=1 start=3 len=5 %a_b_c : f32[T, 5]",
            "%c = slice axis=1 start=8 len=2 %a_b_c : f32[T, 2]",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("einsum").count(), 1, "{text}");
    }

    #[test]
    fn equal_shapes_merge_along_the_innermost_free_dimension() {
        let body = "%k = weight \"k\" : f32[2, 3, 8] %l = weight \"l\" : f32[2, 3, 8]
            %a = einsum \"t d, h n d -> t h n\" %x, %k : f32[T, 2, 3] %b = einsum \"t d, h n d -> t h n\" %x, %l : f32[T, 2, 3]
            output \"a\" %a output \"b\" %b";
        let text = found(body).remove(0).change.unwrap().graph.to_string();
        assert!(text.contains("%k_l = concat axis=1 %k, %l : f32[2, 6, 8]"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let two = |second: &str| {
            format!("%a = einsum \"t d, q d -> t q\" %x, %v : f32[T, 3] {second} output \"a\" %a output \"b\" %b")
        };
        assert_eq!(
            refusal(&two("%b = einsum \"t d, q d -> q t\" %x, %w : f32[5, T]")),
            "`a` is t d, q d -> t q, `b` is t d, q d -> q t"
        );
        assert_eq!(
            refusal(&two("%b = einsum \"t d, q d -> t q\" %x, %w : bf16[T, 5]")),
            "`a` is f32, `b` is bf16"
        );
        assert_eq!(
            refusal(&two(
                "%u = weight \"u\" : bf16[5, 8] %b = einsum \"t d, q d -> t q\" %x, %u : f32[T, 5]"
            )),
            "`v` is f32, `u` is bf16"
        );
        assert_eq!(
            refusal(&two(
                "%u = einsum \"t q, t d -> q d\" %a, %x : f32[3, 8] %b = einsum \"t d, q d -> t q\" %x, %u : f32[T, 3]"
            )),
            "`u` depends on `a`"
        );
        let three = "%k = weight \"k\" : f32[2, 3, 8] %l = weight \"l\" : f32[4, 5, 8]
            %a = einsum \"t d, h n d -> t h n\" %x, %k : f32[T, 2, 3] %b = einsum \"t d, h n d -> t h n\" %x, %l : f32[T, 4, 5]
            output \"a\" %a output \"b\" %b";
        assert_eq!(refusal(three), "`k` and `l` differ in more than one dimension");
        let summed = "%a = einsum \"t d, q d -> t\" %x, %v : f32[T] %b = einsum \"t d, q d -> t\" %x, %w : f32[T]
            output \"a\" %a output \"b\" %b";
        assert_eq!(
            refusal(summed),
            "no dimension of `v` and `w` alone is left in the results"
        );
        assert_eq!(
            refusal(&two("%b = einsum \"t d, q d -> t q\" %x, %v : f32[T, 3]")),
            "both read `v`"
        );
        assert_eq!(
            refusal(&two(
                "%b = einsum \"t d, q d -> t q\" %x, %w : f32[T, 5] output \"w\" %w"
            )),
            "`w` is also the output \"w\", so it would be in memory twice"
        );
        let unknown = "%k = input \"k\" : f32[S, 8] %l = input \"l\" : f32[S, 8]
            %a = einsum \"t d, s d -> t s\" %x, %k : f32[T, S] %b = einsum \"t d, s d -> t s\" %x, %l : f32[T, S]
            output \"a\" %a output \"b\" %b";
        assert_eq!(refusal(unknown), "dimension 0 of `k` and `l` is known at launch only");
    }
}

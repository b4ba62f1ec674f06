//! A contraction of which only slices are read becomes a contraction for each slice: a slice of x·W along a dimension that
//! comes from W alone is x·(a slice of W), which is a view where W is in memory. And back, where the slices are neighbours.

use super::edit::{Edit, adjacent};
use super::merge::{merged, pairs};
use super::rule::{Change, Finding};
use crate::graph::{Graph, Op, ValueId};

/// Every contraction of which slices are read, and every pair of contractions with neighbouring slices of one value.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let mut found = Vec::new();
    for value in graph.values() {
        let sliced = |&user: &ValueId| matches!(graph.node(user).op, Op::Slice { .. });
        if matches!(graph.node(value).op, Op::Einsum(_)) && graph.users(value).iter().any(sliced) {
            found.push(Finding::new(graph, &[value], split(graph, value)));
        }
    }
    for pair in pairs(graph) {
        let Some([a, b]) = pair.others(graph) else { continue };
        let axes = 0..graph.ty(a).shape.len();
        if axes.into_iter().any(|axis| adjacent(graph, axis, a, b).is_some()) {
            found.push(Finding::new(graph, &pair.of, merged(graph, &pair)));
        }
    }
    found
}

/// The graph with a contraction in the place of each slice of `value`.
fn split(graph: &Graph, value: ValueId) -> Result<Change, String> {
    let node = graph.node(value);
    let Op::Einsum(spec) = &node.op else {
        return Err("only contractions are split".to_string());
    };
    let slices = slices(graph, value)?;
    let axis = slices[0].axis;
    let label = &spec.out[axis];
    let place = |labels: &[String]| labels.iter().position(|l| l == label);
    let (operand, cut) = match (place(&spec.a), place(&spec.b)) {
        (Some(cut), None) => (0, cut),
        (None, Some(cut)) => (1, cut),
        _ => return Err(format!("`{label}` of `{}` is a dimension of both operands", node.name)),
    };
    let other = node.args[operand];
    let mut edit = Edit::new(graph);
    for slice in &slices {
        let name = edit.joined_name(other, slice.value);
        let op = Op::Slice {
            axis: cut,
            start: slice.start,
            len: slice.len,
        };
        let part = edit.push(&name, op, &[other], graph.ty(other).dtype);
        let mut args = node.args.clone();
        args[operand] = part.ok_or("the slice does not fit the operand")?;
        edit.set(slice.value, node.op.clone(), &args)
            .ok_or("the slice does not fit the operand")?;
    }
    let names = slices.iter().map(|slice| graph.node(slice.value).name.as_str());
    let other = &graph.node(other).name;
    Ok(Change {
        words: format!(
            "{} by slices of {other}, not of {}",
            names.collect::<Vec<_>>().join(" and "),
            node.name
        ),
        graph: edit.finish(),
    })
}

pub(super) struct Slice {
    pub value: ValueId,
    pub axis: usize,
    pub start: usize,
    pub len: usize,
}

/// The slices that are all that is read of `value`, along one dimension.
pub(super) fn slices(graph: &Graph, value: ValueId) -> Result<Vec<Slice>, String> {
    let name = &graph.node(value).name;
    if graph.is_output(value) {
        return Err(format!("`{name}` is an output"));
    }
    let mut slices: Vec<Slice> = Vec::new();
    for user in graph.users(value) {
        let Op::Slice { axis, start, len } = graph.node(user).op else {
            return Err(format!("`{}` reads the whole of `{name}`", graph.node(user).name));
        };
        if let Some(first) = slices.first().filter(|first| first.axis != axis) {
            let names = [first.value, user].map(|value| graph.node(value).name.as_str());
            return Err(format!(
                "`{}` and `{}` cut `{name}` in two directions",
                names[0], names[1]
            ));
        }
        slices.push(Slice {
            value: user,
            axis,
            start,
            len,
        });
    }
    Ok(slices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn found(body: &str) -> Vec<Finding> {
        let text = format!("graph g {{ %x = input \"x\" : f32[T, 2, 8] %w = weight \"w\" : f32[2, 6, 8] {body} }}");
        find(&parse(&text).unwrap())
    }

    const KV: &str = "%y = einsum \"t h d, h n d -> t h n\" %x, %w : f32[T, 2, 6]
        %k = slice axis=2 start=0 len=2 %y : f32[T, 2, 2] %v = slice axis=2 start=2 len=4 %y : f32[T, 2, 4]";

    #[test]
    fn slices_move_onto_the_weight_and_back() {
        let body = format!("{KV} output \"k\" %k output \"v\" %v");
        let change = found(&body).remove(0).change.unwrap();
        verify(&change.graph).unwrap();
        assert_eq!(change.words, "k and v by slices of w, not of y");
        let text = change.graph.to_string();
        for line in [
            "%w_k = slice axis=1 start=0 len=2 %w : f32[2, 2, 8]",
            "%k = einsum \"t h d, h n d -> t h n\" %x, %w_k : f32[T, 2, 2]",
            "%v = einsum \"t h d, h n d -> t h n\" %x, %w_v : f32[T, 2, 4]",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let back = find(&change.graph).remove(0).change.unwrap();
        verify(&back.graph).unwrap();
        let text = back.graph.to_string();
        let line = "%k_v = einsum \"t h d, h n d -> t h n\" %x, %w : f32[T, 2, 6]";
        assert!(text.contains(line) && !text.contains("concat"), "{text}");
    }

    #[test]
    fn what_is_read_otherwise_stays() {
        let refusal = |body: &str| found(&format!("{body} output \"k\" %k")).remove(0).change.unwrap_err();
        assert_eq!(refusal(&format!("{KV} output \"y\" %y")), "`y` is an output");
        let whole = format!("{KV} %s = softmax %y : f32[T, 2, 6] output \"s\" %s");
        assert_eq!(refusal(&whole), "`s` reads the whole of `y`");
        let across = format!("{KV} %h = slice axis=1 start=0 len=1 %y : f32[T, 1, 6] output \"h\" %h output \"v\" %v");
        assert_eq!(refusal(&across), "`k` and `h` cut `y` in two directions");
        let heads = "%y = einsum \"t h d, h n d -> t h n\" %x, %w : f32[T, 2, 6] %k = slice axis=1 start=0 len=1 %y : f32[T, 1, 6]";
        assert_eq!(refusal(heads), "`h` of `y` is a dimension of both operands");
    }
}
